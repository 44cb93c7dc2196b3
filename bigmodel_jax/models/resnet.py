"""Residual networks of convolutions: ResNet-18 to ResNet-152, and those of CIFAR-10 with 6 n + 2 layers.

Source: He et al. (2015), arXiv:1512.03385. Bottlenecks have the stride in their second convolution, as in torchvision
and transformers ('v1.5'); `stride_first=True` is the paper's.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from bigmodel_jax import config, precision
from bigmodel_jax.data import batches
from bigmodel_jax.layers import activations, convolution, norms, stacks
from bigmodel_jax.layers.base import layer
from bigmodel_jax.models import classifiers, model

# ---- shortcuts --------------------------------------------------------------------------------------------------


class Shortcut:
    """Interface: the input of a block in the form of its output."""

    def join(self, module: nn.Module, x_BYXZ: jax.Array, of: 'ResidualBlock', weights_B: jax.Array | None) -> jax.Array:
        """[B, Y, X, F] of a block that changes the size or the channels; `module` owns what it needs."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Projection(Shortcut):
    """A convolution of 1 x 1 and a norm (option B of section 4.1)."""

    def join(self, module: nn.Module, x_BYXZ: jax.Array, of: 'ResidualBlock', weights_B: jax.Array | None) -> jax.Array:
        projected = convolution.Convolution(channels=of.channels, kernel=(1, 1), stride=of.stride)
        return of.norm.build('shortcut_norm')(projected.build('shortcut')(x_BYXZ), weights_B)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Padding(Shortcut):
    """Every `stride`-th row and column, and zeros for the channels that are new (option A): no parameters."""

    def join(self, module: nn.Module, x_BYXZ: jax.Array, of: 'ResidualBlock', weights_B: jax.Array | None) -> jax.Array:
        x_BYXZ = x_BYXZ[:, :: of.stride, :: of.stride]
        return jnp.pad(x_BYXZ, ((0, 0), (0, 0), (0, 0), (0, of.channels - x_BYXZ.shape[-1])))


# ---- blocks -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualBlock(layer.Layer):
    """Interface of the residual blocks: two or three convolutions, each with a norm.

    The carry is [B, Y, X, Z]; `inputs` are the weights of the examples [B], or None. Blocks that keep size and channels
    may be stacked (layers/stacks.py).
    """

    channels: config.Positive  # F, that it gives.
    stride: config.Positive = 1
    norm: norms.Norm = norms.BatchNorm()
    shortcut: Shortcut = Projection()
    activation: activations.Activation = activations.Relu()

    def build(self, name: str | None = None) -> nn.Module:
        return ResidualBlockModule(self, name=name)

    @property
    def convolutions(self) -> tuple[convolution.Convolution, ...]:
        """In the order in which they are applied."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Basic(ResidualBlock):
    """Two convolutions of 3 x 3 (figure 5, left)."""

    @property
    def convolutions(self) -> tuple[convolution.Convolution, ...]:
        first = convolution.Convolution(channels=self.channels, stride=self.stride)
        return first, dataclasses.replace(first, stride=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bottleneck(ResidualBlock):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1, the first two with a quarter of the channels (figure 5, right)."""

    reduction: config.Positive = 4
    stride_first: bool = False  # The paper's; otherwise the convolution of 3 x 3 has the stride.

    @property
    def convolutions(self) -> tuple[convolution.Convolution, ...]:
        strides = (self.stride, 1) if self.stride_first else (1, self.stride)
        narrow = self.channels // self.reduction
        return (
            convolution.Convolution(channels=narrow, kernel=(1, 1), stride=strides[0]),
            convolution.Convolution(channels=narrow, stride=strides[1]),
            convolution.Convolution(channels=self.channels, kernel=(1, 1)),
        )


class ResidualBlockModule(nn.Module):
    """Owns the convolutions, their norms and the shortcut, if it has parameters."""

    config: ResidualBlock

    @nn.compact
    def __call__(
        self, x_BYXZ: jax.Array, weights_B: jax.Array | None, state: layer.PyTree = None
    ) -> tuple[jax.Array, layer.PyTree]:
        c, y_BYXF = self.config, x_BYXZ
        *inner, last = enumerate(c.convolutions, 1)
        for number, each in inner:
            y_BYXF = each.build(f'convolution{number}')(y_BYXF)
            y_BYXF = c.activation(c.norm.build(f'norm{number}')(y_BYXF, weights_B))
        y_BYXF = last[1].build(f'convolution{last[0]}')(y_BYXF)
        y_BYXF = c.norm.build(f'norm{last[0]}')(y_BYXF, weights_B)
        if c.stride != 1 or x_BYXZ.shape[-1] != c.channels:
            x_BYXZ = c.shortcut.join(self, x_BYXZ, c, weights_B)
        return c.activation(x_BYXZ + y_BYXF), state


# ---- the network ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stem:
    """The first convolution, with a norm and the activation, and a pool behind it if there is one."""

    filters: convolution.Convolution
    pool: convolution.MaxPool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNet(model.Model):
    """Stages of residual blocks, the mean over the image, and a matrix. Batch: 'image' [B, Y, X, Z] float32.

    The first stage keeps the size of what the stem gives; each further one halves it.
    """

    stem: Stem
    block: ResidualBlock  # Of every stage, but for its channels and stride.
    depths: tuple[config.Positive, ...]  # Blocks of each stage.
    channels: tuple[config.Positive, ...]  # That the blocks of each stage give.
    classes: config.Positive
    dtype: model.Dtype = 'float32'
    # How the blocks of a stage but the first are compiled. Scanned ones compile sooner; on CPUs they run slower.
    stack: stacks.Stack = stacks.Stack(scan=False)

    def build(self, name: str | None = None) -> nn.Module:
        model.check_dtype(self.dtype)
        return ResNetModule(self, name=name)

    def check(self, fields: Mapping[str, batches.Field]) -> None:
        rows, columns, _ = classifiers.image(fields, 'ResNet')
        size = self.stem.filters.size((rows, columns))
        if self.stem.pool is not None:
            self.stem.pool.size(size)
        if len(self.depths) != len(self.channels):
            raise config.InputError(
                f'model.depths has {len(self.depths)} stages and model.channels {len(self.channels)}; give one of each '
                'for every stage.'
            )
        classifiers.check_labels(fields, self.classes)

    def outputs(self, fields: Mapping[str, batches.Field]) -> Mapping[str, model.Output]:
        return classifiers.logits(self.classes, self.dtype)

    def first_filters(self, params: model.PyTree) -> jax.Array:
        return params['backbone']['stem']['kernel']

    @property
    def stages(self) -> tuple[tuple[ResidualBlock, int], ...]:
        """The first block of each stage, and how many blocks it has."""
        return tuple(
            (dataclasses.replace(self.block, channels=channels, stride=1 if number == 0 else 2), depth)
            for number, (channels, depth) in enumerate(zip(self.channels, self.depths))
        )


class BackboneModule(nn.Module):
    """Owns the stem and the stages, each a first block and a stack of the others."""

    config: ResNet

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, ...]:
        """What the stem and each stage give, [B, Y, X, Z] each."""
        c, weights_B = self.config, batch.get(batches.EXAMPLE_WEIGHTS)
        x_BYXZ = c.stem.filters.build('stem')(batch['image'].astype(c.dtype))
        x_BYXZ = c.block.activation(c.block.norm.build('stem_norm')(x_BYXZ, weights_B))
        if c.stem.pool is not None:
            x_BYXZ = c.stem.pool.build()(x_BYXZ)
        found = [x_BYXZ]
        for number, (first, depth) in enumerate(c.stages, 1):
            x_BYXZ, _ = first.build(f'stage{number}_first')(x_BYXZ, weights_B)
            if depth > 1:
                other = dataclasses.replace(first, stride=1)
                x_BYXZ, _ = c.stack.build((other,), depth - 1, f'stage{number}')(x_BYXZ, weights_B)
            found.append(x_BYXZ)
        return tuple(found)


class ResNetModule(nn.Module):
    """Owns the backbone and the matrix of the classes."""

    config: ResNet

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """{'logits': [B, V]}."""
        x_BYXZ = BackboneModule(self.config, name='backbone')(batch)[-1]
        x_BZ = precision.raised(x_BYXZ).mean(axis=(1, 2)).astype(x_BYXZ.dtype)
        return {'logits': classifiers.ClassesModule(self.config.classes, name='classes')(x_BZ)}


# ---- sizes ------------------------------------------------------------------------------------------------------


def resnet(*, block: ResidualBlock, depths: tuple[int, ...], channels: tuple[int, ...], **changes: Any) -> ResNet:
    """A ResNet for images of about 224 x 224 pixels and 1,000 classes (table 1)."""
    stem = Stem(
        filters=convolution.Convolution(channels=64, kernel=(7, 7), stride=2), pool=convolution.MaxPool(padding=1)
    )
    return config.vary(ResNet(stem=stem, block=block, depths=depths, channels=channels, classes=1_000), changes)


def cifar_resnet(layers: int, **changes: Any) -> ResNet:
    """A ResNet with `layers` = 6 n + 2 layers for images of 32 x 32 pixels and 10 classes (section 4.2).

    Raises:
      InputError: there is no such n.
    """
    if layers < 8 or (layers - 2) % 6:
        raise config.InputError(f'A CIFAR ResNet has 6 n + 2 layers, not {layers}; use 20, 32, 44, 56, 110 or 1,202.')
    base = ResNet(
        stem=Stem(filters=convolution.Convolution(channels=16)),
        block=Basic(channels=16, shortcut=Padding()),
        depths=((layers - 2) // 6,) * 3,
        channels=(16, 32, 64),
        classes=10,
    )
    return config.vary(base, changes)


BASIC, BOTTLENECK = Basic(channels=64), Bottleneck(channels=256)
NARROW, WIDE = (64, 128, 256, 512), (256, 512, 1_024, 2_048)
# Table 1.
RESNET_18 = resnet(block=BASIC, depths=(2, 2, 2, 2), channels=NARROW)
RESNET_34 = resnet(block=BASIC, depths=(3, 4, 6, 3), channels=NARROW)
RESNET_50 = resnet(block=BOTTLENECK, depths=(3, 4, 6, 3), channels=WIDE)
RESNET_101 = resnet(block=BOTTLENECK, depths=(3, 4, 23, 3), channels=WIDE)
RESNET_152 = resnet(block=BOTTLENECK, depths=(3, 8, 36, 3), channels=WIDE)
# Table 6.
RESNET_20, RESNET_32, RESNET_44 = cifar_resnet(20), cifar_resnet(32), cifar_resnet(44)
RESNET_56, RESNET_110, RESNET_1202 = cifar_resnet(56), cifar_resnet(110), cifar_resnet(1_202)
