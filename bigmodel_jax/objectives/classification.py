"""Classification: one label for each row, or any number of labels."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bigmodel_jax import config, precision
from bigmodel_jax.objectives import language, objective, requirements
from bigmodel_jax.objectives.objective import Mean


def sigmoid_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """-t log s(z) - (1 - t) log(1 - s(z)) of each logit z, float32 or float64, s being the logistic function.

    Args:
      targets: t, in [0, 1], of the shape of the logits.
    """
    logits = precision.raised(logits)
    return jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(objective.Objective):
    """Mean cross-entropy over the rows of weight 1.

    Batch: 'labels' [B] int32. The model returns 'logits' [B, V], V being the classes. Where examples are mixed (see
    data/vision/mixing.py), also 'mixed_labels' [B] int32 and 'mixed_share' [B]: how much of the loss is that of these.
    """

    label_smoothing: config.Probability = 0.0

    requires = requirements.LABELS

    def __call__(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> objective.Outcome:
        outputs, auxiliary = apply(batch, train=train, rngs=rngs)
        logits_BV, labels_B, weights_B = outputs['logits'], batch['labels'], batch['example_weights']
        labels_B = objective.counted(labels_B, weights_B)
        loss = Mean.weighted(self._losses(logits_BV, {**batch, 'labels': labels_B}), weights_B)
        accuracy = Mean.weighted(logits_BV.argmax(axis=-1) == labels_B, weights_B)
        return objective.Outcome.of(loss, {'accuracy': accuracy}, auxiliary)

    def per_example(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> jax.Array:
        outputs, _ = apply(batch, train=train, rngs=rngs)
        return self._losses(outputs['logits'], batch)

    def _losses(self, logits_BV: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
        """The loss of each row, [B]."""
        smoothing = self.label_smoothing
        loss_B, _ = language.cross_entropy(logits_BV, batch['labels'], label_smoothing=smoothing)
        if 'mixed_labels' not in batch:
            return loss_B
        mixed_B, _ = language.cross_entropy(logits_BV, batch['mixed_labels'], label_smoothing=smoothing)
        return loss_B + batch['mixed_share'] * (mixed_B - loss_B)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiLabel(objective.Objective):
    """Mean over the rows of weight 1, and over the classes, of the sigmoid cross-entropy: each class by itself.

    Batch: 'targets' [B, V] float32 in [0, 1], V being the classes. The model returns 'logits' [B, V].
    """

    label_smoothing: config.Probability = 0.0  # Of this share, the targets are 1/2.

    requires = requirements.CLASS_TARGETS

    def __call__(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> objective.Outcome:
        outputs, auxiliary = apply(batch, train=train, rngs=rngs)
        weights_B = batch['example_weights']
        targets_BV = objective.counted(batch['targets'], weights_B[:, None])
        loss_B = self._losses(outputs['logits'], targets_BV)
        right_B = ((outputs['logits'] > 0) == (targets_BV > 0.5)).mean(axis=-1)
        accuracy = Mean.weighted(right_B, weights_B)
        return objective.Outcome.of(Mean.weighted(loss_B, weights_B), {'accuracy': accuracy}, auxiliary)

    def per_example(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> jax.Array:
        outputs, _ = apply(batch, train=train, rngs=rngs)
        return self._losses(outputs['logits'], batch['targets'])

    def _losses(self, logits_BV: jax.Array, targets_BV: jax.Array) -> jax.Array:
        """The loss of each row, [B]."""
        smoothed_BV = targets_BV + self.label_smoothing * (0.5 - targets_BV)
        return sigmoid_cross_entropy(logits_BV, smoothed_BV).mean(axis=-1)
