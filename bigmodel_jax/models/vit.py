"""ViT: a Transformer over the patches of an image.

Source: Dosovitskiy et al. (2020), arXiv:2010.11929; what the paper leaves open (epsilon, how weights are drawn) is as
in its released code.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.kernels import context as contexts
from bigmodel_jax.layers import activations, attention, blocks, ffn, image_positions, norms, positions, stacks
from bigmodel_jax.layers.base import dropout, weights
from bigmodel_jax.models import classifiers, model

NORM = norms.LayerNorm(epsilon=1e-6)


# ---- one vector for an image ------------------------------------------------------------------------------------


class ImagePooling:
    """Interface: how the vector of an image comes about."""

    extra: int = 0  # Positions before those of the patches.

    def enter(self, module: nn.Module, patches_BTD: jax.Array) -> jax.Array:
        """The tokens of the first layer, of the patches; `module` owns what it needs."""
        return patches_BTD

    def leave(self, x_BTD: jax.Array) -> jax.Array:
        """[B, D], of the tokens after the last norm."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassToken(ImagePooling):
    """A learned token before the patches, which collects what the class depends on (equation 4)."""

    init: weights.Initializer = weights.Normal(stddev=0.0)

    extra = 1

    def enter(self, module: nn.Module, patches_BTD: jax.Array) -> jax.Array:
        B, _, D = patches_BTD.shape
        axes, dtype = {'types': 1, 'embed': D}, patches_BTD.dtype
        token_TD = weights.weight(module, 'class_token', axes, init=self.init, inputs=('types',), dtype=dtype)
        return jnp.concatenate([jnp.broadcast_to(token_TD, (B, 1, D)), patches_BTD], axis=1)

    def leave(self, x_BTD: jax.Array) -> jax.Array:
        return x_BTD[:, 0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanPooling(ImagePooling):
    """The mean over the patches (appendix D.3)."""

    def leave(self, x_BTD: jax.Array) -> jax.Array:
        return x_BTD.mean(axis=1)


def check_patches(size: tuple[int, int], of: Any, *, where: str) -> int:
    """How many positions an image of `size` pixels has.

    Args:
      of: a config with `patch`, `positions` and `pooling`; `where` it is in the experiment.

    Raises:
      InputError: they do not fit the image.
    """
    (rows, columns), known = size, of.positions
    if rows % of.patch or columns % of.patch:
        raise config.InputError(
            f'{where}.patch={of.patch} does not divide the {rows} x {columns} pixels of the images.'
        )
    grid = (rows // of.patch, columns // of.patch)
    length: int = grid[0] * grid[1] + of.pooling.extra
    if known.length is not None and known.length != length:
        raise config.InputError(
            f'{where}.positions.length={known.length}, but an image of {rows} x {columns} pixels has '
            f'{grid[0]} x {grid[1]} patches, with the class token {length} positions; use {length}.'
        )
    if isinstance(known, image_positions.GridSinusoids) and (known.rows, known.columns) != grid:
        raise config.InputError(
            f'{where}.positions has {known.rows} x {known.columns} patches, but an image has {grid[0]} x {grid[1]}.'
        )
    return length


# ---- the model --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vit(model.Model):
    """Patches as tokens, a stack of bidirectional blocks, and a matrix. Batch: 'image' [B, Y, X, Z] float32."""

    patch: config.Positive  # Side, in pixels.
    width: config.Positive  # D
    layers: config.Positive  # L
    block: blocks.Block
    positions: positions.Positions  # Of the class token, if there is one, and the patches row by row.
    classes: config.Positive
    pooling: ImagePooling = ClassToken()
    head: config.Positive | None = None  # Units, with tanh, before the matrix: the head of pretraining (section 3.1).
    dropout: config.Probability = 0.0  # On the sum of patches and positions.
    # Of the matrix of the classes. Deviation 0 is the paper's, in pretraining and fine-tuning.
    output_init: weights.Initializer = weights.Normal(stddev=0.0)
    dtype: model.Dtype = 'float32'
    stack: stacks.Stack = stacks.Stack()

    def build(self, name: str | None = None) -> nn.Module:
        model.check_dtype(self.dtype)
        return VitModule(self, name=name)

    def check(self, fields: Mapping[str, batches.Field]) -> None:
        rows, columns, _ = classifiers.image(fields, 'Vit')
        length = check_patches((rows, columns), self, where='model')
        self.block.check(self.width, length)
        classifiers.check_labels(fields, self.classes)

    def outputs(self, fields: Mapping[str, batches.Field]) -> Mapping[str, model.Output]:
        return classifiers.logits(self.classes, self.dtype)

    def first_filters(self, params: model.PyTree) -> jax.Array:
        return params['patches']['kernel']


class PatchesModule(nn.Module):
    """Owns a matrix for the pixels of a patch and its bias, if any: a convolution whose stride is its kernel."""

    patch: int
    width: int
    initializer: weights.Initializer = weights.FanIn()
    bias: bool = True

    @nn.compact
    def __call__(self, x_BYXZ: jax.Array) -> jax.Array:
        """[B, T, D], the patches row by row; a patch holds its pixels row by row, and each its channels."""
        (B, Y, X, Z), side, dtype = x_BYXZ.shape, self.patch, x_BYXZ.dtype
        cut = x_BYXZ.reshape(B, Y // side, side, X // side, side, Z).swapaxes(2, 3)
        patches_BTP = cut.reshape(B, -1, side * side * Z)
        axes = {'rows': side, 'columns': side, 'channels': Z, 'embed': self.width}
        pixels = ('rows', 'columns', 'channels')
        kernel_YXZD = weights.weight(self, 'kernel', axes, init=self.initializer, inputs=pixels, dtype=dtype)
        kernel_PD = kernel_YXZD.reshape(-1, self.width)
        x_BTD = jnp.einsum('BTP,PD->BTD', patches_BTP, kernel_PD)
        if not self.bias:
            return x_BTD
        return x_BTD + weights.vector(self, 'bias', {'embed': self.width}, value=0.0, dtype=dtype)


class VitModule(nn.Module):
    """Owns the patches' matrix, the class token, the positions, the blocks, the last norm and the head."""

    config: Vit

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """{'logits': [B, V]}."""
        c = self.config
        images_BYXZ = batch['image'].astype(c.dtype)
        x_BTD = c.pooling.enter(self, PatchesModule(c.patch, c.width, name='patches')(images_BYXZ))
        x_BTD = c.positions.build('positions').embed(x_BTD, None)
        x_BTD = dropout.drop(self, x_BTD, c.dropout)
        here_BT = jnp.arange(x_BTD.shape[1])[None]
        context = contexts.Context(here_BT, here_BT, order=contexts.PositionOrder.CONTIGUOUS)
        x_BTD, _ = c.stack.build((c.block,), c.layers, 'blocks')(x_BTD, context)
        x_BD = c.pooling.leave(c.block.residual.norm.build('norm')(x_BTD))
        if c.head is not None:
            axes, init = {'embed': c.width, 'hidden': c.head}, weights.FanIn()
            head_DF = weights.weight(self, 'head', axes, init=init, inputs=('embed',), dtype=x_BD.dtype)
            bias_F = weights.vector(self, 'head_bias', {'hidden': c.head}, value=0.0, dtype=x_BD.dtype)
            x_BD = jnp.tanh(jnp.einsum('BD,DF->BF', x_BD, head_DF) + bias_F)
        return {'logits': classifiers.ClassesModule(c.classes, initializer=c.output_init, name='classes')(x_BD)}


# ---- sizes ------------------------------------------------------------------------------------------------------


def vit(*, patch: int, width: int, layers: int, heads: int, image: int = 224, **changes: Any) -> Vit:
    """ViT of any size for square images: F = 4 D, exact GELU, learned positions, a class token."""
    xavier = weights.Xavier()
    block = blocks.Block(
        mixer=attention.Attention(heads=heads, causal=False, bias=True, init=xavier),
        ffn=ffn.Mlp(hidden=4 * width, activation=activations.Gelu(approximate=False), bias=True, init=xavier),
        residual=blocks.PreNorm(norm=NORM),
    )
    learned = positions.Learned(length=(image // patch) ** 2 + 1)
    base = Vit(patch=patch, width=width, layers=layers, block=block, positions=learned, classes=1_000)
    return config.vary(base, changes)


BASE = {'width': 768, 'layers': 12, 'heads': 12}
LARGE = {'width': 1_024, 'layers': 24, 'heads': 16}
HUGE = {'width': 1_280, 'layers': 32, 'heads': 16}
# Table 1, with the 1,000 classes of ImageNet.
VIT_B16, VIT_B32 = vit(patch=16, **BASE), vit(patch=32, **BASE)
VIT_L16, VIT_L32 = vit(patch=16, **LARGE), vit(patch=32, **LARGE)
VIT_H14 = vit(patch=14, **HUGE)
# Touvron et al. (2020), arXiv:2012.12877, table 1.
DEIT_TI16 = vit(patch=16, width=192, layers=12, heads=3)
DEIT_S16 = vit(patch=16, width=384, layers=12, heads=6)
