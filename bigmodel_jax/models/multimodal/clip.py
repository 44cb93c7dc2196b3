"""CLIP: a tower for images and a tower for their captions, whose outputs are compared by their cosine.

Source: Radford et al. (2021), arXiv:2103.00020; what the paper leaves open (where the norms are, how weights are drawn)
is as in its released code. With `logit_bias` it is the model of SigLIP's loss (Zhai et al., 2023, arXiv:2303.15343).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bigmodel_jax import config, precision
from bigmodel_jax.data import batches
from bigmodel_jax.kernels import context as contexts
from bigmodel_jax.layers import activations, attention, blocks, embeddings, ffn, norms, positions, stacks
from bigmodel_jax.layers.base import weights
from bigmodel_jax.models import classifiers, model, vit


class Temperature(NamedTuple):
    """What turns a cosine into a logit: exp(log_scale) * cosine + bias."""

    log_scale: jax.Array  # [] float32
    bias: jax.Array | None = None  # [] float32


# ---- configs ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionTower:
    """A ViT without a classifier, with a norm before its first block."""

    patch: config.Positive  # Side, in pixels.
    width: config.Positive  # D
    layers: config.Positive  # L
    block: blocks.Block
    positions: positions.Positions  # Of the class token, if there is one, and the patches row by row.
    pooling: vit.ImagePooling = vit.ClassToken()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTower:
    """A causal Transformer over a caption; its vector is that of the token that ends it, after which all is padding."""

    vocab: config.Positive
    width: config.Positive  # D
    layers: config.Positive  # L
    block: blocks.Block
    positions: positions.Positions
    embedding: embeddings.Embedding = embeddings.Embedding()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip(model.Model):
    """Two towers, either of which works alone once they are trained.

    Batch: 'image' [B, Y, X, Z] float32; 'caption' [B, T] int32 and 'caption_end' [B] int32, the position of the token
    that ends the caption. Outputs: 'image_embedding' and 'text_embedding' [B, D] float32, of length 1, where there are
    such inputs.
    """

    vision: VisionTower
    text: TextTower
    embed: config.Positive  # D of both embeddings.
    logit_scale: config.PositiveFloat = 1 / 0.07  # Of the cosines, initially (section 2.5).
    logit_bias: config.Real | None = None  # Initial; None: there is none. SigLIP's is -10, with a scale of 10.
    dtype: model.Dtype = 'float32'
    stack: stacks.Stack = stacks.Stack()

    def build(self, name: str | None = None) -> nn.Module:
        model.check_dtype(self.dtype)
        return (ClipModule if self.logit_bias is None else BiasedClipModule)(self, name=name)

    def check(self, fields: Mapping[str, batches.Field]) -> None:
        if 'image' not in fields and 'caption' not in fields:
            model.need(fields, 'image', 'Clip')
        if 'image' in fields:
            rows, columns, _ = classifiers.image(fields, 'Clip')
            length = vit.check_patches((rows, columns), self.vision, where='model.vision')
            self.vision.block.check(self.vision.width, length)
        if 'caption' in fields:
            model.need(fields, 'caption_end', 'Clip')
            self._check_captions(fields['caption'])

    def _check_captions(self, field: batches.Field) -> None:
        known, (length,), of = self.text.positions.length, field.shape, self.text
        if known is not None and length > known:
            raise config.InputError(
                f'model.text.positions.length={known}, but captions have {length} tokens; use data.length={known} or '
                'more positions.'
            )
        if field.upper_bound is not None and field.upper_bound > of.vocab:
            raise config.InputError(
                f'model.text.vocab={of.vocab} is too small: the tokenizer has {field.upper_bound} tokens.'
            )
        of.block.check(of.width, length)

    def outputs(self, fields: Mapping[str, batches.Field]) -> Mapping[str, model.Output]:
        of = {'image': 'image_embedding', 'caption': 'text_embedding'}
        dtype = np.dtype(precision.sums(jnp.dtype(self.dtype)))
        return {name: model.Output((self.embed,), ('embed',), dtype) for field, name in of.items() if field in fields}

    def first_filters(self, params: model.PyTree) -> jax.Array:
        return params['vision']['patches']['kernel']


# ---- modules ------------------------------------------------------------------------------------------------------


def _context(length: int) -> contexts.Context:
    here_BT = jnp.arange(length)[None]
    return contexts.Context(here_BT, here_BT, order=contexts.PositionOrder.CONTIGUOUS)


class VisionTowerModule(nn.Module):
    """Owns the patches' matrix, the class token, the positions, the blocks, and a norm before and after them."""

    config: VisionTower
    stack: stacks.Stack

    @nn.compact
    def __call__(self, images_BYXZ: jax.Array) -> jax.Array:
        """[B, D]."""
        c = self.config
        patches_BTD = vit.PatchesModule(c.patch, c.width, bias=False, name='patches')(images_BYXZ)
        x_BTD = c.positions.build('positions').embed(c.pooling.enter(self, patches_BTD), None)
        x_BTD = c.block.residual.norm.build('input_norm')(x_BTD)
        x_BTD, _ = self.stack.build((c.block,), c.layers, 'blocks')(x_BTD, _context(x_BTD.shape[1]))
        return c.block.residual.norm.build('norm')(c.pooling.leave(x_BTD))


class TextTowerModule(nn.Module):
    """Owns the embeddings of tokens and positions, the blocks and the last norm."""

    config: TextTower
    stack: stacks.Stack
    dtype: str

    @nn.compact
    def __call__(self, tokens_BT: jax.Array, ends_B: jax.Array) -> jax.Array:
        """[B, D]: what the token at its end has seen of a caption."""
        c = self.config
        embedding = c.embedding.build(c.vocab, c.width, self.dtype, 'embedding')
        x_BTD = embedding.finish(c.positions.build('positions').embed(embedding(tokens_BT), None))
        x_BTD, _ = self.stack.build((c.block,), c.layers, 'blocks')(x_BTD, _context(x_BTD.shape[1]))
        x_BD = jnp.take_along_axis(x_BTD, ends_B[:, None, None], axis=1)[:, 0]
        return c.block.residual.norm.build('norm')(x_BD)


class ClipModule(nn.Module):
    """Owns the towers, a matrix for the output of each, and the logarithm of the scale of the logits."""

    config: Clip

    def setup(self) -> None:
        c = self.config
        self.vision = VisionTowerModule(c.vision, c.stack)
        self.text = TextTowerModule(c.text, c.stack, c.dtype)
        self.image_projection_DF = self._projection('image_projection', c.vision.width)
        self.text_projection_DF = self._projection('text_projection', c.text.width)
        dtype = precision.sums(jnp.dtype(c.dtype))
        self.logit_scale = weights.vector(self, 'logit_scale', {}, value=math.log(c.logit_scale), dtype=dtype)

    def _projection(self, name: str, width: int) -> jax.Array:
        axes, init = {'embed': width, 'outputs': self.config.embed}, weights.FanIn()
        return weights.weight(self, name, axes, init=init, inputs=('embed',), dtype=jnp.dtype(self.config.dtype))

    def __call__(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The embeddings of what is in the batch."""
        found = {}
        if 'image' in batch:
            found['image_embedding'] = self.embed_images(batch['image'])
        if 'caption' in batch:
            found['text_embedding'] = self.embed_captions(batch['caption'], batch['caption_end'])
        return found

    def embed_images(self, images_BYXZ: jax.Array) -> jax.Array:
        """[B, D] of length 1, float32 or float64."""
        x_BD = self.vision(images_BYXZ.astype(self.config.dtype))
        return unit(jnp.einsum('BD,DF->BF', x_BD, self.image_projection_DF))

    def embed_captions(self, tokens_BT: jax.Array, ends_B: jax.Array) -> jax.Array:
        """[B, D] of length 1, float32 or float64."""
        x_BD = self.text(tokens_BT, ends_B)
        return unit(jnp.einsum('BD,DF->BF', x_BD, self.text_projection_DF))

    def temperature(self) -> Temperature:
        """What makes logits of cosines."""
        return Temperature(self.logit_scale)


class BiasedClipModule(ClipModule):
    """Owns a bias of the logits too."""

    def setup(self) -> None:
        super().setup()
        value, dtype = self.config.logit_bias or 0.0, precision.sums(jnp.dtype(self.config.dtype))
        self.logit_bias = weights.vector(self, 'logit_bias', {}, value=value, dtype=dtype)

    def bias(self) -> jax.Array:
        """[] of the logits."""
        return self.logit_bias

    def temperature(self) -> Temperature:
        return Temperature(self.logit_scale, self.bias())


def unit(x: jax.Array) -> jax.Array:
    """[..., D] of length 1, float32 or float64."""
    x = precision.raised(x)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


# ---- sizes --------------------------------------------------------------------------------------------------------


def clip_block(*, width: int, layers: int, heads: int | None, causal: bool) -> blocks.Block:
    """A block of either tower: F = 4 D, heads of 64 channels where nothing else is said, weights as in the code."""
    return blocks.Block(
        mixer=attention.Attention(
            heads=heads or width // 64,
            causal=causal,
            bias=True,
            init=weights.FanIn(),
            out_init=weights.FanIn(scale=0.5 / layers),
        ),
        ffn=ffn.Mlp(
            hidden=4 * width,
            activation=activations.QuickGelu(),
            bias=True,
            init=weights.FanIn(scale=0.5),
            out_init=weights.FanIn(scale=2 / layers),
        ),
        residual=blocks.PreNorm(norm=norms.LayerNorm()),
    )


def vision_tower(*, patch: int, width: int, layers: int, image: int = 224, heads: int | None = None) -> VisionTower:
    """A tower for square images of side `image`."""
    drawn = weights.Normal(stddev=width**-0.5)
    return VisionTower(
        patch=patch,
        width=width,
        layers=layers,
        block=clip_block(width=width, layers=layers, heads=heads, causal=False),
        positions=positions.Learned(length=(image // patch) ** 2 + 1, init=drawn),
        pooling=vit.ClassToken(init=drawn),
    )


def text_tower(
    *, width: int, layers: int = 12, vocab: int = 49_408, length: int = 77, heads: int | None = None
) -> TextTower:
    """A tower for captions of `length` tokens; by default of CLIP's own vocabulary."""
    return TextTower(
        vocab=vocab,
        width=width,
        layers=layers,
        block=clip_block(width=width, layers=layers, heads=heads, causal=True),
        positions=positions.Learned(length=length, init=weights.Normal(stddev=0.01)),
    )


def clip(*, vision: VisionTower, text: TextTower, embed: int, **changes: Any) -> Clip:
    """CLIP of these towers."""
    return config.vary(Clip(vision=vision, text=text, embed=embed), changes)


BASE, LARGE = {'width': 768, 'layers': 12}, {'width': 1_024, 'layers': 24}
# Table 20. L/14@336 is L/14 at a higher resolution.
CLIP_B32 = clip(vision=vision_tower(patch=32, **BASE), text=text_tower(width=512), embed=512)
CLIP_B16 = clip(vision=vision_tower(patch=16, **BASE), text=text_tower(width=512), embed=512)
CLIP_L14 = clip(vision=vision_tower(patch=14, **LARGE), text=text_tower(width=768), embed=768)
CLIP_L14_336 = clip(vision=vision_tower(patch=14, **LARGE, image=336), text=text_tower(width=768), embed=768)
