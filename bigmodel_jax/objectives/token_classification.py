"""Token classification: one label for each token that counts, as of named entities."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bigmodel_jax.objectives import language, objective, requirements
from bigmodel_jax.objectives.objective import Mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenClassification(objective.Objective):
    """Mean cross-entropy over the tokens of weight 1.

    Batch: 'labels' [B, T] int32, and optionally 'loss_weights' [B, T], 0 where a token has no label, such as the
    second piece of a word and padding. The model returns 'logits' [B, T, V], V being the classes.

    Source: Devlin et al. (2018), arXiv:1810.04805, section 5.3.
    """

    requires = requirements.TOKEN_LABELS

    def __call__(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> objective.Outcome:
        outputs, auxiliary = apply(batch, train=train, rngs=rngs)
        weights_BT = weights_of(batch)
        labels_BT = objective.counted(batch['labels'], weights_BT)
        loss_BT, _ = language.cross_entropy(outputs['logits'], labels_BT)
        accuracy = Mean.weighted(language.hits(outputs['logits'], labels_BT), weights_BT)
        return objective.Outcome.of(Mean.weighted(loss_BT, weights_BT), {'accuracy': accuracy}, auxiliary)

    def per_example(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> jax.Array:
        outputs, _ = apply(batch, train=train, rngs=rngs)
        weights_BT = weights_of(batch)
        loss_BT, _ = language.cross_entropy(outputs['logits'], objective.counted(batch['labels'], weights_BT))
        return (loss_BT * weights_BT).sum(axis=1) / jnp.maximum(weights_BT.sum(axis=1), 1)


def weights_of(batch: Mapping[str, jax.Array]) -> jax.Array:
    """How much each label counts, [B, T] float32."""
    return objective.position_weights({**batch, 'targets': batch['labels']})
