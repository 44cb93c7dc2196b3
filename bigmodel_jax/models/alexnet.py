"""AlexNet: convolutions with rectified units, two wide layers with dropout; as published, and with one tower.

Source: Krizhevsky et al. (2012), ImageNet Classification with Deep Convolutional Neural Networks; the one-tower network
is that of Krizhevsky (2014), arXiv:1404.5997, as torchvision has it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.layers import activations, convolution
from bigmodel_jax.layers.base import dropout, weights
from bigmodel_jax.models import classifiers, model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """A convolution, the activation, and what follows it."""

    filters: convolution.Convolution
    after: tuple[convolution.ImageLayer, ...] = ()  # Normalisation and pooling, in this order in the paper.


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlexNet(model.Model):
    """Stages of convolutions, then wide layers that see the whole image. Batch: 'image' [B, Y, X, Z] float32."""

    stages: tuple[Stage, ...]
    pooled: convolution.Pair | None = None  # Rows and columns that the wide layers see, of averages; None: as they are.
    hidden: tuple[config.Positive, ...] = (4_096, 4_096)  # Units of the wide layers.
    classes: config.Positive = 1_000
    activation: activations.Activation = activations.Relu()
    dropout: config.Probability = 0.5  # On the units that enter a wide layer ...
    drops_input: bool = True  # ... the first of them too (torchvision); if not, on what each wide layer gives (paper).
    init: weights.Initializer = weights.FanIn()  # Of the wide layers and the last one.
    bias_value: config.Rate = 0.0  # Of the wide layers, at first.
    dtype: model.Dtype = 'float32'

    def build(self, name: str | None = None) -> nn.Module:
        model.check_dtype(self.dtype)
        return AlexNetModule(self, name=name)

    def check(self, fields: Mapping[str, batches.Field]) -> None:
        rows, columns, _ = classifiers.image(fields, 'AlexNet')
        size = (rows, columns)
        for stage in self.stages:
            for each in (stage.filters, *stage.after):
                size = each.size(size)
        classifiers.check_labels(fields, self.classes)

    def outputs(self, fields: Mapping[str, batches.Field]) -> Mapping[str, model.Output]:
        return classifiers.logits(self.classes, self.dtype)

    def first_filters(self, params: model.PyTree) -> jax.Array:
        return params['stages']['convolution1']['kernel']


class ConvolutionsModule(nn.Module):
    """Owns the convolutions."""

    config: AlexNet

    @nn.compact
    def __call__(self, x_BYXZ: jax.Array) -> jax.Array:
        """What the last stage gives, [B, Y, X, Z]."""
        for number, stage in enumerate(self.config.stages, 1):
            x_BYXZ = self.config.activation(stage.filters.build(f'convolution{number}')(x_BYXZ))
            for each in stage.after:
                x_BYXZ = each.build()(x_BYXZ)
        return x_BYXZ


class AlexNetModule(nn.Module):
    """Owns the convolutions, the wide layers and the matrix of the classes."""

    config: AlexNet

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """{'logits': [B, V]}."""
        c, images_BYXZ = self.config, batch['image'].astype(self.config.dtype)
        x_BYXZ = ConvolutionsModule(c, name='stages')(images_BYXZ)
        if c.pooled is not None:
            x_BYXZ = convolution.adaptive_average_pool(x_BYXZ, c.pooled)
        x_BD = x_BYXZ.reshape(x_BYXZ.shape[0], -1)
        for number, units in enumerate(c.hidden, 1):
            if c.drops_input:
                x_BD = dropout.drop(self, x_BD, c.dropout)
            x_BD = c.activation(self._wide(f'hidden{number}', x_BD, units))
            if not c.drops_input:
                x_BD = dropout.drop(self, x_BD, c.dropout)
        return {'logits': classifiers.ClassesModule(c.classes, initializer=c.init, name='classes')(x_BD)}

    def _wide(self, name: str, x_BD: jax.Array, units: int) -> jax.Array:
        """[B, F]: a product with a matrix, and a bias."""
        axes, dtype = {'embed': x_BD.shape[-1], 'hidden': units}, x_BD.dtype
        weight_DF = weights.weight(self, name, axes, init=self.config.init, inputs=('embed',), dtype=dtype)
        bias_F = weights.vector(self, f'{name}_bias', {'hidden': units}, value=self.config.bias_value, dtype=dtype)
        return jnp.einsum('BD,DF->BF', x_BD, weight_DF) + bias_F


def two_groups(**changes: Any) -> AlexNet:
    """The network of 2012, whose second, fourth and fifth layers were cut in two for two GPUs.

    Weights are drawn with deviation 0.01 and biases of the layers 2, 4, 5 and the wide ones begin at 1 (section 5).
    Images of 224 x 224 pixels are padded by 2, without which the first layer does not give the 55 x 55 of section 3.5;
    the responses of a GPU are normalised over its own channels (section 3.3).
    """
    init, pool = weights.Normal(stddev=0.01), convolution.MaxPool()

    def stage(channels: int, kernel: int, *after: convolution.ImageLayer, **options: Any) -> Stage:
        of = convolution.Convolution(channels=channels, kernel=(kernel, kernel), bias=True, init=init, **options)
        return Stage(filters=of, after=after)

    norm = convolution.LocalResponseNorm(groups=2)
    stages = (
        stage(96, 11, norm, pool, stride=4, padding=2),
        stage(256, 5, norm, pool, groups=2, bias_value=1.0),
        stage(384, 3),
        stage(384, 3, groups=2, bias_value=1.0),
        stage(256, 3, pool, groups=2, bias_value=1.0),
    )
    return config.vary(AlexNet(stages=stages, init=init, bias_value=1.0, drops_input=False), changes)


def one_tower(*, channels: tuple[int, ...] = (64, 192, 384, 256, 256), **changes: Any) -> AlexNet:
    """The network of 2014 without normalisation, as torchvision has it."""
    pool = (convolution.MaxPool(),)
    kernels, strides, paddings = (11, 5, 3, 3, 3), (4, 1, 1, 1, 1), (2, 2, 1, 1, 1)
    after = (pool, pool, (), (), pool)
    stages = tuple(
        Stage(
            filters=convolution.Convolution(
                channels=count, kernel=(kernel, kernel), stride=stride, padding=padding, bias=True
            ),
            after=follows,
        )
        for count, kernel, stride, padding, follows in zip(channels, kernels, strides, paddings, after)
    )
    return config.vary(AlexNet(stages=stages), changes)


ALEXNET_2012 = two_groups()
ALEXNET_ONE_TOWER = one_tower(pooled=(6, 6))
