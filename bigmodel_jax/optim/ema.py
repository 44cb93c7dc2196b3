"""Exponential moving average of the weights (Polyak averaging), kept beside them and used by evaluations."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel_jax import config

PyTree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ema:
    """After each update, average <- decay x average + (1 - decay) x weights; it starts as the initial weights.

    With `warmup` the decay after n updates is at most (1 + n) / (10 + n), so that the initial weights are soon
    forgotten; this takes the place of Adam's division by 1 - decay^n, which an average that starts at 0 would need.
    Source of the rule: tf.train.ExponentialMovingAverage, argument num_updates. Of averaging: Polyak and Juditsky
    (1992), Acceleration of stochastic approximation by averaging.
    """

    decay: config.Probability = 0.999
    warmup: bool = True
    evaluate: bool = True  # Evaluations, and the model restored from a checkpoint, use the average.

    def decay_after(self, step: jax.Array) -> jax.Array:
        """The decay of the update that is applied after `step` others, [] float32."""
        updates = jnp.asarray(step, jnp.float32) + 1
        return jnp.minimum(self.decay, (1 + updates) / (10 + updates)) if self.warmup else jnp.float32(self.decay)

    def update(self, average: PyTree, weights: PyTree, step: jax.Array) -> PyTree:
        """The average after an update that gave `weights`; `step` others were applied before."""
        decay = self.decay_after(step)
        return jax.tree.map(lambda old, new: (decay * old + (1 - decay) * new).astype(old.dtype), average, weights)
