"""A multi-layer perceptron over the features of a table."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.layers import activations
from bigmodel_jax.layers.base import dropout, weights
from bigmodel_jax.models import classifiers, model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perceptron(model.Model):
    """Matrices with an activation between them. Batch: 'features' [B, I] float32.

    No hidden layer: logistic, or with one class linear, regression.
    """

    hidden: tuple[config.Positive, ...]  # Units of each layer.
    classes: config.Positive  # 1: 'values' [B], a regression; otherwise 'logits' [B, classes].
    activation: activations.Activation = activations.Relu()
    dropout: config.Probability = 0.0  # On the units of each layer.
    init: weights.Initializer = weights.FanIn(scale=2.0)
    dtype: model.Dtype = 'float32'

    def build(self, name: str | None = None) -> nn.Module:
        model.check_dtype(self.dtype)
        return PerceptronModule(self, name=name)

    def check(self, fields: Mapping[str, batches.Field]) -> None:
        field = model.need(fields, 'features', 'Perceptron')
        if field.axes != ('features',):
            raise config.InputError(f"Perceptron reads 'features' [I], but they have the shape {list(field.shape)}.")
        classifiers.check_labels(fields, self.classes)

    def outputs(self, fields: Mapping[str, batches.Field]) -> Mapping[str, model.Output]:
        if self.classes == 1:
            return {'values': model.Output((), (), np.dtype(np.float32))}
        return classifiers.logits(self.classes, self.dtype)


class PerceptronModule(nn.Module):
    """Owns the matrices and their biases."""

    config: Perceptron

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """{'logits': [B, V]}; {'values': [B]} of one class."""
        c, x_BI = self.config, batch['features'].astype(self.config.dtype)
        for number, units in enumerate(c.hidden, 1):
            axes = {'embed': x_BI.shape[-1], 'hidden': units}
            weight_IF = weights.weight(self, f'hidden{number}', axes, init=c.init, inputs=('embed',), dtype=x_BI.dtype)
            bias_F = weights.vector(self, f'hidden{number}_bias', {'hidden': units}, value=0.0, dtype=x_BI.dtype)
            x_BF = c.activation(jnp.einsum('BI,IF->BF', x_BI, weight_IF) + bias_F)
            x_BI = dropout.drop(self, x_BF, c.dropout)
        found_BV = classifiers.ClassesModule(c.classes, name='classes')(x_BI)
        return {'values': found_BV[:, 0]} if c.classes == 1 else {'logits': found_BV}
