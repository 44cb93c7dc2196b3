"""Regression: one number for each row."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bigmodel_jax.objectives import objective, requirements
from bigmodel_jax.objectives.objective import Mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regression(objective.Objective):
    """Mean squared error over the rows of weight 1.

    Batch: 'values' [B] float32. The model returns 'values' [B].
    """

    requires = requirements.VALUES

    def __call__(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> objective.Outcome:
        outputs, auxiliary = apply(batch, train=train, rngs=rngs)
        weights_B = batch['example_weights']
        error_B = objective.counted(outputs['values'].astype(jnp.float32) - batch['values'], weights_B)
        return objective.Outcome.of(Mean.weighted(jnp.square(error_B), weights_B), {}, auxiliary)

    def per_example(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> jax.Array:
        outputs, _ = apply(batch, train=train, rngs=rngs)
        return jnp.square(outputs['values'].astype(jnp.float32) - batch['values'])
