"""What all diffusion objectives have in common, and the contract between them, their models and their samplers.

A model that removes noise is called with a batch that holds

  image:  [B, Y, X, Z], noised, and scaled as the objective says.
  times:  [B] float32: the step t of 0 .. T - 1 (Diffusion), or ln(sigma) / 4 (Edm). A batch of data has none; initial
          weights are made from such a batch, and the model reads it as if all times were 0.
  labels: [B] int32, where the data has classes; NO_CLASS stands for no class, and the model owns an embedding for it.

and returns {'prediction': [B, Y, X, Z], or [B, Y, X, 2 Z] where it predicts a variance too}, in float32 or float64. Its
config says by `classes` how many classes it knows, None if none.

An objective says how images are noised, and what the prediction means. Samplers ask it by `denoised`, or by the fields
of Diffusion. What is drawn for an example follows from the seed, the step and the example (objectives/rngs.py).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.models import model
from bigmodel_jax.objectives import objective, requirements
from bigmodel_jax.objectives import rngs as random_streams

NO_CLASS = -1  # The label of a row whose class is not told to the model.
# (images [B, Y, X, Z], times [B]) -> what the network says of them; see Denoising.
Predict = Callable[[jax.Array, jax.Array], jax.Array]


class NoiseDraws(NamedTuple):
    """What is drawn for the rows of a batch."""

    noise_BYXZ: jax.Array  # Of a standard normal distribution.
    time_keys_B: jax.Array  # A key for the level of noise of each row.


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoisingRequirements(requirements.Requirements):
    """An image, an output of its shape, and a model of classes where labels are dropped."""

    variance: bool  # The output has twice as many channels.
    label_dropout: float

    def problems(
        self, of: model.Model, fields: Mapping[str, batches.Field], outputs: requirements.Outputs | None
    ) -> list[str]:
        found = super().problems(of, fields, outputs)
        if found or outputs is None:
            return found
        *size, channels = fields['image'].shape
        wanted = (*size, 2 * channels if self.variance else channels)
        shape = outputs['prediction'].shape
        if shape != wanted:
            why = ', the variance being predicted too' if self.variance else ''
            found.append(f'an output {list(wanted)}{why}; the model gives {list(shape)}')
        classes = getattr(of, 'classes', None)
        if self.label_dropout and classes is None:
            found.append(f'a model of classes, since label_dropout={self.label_dropout:g}; the model has classes=None')
        if classes is not None and 'labels' not in fields:
            found.append(f"the field 'labels' of the data, since the model has classes={classes}")
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoising(objective.Objective):
    """Interface of the diffusion objectives.

    Batch: 'image' [B, Y, X, Z] and, of data with classes, 'labels' [B]. The model is called as the file's first
    docstring says.
    """

    # The share of training examples whose class is not told, for classifier-free guidance (Ho and Salimans, 2022,
    # arXiv:2207.12598, algorithm 1).
    label_dropout: config.Probability = 0.0

    streams = ('dropout', 'noise', 'timestep', 'condition')
    directions: ClassVar[Mapping[str, Literal['lower', 'higher']]] = {'mse': 'lower', 'vlb': 'lower'}

    @property
    def predicts_variance(self) -> bool:
        """Whether the model predicts a variance too."""
        return False

    @property
    def requires(self) -> requirements.Requirements:  # type: ignore[override]  # It depends on the fields.
        return DenoisingRequirements(
            outputs={'prediction': ('height', 'width', 'channels')},
            fields={'image': requirements.FieldRequirement(axes=('height', 'width', 'channels'), integer=False)},
            provided_by="data with 'image' and a model that removes noise, such as dit.Dit",
            variance=self.predicts_variance,
            label_dropout=self.label_dropout,
        )

    def losses(
        self, apply: objective.Apply, batch: dict[str, jax.Array], drawn: NoiseDraws, **how: object
    ) -> tuple[dict[str, jax.Array], objective.Auxiliary]:
        """'loss' of each row, and whatever else is measured of each, [B]; and the auxiliary outputs of the model.

        Args:
          how: `train` and `rngs`, for the model.
        """
        raise NotImplementedError

    def denoised(self, predict: Predict, noised_BYXZ: jax.Array, sigma: jax.Array) -> jax.Array:
        """[B, Y, X, Z]: the mean of the images that may be behind image + sigma noise, as the network sees it.

        Args:
          sigma: [], the deviation of the noise of all rows.
        """
        raise NotImplementedError

    def sigma_range(self) -> tuple[float, float]:
        """The smallest and the largest deviation of the noise that the network was trained for."""
        raise NotImplementedError

    def __call__(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> objective.Outcome:
        found, auxiliary = self._drawn_losses(apply, batch, train=train, rngs=rngs)
        weights_B = batch['example_weights']
        means = {name: objective.Mean.weighted(each_B, weights_B) for name, each_B in found.items()}
        return objective.Outcome.of(means.pop('loss'), means, auxiliary)

    def per_example(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> jax.Array:
        return self._drawn_losses(apply, batch, train=train, rngs=rngs)[0]['loss']

    def _drawn_losses(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> tuple[dict[str, jax.Array], objective.Auxiliary]:
        streams = _of_rows(rngs, len(batch['image']))
        image_BYXZ = batch['image']

        def normal(key: jax.Array) -> jax.Array:
            return jax.random.normal(key, image_BYXZ.shape[1:], jnp.float32)

        drawn = NoiseDraws(jax.vmap(normal)(streams['noise']).astype(image_BYXZ.dtype), streams['timestep'])
        if 'labels' in batch and self.label_dropout and train:
            told_B = jax.vmap(lambda key: jax.random.uniform(key) >= self.label_dropout)(streams['condition'])
            batch = {**batch, 'labels': jnp.where(told_B, batch['labels'], NO_CLASS)}
        return self.losses(apply, batch, drawn, train=train, rngs=rngs)


def _of_rows(rngs: Mapping[str, jax.Array], count: int) -> dict[str, jax.Array]:
    """The keys of the rows, [B], by stream."""
    assert isinstance(rngs, random_streams.Rngs), rngs
    return {name: rngs.of_rows(name, count) for name in ('noise', 'timestep', 'condition')}


def per_image(values_B: jax.Array) -> jax.Array:
    """[B] -> [B, 1, 1, 1]."""
    return values_B[:, None, None, None]


def image_mean(values_BYXZ: jax.Array) -> jax.Array:
    """[B]: the mean over each image."""
    return values_BYXZ.mean(axis=(1, 2, 3))
