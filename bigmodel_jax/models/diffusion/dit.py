"""DiT: a Transformer over the patches of a noised image, told the level of noise and the class by its norms.

Source: Peebles and Xie (2022), arXiv:2212.09748, with the adaLN-Zero block of section 3.2; what the paper leaves open
(epsilon, how weights are drawn, the embeddings of time and positions) is as in its released code.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import ad_checkpoint

from bigmodel_jax import config, precision
from bigmodel_jax.data import batches
from bigmodel_jax.kernels import context as contexts
from bigmodel_jax.layers import activations, attention, ffn, image_positions, norms, stacks
from bigmodel_jax.layers.base import dropout, intermediates, layer, weights
from bigmodel_jax.models import classifiers, model, vit
from bigmodel_jax.models.diffusion import times
from bigmodel_jax.parallel import lookup, sharding

EPSILON = 1e-6
ZERO = weights.Normal(stddev=0.0)
EMBEDDED = weights.Normal(stddev=0.02)  # Of times and classes.


# ---- mathematics ------------------------------------------------------------------------------------------------


def modulate(x_BTD: jax.Array, shift_BD: jax.Array, scale_BD: jax.Array, *, epsilon: float = EPSILON) -> jax.Array:
    """A layer norm without weights, whose scale and shift are those of the image (section 3.2, adaLN)."""
    y_BTD = norms.layer_norm(x_BTD, epsilon=epsilon).astype(x_BTD.dtype)
    return y_BTD * (1 + scale_BD[:, None]) + shift_BD[:, None]


def unpatch(x_BTP: jax.Array, grid: image_positions.Grid, patch: int) -> jax.Array:
    """[B, Y, X, Z] of patches row by row, each of which holds its pixels row by row, and each its channels."""
    B, (rows, columns) = len(x_BTP), grid
    cut = x_BTP.reshape(B, rows, columns, patch, patch, -1).swapaxes(2, 3)
    return cut.reshape(B, rows * patch, columns * patch, -1)


# ---- config -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """How the level of noise and the class become one vector: the sum of an embedding of each."""

    width: config.Positive = 256  # Of the sines and cosines of the time,
    base: config.AboveOne = 10_000.0  # the longest of which has a period of about 2 pi times this.
    inclusive: bool = False  # The last frequency is 1 / base: see times.waves().
    # Times are multiplied by this. Steps of 0 .. 999 fit those periods; EDM's times are only -2 to 2.
    scale: config.PositiveFloat = 1.0
    # Each block has an embedding of its own, as in diffusers' layout; that of the first is the last norm's too.
    of_each_block: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class DitBlock(layer.Layer):
    """Attention and a feed-forward layer. The image's condition shifts and scales what each reads, and scales what it
    adds to the residual stream: by 0 at the beginning (adaLN-Zero)."""

    mixer: attention.Attention
    ffn: ffn.Ffn
    dropout: config.Probability = 0.0
    ffn_epsilon: config.PositiveFloat = EPSILON  # Of the norm before the feed-forward layer.

    def build(self, name: str | None = None) -> nn.Module:
        return DitBlockModule(self, name=name)

    def check(self, width: int, length: int) -> None:
        self.mixer.check(width, length)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingBlock(layer.Layer):
    """A block with an embedding of its own; see Condition.of_each_block."""

    block: DitBlock
    condition: Condition
    classes: config.Positive | None

    def build(self, name: str | None = None) -> nn.Module:
        return EmbeddingBlockModule(self, name=name)

    def check(self, width: int, length: int) -> None:
        self.block.check(width, length)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dit(model.Model):
    """Patches of a noised image as tokens, a stack of conditioned blocks, and a matrix back to pixels.

    Batch and outputs: see objectives/diffusion/denoising.py. The prediction is 0 at the beginning.
    """

    patch: config.Positive  # Side, in pixels.
    width: config.Positive  # D
    layers: config.Positive  # L
    block: DitBlock
    image: tuple[config.Positive, config.Positive, config.Positive] = (32, 32, 4)  # Rows, columns and channels.
    classes: config.Positive | None = 1_000  # None: unconditional.
    variance: bool = True  # The network also says the variance of a step: twice as many channels come out.
    condition: Condition = Condition()
    dtype: model.Dtype = 'float32'
    stack: stacks.Stack = stacks.Stack()

    def build(self, name: str | None = None) -> nn.Module:
        model.check_dtype(self.dtype)
        return DitModule(self, name=name)

    def check(self, fields: Mapping[str, batches.Field]) -> None:
        rows, columns, _ = shape = classifiers.image(fields, 'Dit')
        if shape != self.image:
            raise config.InputError(f'model.image={self.image}, but the images of the data are {shape}; use these.')
        if rows % self.patch or columns % self.patch:
            raise config.InputError(
                f'model.patch={self.patch} does not divide the {rows} x {columns} pixels of the images.'
            )
        if self.width % 4:
            raise config.InputError(f'model.width={self.width} is no multiple of 4, as the positions of patches need.')
        if self.condition.width % 2:
            raise config.InputError(
                f'model.condition.width={self.condition.width} is odd; half of it are sines and half cosines.'
            )
        self.block.check(self.width, rows // self.patch * (columns // self.patch))
        if self.classes is not None:
            model.need(fields, 'labels', 'Dit with classes')
            classifiers.check_labels(fields, self.classes)

    def outputs(self, fields: Mapping[str, batches.Field]) -> Mapping[str, model.Output]:
        *size, channels = fields['image'].shape
        shape, axes = (*size, channels * (2 if self.variance else 1)), ('height', 'width', 'channels')
        return {'prediction': model.Output(shape, axes, np.dtype(precision.sums(jnp.dtype(self.dtype))))}

    def first_filters(self, params: model.PyTree) -> jax.Array:
        return params['patches']['kernel']


# ---- modules ----------------------------------------------------------------------------------------------------


class Told(NamedTuple):
    """What the model is told of each image."""

    times_B: jax.Array
    labels_B: jax.Array | None


class Conditioned(NamedTuple):
    """What all blocks read alike."""

    context: contexts.Context
    condition_BD: jax.Array  # The sum of the embeddings of time and class, after SiLU; 0 where each block has its own.
    told: Told


class ModulationModule(nn.Module):
    """Owns a matrix and a bias of zeros: from the condition to so many vectors of the model's width."""

    parts: int

    @nn.compact
    def __call__(self, condition_BD: jax.Array) -> list[jax.Array]:
        D, dtype = condition_BD.shape[-1], condition_BD.dtype
        axes = {'embed': D, 'parts': self.parts, 'hidden': D}
        weight_DCF = weights.weight(self, 'weight', axes, init=ZERO, inputs=('embed',), dtype=dtype)
        bias_CF = weights.vector(self, 'bias', {'parts': self.parts, 'hidden': D}, value=0.0, dtype=dtype)
        found_BCF = jnp.einsum('BD,DCF->BCF', condition_BD, weight_DCF) + bias_CF
        return [found_BCF[:, part] for part in range(self.parts)]


class DitBlockModule(nn.Module):
    """Owns its attention, its feed-forward layer and the matrix of its modulation."""

    config: DitBlock

    @nn.compact
    def __call__(self, x_BTD: jax.Array, given: Conditioned, state: layer.PyTree = None) -> tuple[jax.Array, None]:
        """The residual stream [B, T, D] after this block."""
        c, mixer = self.config, self.config.mixer.build('attention')
        mix, feed = _split(ModulationModule(6, name='modulation')(given.condition_BD))
        x_BTD = ad_checkpoint.checkpoint_name(x_BTD, 'residual_stream')
        y_BTD, _ = mixer(_gathered(modulate(x_BTD, *mix[:2])), given.context, None)
        x_BTD = self._added(x_BTD, y_BTD, mix[2])
        x_BTD = ad_checkpoint.checkpoint_name(x_BTD, 'post_mixer')
        y_BTD = c.ffn.build('ffn')(_gathered(modulate(x_BTD, *feed[:2], epsilon=c.ffn_epsilon)))
        x_BTD = self._added(x_BTD, y_BTD, feed[2])
        intermediates.sow(self, intermediates.RESIDUAL_STREAM, 'after', x_BTD)
        return x_BTD, None

    def _added(self, x_BTD: jax.Array, y_BTD: jax.Array, gate_BD: jax.Array) -> jax.Array:
        """The residual stream after a sublayer that gave `y_BTD`."""
        y_BTD = sharding.constrain(y_BTD, 'batch', 'residual_length', 'embed')
        x_BTD = x_BTD + gate_BD[:, None] * dropout.drop(self, y_BTD, self.config.dropout)
        return sharding.constrain(x_BTD, 'batch', 'residual_length', 'embed')


def _split(parts: list[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
    return parts[:3], parts[3:]


def _gathered(x_BTD: jax.Array) -> jax.Array:
    return sharding.constrain(x_BTD, 'batch', 'residual_length', 'embed')


class ConditionModule(nn.Module):
    """Owns the two matrices of the time's embedding, and the table of the classes, whose last row is that of none."""

    config: Condition
    classes_known: int | None
    width: int

    @nn.compact
    def __call__(self, told: Told, dtype: jnp.dtype) -> jax.Array:
        """[B, D], after SiLU."""
        c, D = self.config, self.width
        scaled_B = precision.raised(told.times_B.astype(dtype)) * c.scale
        waves = times.waves(scaled_B, count=c.width // 2, base=c.base, inclusive=c.inclusive)
        features_BZ = jnp.concatenate(waves, axis=-1)
        weight_ZF, bias_F = self._matrix('time_in', {'channels': c.width, 'hidden': D}, dtype)
        weight_FD, bias_D = self._matrix('time_out', {'hidden': D, 'embed': D}, dtype)
        hidden_BF = jax.nn.silu(jnp.einsum('BZ,ZF->BF', features_BZ.astype(dtype), weight_ZF) + bias_F)
        x_BD = jnp.einsum('BF,FD->BD', hidden_BF, weight_FD) + bias_D
        if self.classes_known is not None:
            axes = {'classes': self.classes_known + 1, 'embed': D}
            table_VD = weights.weight(self, 'classes', axes, init=EMBEDDED, inputs=('embed',), dtype=dtype)
            assert told.labels_B is not None
            x_BD = x_BD + lookup.lookup(table_VD, jnp.where(told.labels_B < 0, self.classes_known, told.labels_B))
        return jax.nn.silu(x_BD)

    def _matrix(self, name: str, axes: dict[str, int], dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
        """A matrix and its bias."""
        from_axis, to_axis = axes
        matrix = weights.weight(self, name, axes, init=EMBEDDED, inputs=(from_axis,), dtype=dtype)
        return matrix, weights.vector(self, f'{name}_bias', {to_axis: axes[to_axis]}, value=0.0, dtype=dtype)


class EmbeddingBlockModule(nn.Module):
    """Owns a block, and its embedding of the condition."""

    config: EmbeddingBlock

    @nn.compact
    def __call__(self, x_BTD: jax.Array, given: Conditioned, state: layer.PyTree = None) -> tuple[jax.Array, None]:
        """As of the block."""
        c, width = self.config, x_BTD.shape[-1]
        condition_BD = ConditionModule(c.condition, c.classes, width, name='condition')(given.told, x_BTD.dtype)
        found: tuple[jax.Array, None] = c.block.build('block')(x_BTD, given._replace(condition_BD=condition_BD), state)
        return found


class DitModule(nn.Module):
    """Owns the patches' matrix, the embeddings of the condition, the blocks, and the last modulation and matrix."""

    config: Dit

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """{'prediction': [B, Y, X, Z or 2 Z]}."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        image_BYXZ = batch['image'].astype(dtype)
        B, Y, X, Z = image_BYXZ.shape
        grid = Y // c.patch, X // c.patch
        patches = vit.PatchesModule(c.patch, c.width, initializer=weights.Xavier(), name='patches')
        placed = image_positions.GridSinusoids(rows=grid[0], columns=grid[1], inclusive=False)
        x_BTD = placed.build('positions').embed(patches(image_BYXZ), None)
        x_BTD = sharding.constrain(x_BTD, 'batch', 'residual_length', 'embed')
        told = Told(batch['times'] if 'times' in batch else jnp.zeros(B, jnp.float32), batch.get('labels'))
        here_BT = jnp.arange(x_BTD.shape[1])[None]
        context = contexts.Context(here_BT, here_BT, order=contexts.PositionOrder.CONTIGUOUS)
        x_BTD, condition_BD = self._blocks(x_BTD, told, context)
        x_BTD = modulate(x_BTD, *ModulationModule(2, name='modulation')(condition_BD))
        axes = {'embed': c.width, 'pixels': c.patch**2 * Z * (2 if c.variance else 1)}
        weight_DP = weights.weight(self, 'output', axes, init=ZERO, inputs=('embed',), dtype=dtype)
        bias_P = weights.vector(self, 'output_bias', {'pixels': axes['pixels']}, value=0.0, dtype=dtype)
        x_BTP = jnp.einsum('BTD,DP->BTP', x_BTD, weight_DP) + bias_P
        return {'prediction': precision.raised(unpatch(x_BTP, grid, c.patch))}

    def _blocks(self, x_BTD: jax.Array, told: Told, context: contexts.Context) -> tuple[jax.Array, jax.Array]:
        """The residual stream after all blocks, and the condition of the last norm."""
        c = self.config
        if not c.condition.of_each_block:
            condition_BD = ConditionModule(c.condition, c.classes, c.width, name='condition')(told, x_BTD.dtype)
            stack = c.stack.build((c.block,), c.layers, 'blocks')
            return stack(x_BTD, Conditioned(context, condition_BD, told))[0], condition_BD
        none_BD = jnp.zeros((len(x_BTD), c.width), x_BTD.dtype)
        own = EmbeddingBlock(block=c.block, condition=c.condition, classes=c.classes)
        x_BTD, _ = c.stack.build((own,), c.layers, 'blocks')(x_BTD, Conditioned(context, none_BD, told))
        stacked = nn.meta.unbox(self.variables['params']['blocks']['layers']['condition'])
        first = jax.tree.map(lambda leaf: leaf[0], stacked)
        module = ConditionModule(c.condition, c.classes, c.width, parent=None)
        condition: Any = module.apply({'params': first}, told, x_BTD.dtype)
        return x_BTD, condition


# ---- sizes ------------------------------------------------------------------------------------------------------


def dit(*, patch: int, width: int, layers: int, heads: int, **changes: Any) -> Dit:
    """DiT of any size: F = 4 D, GELU by tanh, and the initial weights of the released code."""
    xavier = weights.Xavier()
    # The code draws the matrices of query, key and value as one of 3 D outputs.
    three = weights.Times(init=xavier, factor=math.sqrt(0.5))
    block = DitBlock(
        mixer=attention.Attention(heads=heads, causal=False, bias=True, init=three, out_init=xavier),
        ffn=ffn.Mlp(hidden=4 * width, activation=activations.Gelu(), bias=True, init=xavier),
    )
    return config.vary(Dit(patch=patch, width=width, layers=layers, block=block), changes)


SMALL = {'width': 384, 'layers': 12, 'heads': 6}
BASE = {'width': 768, 'layers': 12, 'heads': 12}
LARGE = {'width': 1_024, 'layers': 24, 'heads': 16}
EXTRA_LARGE = {'width': 1_152, 'layers': 28, 'heads': 16}
# Table 1, with the patches of table 4 and the 1,000 classes of ImageNet.
DIT_S2, DIT_S4, DIT_S8 = (dit(patch=patch, **SMALL) for patch in (2, 4, 8))
DIT_B2, DIT_B4, DIT_B8 = (dit(patch=patch, **BASE) for patch in (2, 4, 8))
DIT_L2, DIT_L4, DIT_L8 = (dit(patch=patch, **LARGE) for patch in (2, 4, 8))
DIT_XL2, DIT_XL4, DIT_XL8 = (dit(patch=patch, **EXTRA_LARGE) for patch in (2, 4, 8))
