"""A convolutional autoencoder with a normal distribution of latents, for diffusion in a smaller space.

Source: Kingma and Welling (2013), arXiv:1312.6114; Rombach et al. (2022), arXiv:2112.10752, appendix E, without its
attention and its adversarial and perceptual losses.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bigmodel_jax import config, precision
from bigmodel_jax.data import batches
from bigmodel_jax.layers import activations, convolution, norms
from bigmodel_jax.layers.base import weights
from bigmodel_jax.models import classifiers, model
from bigmodel_jax.models.diffusion import unet

INIT = weights.FanIn(scale=2.0)
LOG_VARIANCES = (-30.0, 20.0)  # Between which they are kept, as in the released code of Rombach et al.


class LatentMoments(NamedTuple):
    """The normal distribution of each latent number, [B, Y, X, Z] each."""

    mean: jax.Array
    log_variance: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoencoder(model.Model):
    """Images as latents 1 / 2^(levels - 1) as large, and back. Batch: 'image' [B, Y, X, Z] float32.

    The module has the methods encode(batch) -> LatentMoments and decode(latents) -> images; called, it gives the
    'reconstruction' of the means.
    """

    channels: tuple[config.Positive, ...]  # Of each level, the finest first.
    latent_channels: config.Positive = 4
    blocks: config.Positive = 1  # Residual blocks of each level, each way.
    norm: norms.GroupNorm = norms.GroupNorm(groups=32, epsilon=1e-6)
    activation: activations.Activation = activations.Silu()
    image_channels: config.Positive = 3
    dtype: model.Dtype = 'float32'

    def build(self, name: str | None = None) -> nn.Module:
        model.check_dtype(self.dtype)
        return AutoencoderModule(self, name=name)

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """That of the latents of an image of `shape`.

        Raises:
          InputError: the levels do not halve it evenly, or it has other channels.
        """
        (rows, columns, channels), factor = shape, 2 ** (len(self.channels) - 1)
        if channels != self.image_channels:
            raise config.InputError(
                f'model.image_channels={self.image_channels}, but the images have {channels} channels; use '
                f'model.image_channels={channels}.'
            )
        if rows % factor or columns % factor:
            raise config.InputError(
                f'model.channels has {len(self.channels)} levels, so that the sides of an image should be multiples of '
                f'{factor}; they are {rows} and {columns}. Pad the images, or use fewer levels.'
            )
        return rows // factor, columns // factor, self.latent_channels

    def check(self, fields: Mapping[str, batches.Field]) -> None:
        if not self.channels:
            raise config.InputError('model.channels=() has no level; give the channels of at least one.')
        self.latent_shape(classifiers.image(fields, 'Autoencoder'))
        for count in self.channels:
            if count % self.norm.groups:
                raise config.InputError(
                    f'model.norm.groups={self.norm.groups} does not divide the {count} channels of a level; use a '
                    f'divisor of all of model.channels={self.channels}.'
                )

    def outputs(self, fields: Mapping[str, batches.Field]) -> Mapping[str, model.Output]:
        field = model.need(fields, 'image', 'Autoencoder')
        kind = np.dtype(precision.sums(jnp.dtype(self.dtype)))
        return {'reconstruction': model.Output(field.shape, field.axes, kind)}

    def first_filters(self, params: model.PyTree) -> jax.Array:
        return params['encoder']['stem']['kernel']


def _convolution(channels: int, name: str, **how: int) -> nn.Module:
    return convolution.Convolution(channels=channels, bias=True, init=INIT, **how).build(name)  # type: ignore[arg-type]


class PlainResidualModule(nn.Module):
    """Owns two norms and two convolutions, and a shortcut where the channels change."""

    config: Autoencoder
    channels: int

    @nn.compact
    def __call__(self, x_BYXZ: jax.Array) -> jax.Array:
        c, F = self.config, self.channels
        y_BYXF = _convolution(F, 'convolution1')(c.activation(c.norm.build('norm1')(x_BYXZ)))
        y_BYXF = _convolution(F, 'convolution2')(c.activation(c.norm.build('norm2')(y_BYXF)))
        if x_BYXZ.shape[-1] != F:
            x_BYXZ = convolution.Convolution(channels=F, kernel=(1, 1), bias=True, init=INIT).build('shortcut')(x_BYXZ)
        return x_BYXZ + y_BYXF


class ImageEncoderModule(nn.Module):
    """Owns the convolutions and blocks from an image to the moments of its latents."""

    config: Autoencoder

    @nn.compact
    def __call__(self, image_BYXZ: jax.Array) -> LatentMoments:
        c = self.config
        x_BYXF = _convolution(c.channels[0], 'stem')(image_BYXZ.astype(c.dtype))
        for level, channels in enumerate(c.channels):
            if level:
                x_BYXF = _convolution(channels, f'half{level}', stride=2)(x_BYXF)
            for number in range(c.blocks):
                x_BYXF = PlainResidualModule(c, channels, name=f'level{level}_{number}')(x_BYXF)
        x_BYXF = c.activation(c.norm.build('norm')(x_BYXF))
        moments = precision.raised(_convolution(2 * c.latent_channels, 'out')(x_BYXF))
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return LatentMoments(mean, jnp.clip(log_variance, *LOG_VARIANCES))


class ImageDecoderModule(nn.Module):
    """Owns the convolutions and blocks from latents to an image."""

    config: Autoencoder

    @nn.compact
    def __call__(self, latent_BYXZ: jax.Array) -> jax.Array:
        """[B, Y, X, Z] in float32 or float64."""
        c = self.config
        x_BYXF = _convolution(c.channels[-1], 'stem')(latent_BYXZ.astype(c.dtype))
        for level in reversed(range(len(c.channels))):
            for number in range(c.blocks):
                x_BYXF = PlainResidualModule(c, c.channels[level], name=f'level{level}_{number}')(x_BYXF)
            if level:
                x_BYXF = _convolution(c.channels[level], f'double{level}')(unet.enlarge(x_BYXF))
        x_BYXF = c.activation(c.norm.build('norm')(x_BYXF))
        return precision.raised(_convolution(c.image_channels, 'out')(x_BYXF))


class AutoencoderModule(nn.Module):
    """Owns the encoder and the decoder."""

    config: Autoencoder

    def setup(self) -> None:
        self.encoder = ImageEncoderModule(self.config)
        self.decoder = ImageDecoderModule(self.config)

    def __call__(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """{'reconstruction': [B, Y, X, Z]} of the means."""
        return {'reconstruction': self.decode(self.encode(batch).mean)}

    def encode(self, batch: Mapping[str, jax.Array]) -> LatentMoments:
        """The distribution of the latents of 'image'."""
        found: LatentMoments = self.encoder(batch['image'])
        return found

    def decode(self, latent_BYXZ: jax.Array) -> jax.Array:
        """The images of latents."""
        found: jax.Array = self.decoder(latent_BYXZ)
        return found
