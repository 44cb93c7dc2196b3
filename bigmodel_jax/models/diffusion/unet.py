"""The UNet of denoising diffusion models: residual blocks with group norm, and attention at some resolutions.

Source: Ho et al. (2020), arXiv:2006.11239, appendix B, and its released code.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bigmodel_jax import config, precision
from bigmodel_jax.data import batches
from bigmodel_jax.kernels import context as contexts
from bigmodel_jax.layers import activations, convolution, norms
from bigmodel_jax.layers import attention as attentions
from bigmodel_jax.layers.base import dropout, weights
from bigmodel_jax.models import classifiers, model
from bigmodel_jax.models.diffusion import times
from bigmodel_jax.parallel import lookup

# ---- mathematics ------------------------------------------------------------------------------------------------


def timestep_embedding(timestep_B: jax.Array, *, width: int, dtype: jnp.dtype) -> jax.Array:
    """[B, D] of `dtype`: sines in the first half of the channels, cosines in the second.

    Source: the released code of Ho et al. (2020), nn.get_timestep_embedding.
    """
    cos_BN, sin_BN = times.waves(timestep_B.astype(dtype), count=width // 2, base=10_000.0, inclusive=True)
    return jnp.concatenate([sin_BN, cos_BN], axis=-1)


def enlarge(x_BYXZ: jax.Array) -> jax.Array:
    """[B, 2 Y, 2 X, Z]: each pixel four times."""
    B, Y, X, Z = x_BYXZ.shape
    return jnp.broadcast_to(x_BYXZ[:, :, None, :, None], (B, Y, 2, X, 2, Z)).reshape(B, 2 * Y, 2 * X, Z)


# ---- configs ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class FanAverage(weights.Initializer):
    """Uniform with variance scale / mean of fan_in and fan_out; of a convolution each fan counts its window.

    Source: the released code of Ho et al. (2020), nn.default_init, whose scale of 0 is 1e-10.
    """

    scale: config.Rate = 1.0

    def draw(self, key: jax.Array, shape: tuple[int, ...], fan_in: int, fan_out: int) -> jax.Array:
        window = math.prod(shape[:2]) if len(shape) == 4 else 1  # [Y, X, Z, F] is a convolution.
        limit = math.sqrt(6.0 * self.scale / (fan_in + window * fan_out))
        return jax.random.uniform(key, shape, jnp.float32, -limit, limit)


INIT, NOTHING = FanAverage(), FanAverage(scale=1e-10)
CLASSES = weights.Normal(stddev=0.02)
ATTENTION = attentions.Attention(heads=1, causal=False, bias=True, init=INIT, out_init=NOTHING)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNet(model.Model):
    """Predicts of a noised image an image of its size.

    Batch: 'image' [B, Y, X, Z] and 'times' [B], both float32; without times they are 0. With classes also 'labels' [B],
    -1 for no class. Output: 'prediction' [B, Y, X, Z], or with `variance` [B, Y, X, 2 Z].

    Level i of the way down has `blocks` residual blocks of channels[i] at 1 / 2^i of the size, and the way up has one
    more, each of which also reads what its counterpart on the way down gave.
    """

    channels: tuple[config.Positive, ...]  # Of each level, the finest first.
    blocks: config.Positive = 2
    attending: tuple[config.NonNegative, ...] = ()  # Levels whose residual blocks are each followed by attention.
    attention: attentions.Attention = ATTENTION  # The middle, at the coarsest level, always has one.
    norm: norms.GroupNorm = norms.GroupNorm(groups=32, epsilon=1e-6)
    activation: activations.Activation = activations.Silu()
    dropout: config.Probability = 0.1  # Before the second convolution of a residual block.
    image_channels: config.Positive = 3  # Z
    classes: config.Positive | None = None  # None: unconditional, as in the paper.
    variance: bool = False  # The network also says the variance of a step: twice as many channels come out.
    dtype: model.Dtype = 'float32'

    def build(self, name: str | None = None) -> nn.Module:
        model.check_dtype(self.dtype)
        return UNetModule(self, name=name)

    def check(self, fields: Mapping[str, batches.Field]) -> None:
        rows, columns, channels = classifiers.image(fields, 'UNet')
        self.check_levels()
        if channels != self.image_channels:
            raise config.InputError(
                f'model.image_channels={self.image_channels}, but the images have {channels} channels; use '
                f'model.image_channels={channels}.'
            )
        factor = 2 ** (len(self.channels) - 1)
        if rows % factor or columns % factor:
            raise config.InputError(
                f'model.channels has {len(self.channels)} levels, each half as large as the one before, so that the '
                f'sides of an image should be multiples of {factor}; they are {rows} and {columns}. Pad the images, or '
                'use fewer levels.'
            )
        if self.classes is not None:
            model.need(fields, 'labels', 'UNet with classes')
            classifiers.check_labels(fields, self.classes)

    def check_levels(self) -> None:
        """Raises InputError if the numbers of channels do not fit the norm, the attention, or the timesteps."""
        if not self.channels or self.channels[0] % 2 or self.channels[0] < 4:
            raise config.InputError(
                f'model.channels={self.channels}: the first level also embeds the timestep in sines and cosines, and '
                'needs an even number of channels, at least 4.'
            )
        unknown = [level for level in self.attending if level >= len(self.channels)]
        if unknown:
            raise config.InputError(
                f'model.attending has level {unknown[0]}, but the levels of model.channels are 0 to '
                f'{len(self.channels) - 1}.'
            )
        read = [each for _, inputs, outputs in self.sizes_up() for each in (inputs, outputs)]
        for count in (*self.channels, *read):
            if count % self.norm.groups:
                raise config.InputError(
                    f'model.norm.groups={self.norm.groups} does not divide the {count} channels that a residual block '
                    f'normalises; use a divisor of all of model.channels={self.channels}.'
                )
        for level in {*self.attending, len(self.channels) - 1}:
            self.attention.check(self.channels[level], 1)

    def outputs(self, fields: Mapping[str, batches.Field]) -> Mapping[str, model.Output]:
        field = model.need(fields, 'image', 'UNet')
        shape = (*field.shape[:-1], self.output_channels)
        return {'prediction': model.Output(shape, field.axes, np.dtype(precision.sums(jnp.dtype(self.dtype))))}

    def first_filters(self, params: model.PyTree) -> jax.Array:
        return params['stem']['kernel']

    @property
    def width(self) -> int:
        """Channels of the coarsest level, which the attention in the middle sees."""
        return self.channels[-1]

    @property
    def output_channels(self) -> int:
        """Z, or 2 Z."""
        return self.image_channels * (2 if self.variance else 1)

    def kept(self) -> list[int]:
        """The channels of what the way down hands to the way up, in the order in which they are made."""
        found = [self.channels[0]]
        for level, channels in enumerate(self.channels):
            found += [channels] * self.blocks
            if level < len(self.channels) - 1:
                found.append(channels)
        return found

    def sizes_up(self) -> list[tuple[int, int, int]]:
        """Of each residual block of the way up: its level, the channels that it reads, and those that it gives."""
        kept, before, found = self.kept(), self.channels[-1], []
        for level in reversed(range(len(self.channels))):
            for _ in range(self.blocks + 1):
                found.append((level, before + kept.pop(), self.channels[level]))
                before = self.channels[level]
        return found


# ---- modules ----------------------------------------------------------------------------------------------------


def _convolution(channels: int, name: str, *, init: weights.Initializer = INIT, **how: Any) -> nn.Module:
    return convolution.Convolution(channels=channels, bias=True, init=init, **how).build(name)


class TimeModule(nn.Module):
    """Owns hidden_DF and out_FF, their biases, and of classes a table whose last row is that of none."""

    config: UNet

    @nn.compact
    def __call__(self, timestep_B: jax.Array, labels_B: jax.Array | None) -> jax.Array:
        """[B, F]: what every residual block reads of timestep and class, four times as wide as the first level."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        D, F = c.channels[0], 4 * c.channels[0]
        x_BD = timestep_embedding(timestep_B, width=D, dtype=precision.sums(dtype)).astype(dtype)
        axes = {'embed': D, 'hidden': F}
        hidden_DF = weights.weight(self, 'hidden', axes, init=INIT, inputs=('embed',), dtype=dtype)
        bias_F = weights.vector(self, 'hidden_bias', {'hidden': F}, value=0.0, dtype=dtype)
        x_BF = c.activation(jnp.einsum('BD,DF->BF', x_BD, hidden_DF) + bias_F)
        axes = {'hidden': F, 'time': F}
        out_FF = weights.weight(self, 'out', axes, init=INIT, inputs=('hidden',), dtype=dtype)
        out_bias_F = weights.vector(self, 'out_bias', {'time': F}, value=0.0, dtype=dtype)
        x_BF = x_BF @ out_FF + out_bias_F
        if c.classes is None:
            return x_BF
        assert labels_B is not None
        axes = {'classes': c.classes + 1, 'time': F}
        table_VF = weights.weight(self, 'classes', axes, init=CLASSES, inputs=('time',), dtype=dtype)
        return x_BF + lookup.lookup(table_VF, jnp.where(labels_B < 0, c.classes, labels_B))


class ResidualModule(nn.Module):
    """Owns two norms, two convolutions, the matrix of the timestep, and a shortcut where the channels change."""

    config: UNet
    channels: int

    @nn.compact
    def __call__(self, x_BYXZ: jax.Array, time_BD: jax.Array) -> jax.Array:
        c, F, dtype = self.config, self.channels, x_BYXZ.dtype
        y_BYXF = _convolution(F, 'convolution1')(c.activation(c.norm.build('norm1')(x_BYXZ)))
        axes = {'time': time_BD.shape[-1], 'embed': F}
        time_DF = weights.weight(self, 'time', axes, init=INIT, inputs=('time',), dtype=dtype)
        bias_F = weights.vector(self, 'time_bias', {'embed': F}, value=0.0, dtype=dtype)
        time_BF = jnp.einsum('BD,DF->BF', c.activation(time_BD), time_DF) + bias_F
        y_BYXF = c.activation(c.norm.build('norm2')(y_BYXF + time_BF[:, None, None]))
        y_BYXF = _convolution(F, 'convolution2', init=NOTHING)(dropout.drop(self, y_BYXF, c.dropout))
        if x_BYXZ.shape[-1] != F:
            x_BYXZ = _convolution(F, 'shortcut', kernel=(1, 1))(x_BYXZ)
        return x_BYXZ + y_BYXF


class PixelAttentionModule(nn.Module):
    """Owns a norm and the attention of every pixel to all others."""

    config: UNet

    @nn.compact
    def __call__(self, x_BYXZ: jax.Array) -> jax.Array:
        c, (B, Y, X, Z) = self.config, x_BYXZ.shape
        x_BTD = c.norm.build('norm')(x_BYXZ).reshape(B, Y * X, Z)
        here_BT = jnp.arange(Y * X)[None]
        context = contexts.Context(here_BT, here_BT, order=contexts.PositionOrder.CONTIGUOUS)
        y_BTD, _ = c.attention.build('attention')(x_BTD, context)
        return x_BYXZ + y_BTD.reshape(x_BYXZ.shape)


class UNetModule(nn.Module):
    """Owns the convolutions at both ends, the embedding of the timestep, and the blocks of the two ways."""

    config: UNet

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """{'prediction': [B, Y, X, Z or 2 Z]} in float32 or float64."""
        c = self.config
        times_B = batch['times'] if 'times' in batch else jnp.zeros(len(batch['image']), jnp.float32)
        time_BD = TimeModule(c, name='time')(times_B, batch.get('labels'))
        x_BYXF = _convolution(c.channels[0], 'stem')(batch['image'].astype(c.dtype))
        kept = [x_BYXF]
        for level, channels in enumerate(c.channels):
            for number in range(c.blocks):
                x_BYXF = self._block(x_BYXF, time_BD, level, f'down{level}_{number}')
                kept.append(x_BYXF)
            if level < len(c.channels) - 1:
                padded = jnp.pad(kept[-1], ((0, 0), (0, 1), (0, 1), (0, 0)))  # As 'SAME' in TensorFlow.
                x_BYXF = _convolution(channels, f'down{level}_half', stride=2, padding=0)(padded)
                kept.append(x_BYXF)
        x_BYXF = ResidualModule(c, c.channels[-1], name='middle1')(x_BYXF, time_BD)
        x_BYXF = PixelAttentionModule(c, name='middle_attention')(x_BYXF)
        x_BYXF = ResidualModule(c, c.channels[-1], name='middle2')(x_BYXF, time_BD)
        for level in reversed(range(len(c.channels))):
            for number in range(c.blocks + 1):
                x_BYXF = jnp.concatenate([x_BYXF, kept.pop()], axis=-1)
                x_BYXF = self._block(x_BYXF, time_BD, level, f'up{level}_{number}')
            if level:
                x_BYXF = _convolution(c.channels[level], f'up{level}_double')(enlarge(x_BYXF))
        x_BYXF = c.activation(c.norm.build('norm')(x_BYXF))
        return {'prediction': precision.raised(_convolution(c.output_channels, 'out', init=NOTHING)(x_BYXF))}

    def _block(self, x_BYXZ: jax.Array, time_BD: jax.Array, level: int, name: str) -> jax.Array:
        """A residual block of a level, and attention where the level has it."""
        x_BYXF = ResidualModule(self.config, self.config.channels[level], name=name)(x_BYXZ, time_BD)
        if level in self.config.attending:
            x_BYXF = PixelAttentionModule(self.config, name=f'{name}_attention')(x_BYXF)
        return x_BYXF


# ---- sizes (appendix B) -----------------------------------------------------------------------------------------

UNET_CIFAR10 = UNet(channels=(128, 256, 256, 256), attending=(1,))  # Of 32 x 32 pixels; attention at 16 x 16.
# Of 256 x 256 pixels, CelebA-HQ and LSUN, where nothing is dropped; attention at 16 x 16.
UNET_256 = UNet(channels=(128, 128, 256, 256, 512, 512), attending=(4,), dropout=0.0)
