"""What the models that classify have in common: their checks, and their last matrix."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bigmodel_jax import config, precision
from bigmodel_jax.data import batches
from bigmodel_jax.layers.base import weights
from bigmodel_jax.models import model


def check_labels(fields: Mapping[str, batches.Field], classes: int) -> None:
    """Raises InputError if the labels of the data are not those of a model with so many classes."""
    known = fields['labels'].upper_bound if 'labels' in fields else None
    if known is not None and known > classes:
        raise config.InputError(
            f'model.classes={classes}, but the data has {known} classes; use model.classes={known}.'
        )


def image(fields: Mapping[str, batches.Field], name: str) -> tuple[int, int, int]:
    """Rows, columns and channels of the images that a model called `name` reads.

    Raises:
      InputError: there are none, or they have no channels.
    """
    field = model.need(fields, 'image', name)
    if field.axes != ('height', 'width', 'channels'):
        raise config.InputError(
            f"{name} reads images with axes=('height', 'width', 'channels'), but 'image' has axes={field.axes} and the "
            f'shape {list(field.shape)}; images of one channel have a last axis of 1.'
        )
    rows, columns, channels = field.shape
    return rows, columns, channels


def logits(classes: int, dtype: model.Dtype) -> Mapping[str, model.Output]:
    """The outputs of a model that gives a logit for each class."""
    return {'logits': model.Output((classes,), ('classes',), np.dtype(precision.sums(jnp.dtype(dtype))))}


def penultimate(apply: Callable[[], Any], name: str) -> jax.Array:
    """[..., D]: what the last matrix of a classifier reads, while `apply` runs the model called `name`.

    Raises:
      InputError: the model has no ClassesModule, or several.
    """
    found: list[jax.Array] = []

    def record(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, ClassesModule) and context.method_name == '__call__':
            found.append(args[0])
        return following(*args, **kwargs)

    with nn.intercept_methods(record):
        apply()
    if len(found) != 1:
        raise config.InputError(
            f'{name} has {len(found)} matrices of classes (models/classifiers.py, ClassesModule), whose input the '
            'features are; use a classifier that has one.'
        )
    return found[0]


class ClassesModule(nn.Module):
    """Owns a matrix and a bias: a logit for each class, in float32 or float64."""

    classes: int
    initializer: weights.Initializer = weights.FanIn()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., V]."""
        dtype = precision.sums(x.dtype)
        axes = {'embed': x.shape[-1], 'classes': self.classes}
        weight_DV = weights.weight(self, 'weight', axes, init=self.initializer, inputs=('embed',), dtype=x.dtype)
        bias_V = weights.vector(self, 'bias', {'classes': self.classes}, value=0.0, dtype=dtype)
        return jnp.einsum('...D,DV->...V', x, weight_DV, preferred_element_type=dtype) + bias_V
