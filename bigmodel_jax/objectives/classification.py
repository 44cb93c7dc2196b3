"""Classification: one label for each row."""

import dataclasses
from collections.abc import Mapping

import jax

from bigmodel_jax import config
from bigmodel_jax.objectives import language, objective, requirements
from bigmodel_jax.objectives.objective import Mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(objective.Objective):
    """Mean cross-entropy over the rows of weight 1.

    Batch: 'labels' [B] int32. The model returns 'logits' [B, V], V being the classes.
    """

    label_smoothing: config.Probability = 0.0

    requires = requirements.LABELS

    def __call__(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> objective.Outcome:
        outputs, auxiliary = apply(batch, train=train, rngs=rngs)
        logits_BV, labels_B, weights_B = outputs['logits'], batch['labels'], batch['example_weights']
        labels_B = objective.counted(labels_B, weights_B)
        loss_B, _ = language.cross_entropy(logits_BV, labels_B, label_smoothing=self.label_smoothing)
        loss = Mean.weighted(loss_B, weights_B)
        accuracy = Mean.weighted(logits_BV.argmax(axis=-1) == labels_B, weights_B)
        return objective.Outcome.of(loss, {'accuracy': accuracy}, auxiliary)

    def per_example(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> jax.Array:
        outputs, _ = apply(batch, train=train, rngs=rngs)
        smoothing = self.label_smoothing
        return language.cross_entropy(outputs['logits'], batch['labels'], label_smoothing=smoothing)[0]
