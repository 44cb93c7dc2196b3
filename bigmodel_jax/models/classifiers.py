"""What the models that classify have in common, their checks and their last matrix; and a decoder that classifies."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bigmodel_jax import config, precision
from bigmodel_jax.data import batches
from bigmodel_jax.layers.base import dropout, weights
from bigmodel_jax.models import decoder as decoders
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderClassifier(model.Model):
    """A class for each row, or with one class a number: a matrix after the last token's vector of a decoder.

    Batch: as the Decoder's; a row is one text, whose last token is the last one with a segment other than 0. The
    parameters have the paths that they have in the Decoder, so that a run may start from a language model's; there is
    no output matrix of the vocabulary.

    Source: Radford et al. (2018), 'Improving Language Understanding by Generative Pre-Training', section 3.2.
    """

    decoder: decoders.Decoder
    classes: config.Positive  # 1: 'values' [B], a regression; otherwise 'logits' [B, classes].
    dropout: config.Probability = 0.0  # On the vector of a row.

    @property
    def dtype(self) -> model.Dtype:
        """Of the computation."""
        return self.decoder.dtype

    @property
    def body(self) -> decoders.Decoder:
        """The decoder without an output matrix of its own."""
        return config.vary(self.decoder, {'embedding.tied': True})

    def build(self, name: str | None = None) -> nn.Module:
        model.check_dtype(self.dtype)
        return DecoderClassifierModule(self.body, of=self, name=name)

    def check(self, fields: Mapping[str, batches.Field]) -> None:
        self.decoder.check(fields)
        check_labels(fields, self.classes)

    def outputs(self, fields: Mapping[str, batches.Field]) -> Mapping[str, model.Output]:
        if self.classes == 1:
            return {'values': model.Output((), (), np.dtype(precision.sums(jnp.dtype(self.dtype))))}
        return logits(self.classes, self.dtype)


class DecoderClassifierModule(decoders.DecoderModule):
    """Owns what a Decoder's module owns, and the matrix of the classes."""

    of: DecoderClassifier

    def setup(self) -> None:
        super().setup()
        self.score = ScoreModule(self.of.classes)

    def __call__(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:  # type: ignore[override]
        """{'logits': [B, V]}, V being the classes; {'values': [B]} of one. Both are float32 or float64."""
        x_BTD, _ = self.features(batch)
        x_BD = dropout.drop(self, last_token(x_BTD, batch.get('segments')), self.of.dropout)
        scores_BV = self.score(x_BD)
        return {'values': scores_BV[:, 0]} if self.of.classes == 1 else {'logits': scores_BV}


class ScoreModule(nn.Module):
    """Owns a matrix: a score for each class, in float32 or float64."""

    classes: int

    @nn.compact
    def __call__(self, x_BD: jax.Array) -> jax.Array:
        """[B, D] -> [B, V]."""
        axes = {'embed': x_BD.shape[-1], 'classes': self.classes}
        weight_DV = weights.weight(self, 'weight', axes, init=weights.FanIn(), inputs=('embed',), dtype=x_BD.dtype)
        return jnp.einsum('BD,DV->BV', x_BD, weight_DV, preferred_element_type=precision.sums(x_BD.dtype))


def last_token(x_BTD: jax.Array, segments_BT: jax.Array | None) -> jax.Array:
    """[B, D]: the vector of the last token that is no padding, wherever the padding is."""
    if segments_BT is None:
        return x_BTD[:, -1]
    last_B11 = jnp.where(segments_BT != 0, jnp.arange(x_BTD.shape[1]), 0).max(axis=1)[:, None, None]
    return jnp.take_along_axis(x_BTD, last_B11, axis=1)[:, 0]
