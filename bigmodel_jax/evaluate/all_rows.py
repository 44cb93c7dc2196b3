"""The predictions for every row of a data set, on the host, as evaluations need that score all rows together."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bigmodel_jax.data import batches
from bigmodel_jax.evaluate import evaluation
from bigmodel_jax.objectives.objective import Apply
from bigmodel_jax.parallel import sharding

PyTree = Any
Chosen = tuple[jax.Array, ...]


class AllRows:
    """Predicts the rows of data in order, compiled once: all_rows(data, params, model_state).

    Args:
      choose: (outputs of the model, batch) -> arrays [B, ...] that are wanted of each row.
    """

    def __init__(self, setting: evaluation.EvaluationContext, choose: Callable[[Any, dict[str, jax.Array]], Chosen]):
        self._setting, self._choose = setting, choose
        self._step = jax.jit(self._predict, out_shardings=setting.place.replicated)

    def __call__(self, data: batches.Batches, params: PyTree, model_state: PyTree) -> tuple[np.ndarray, ...]:
        """What is wanted of each row, [N, ...] with the rows of padding that fill the last batch."""
        place, found = self._setting.place, []
        for index in range(data.steps_per_pass):
            batch = place.put_batch(data.eval_batch(index, place.local_rows(data.rows)), data.rows)
            found.append(jax.device_get(self._step(params, model_state, batch)))
        return tuple(np.concatenate(parts) for parts in zip(*found))

    def _predict(self, params: PyTree, model_state: PyTree, batch: dict[str, jax.Array]) -> Chosen:
        with sharding.use(self._setting.place):
            outputs, _ = Apply(self._setting.module, params, model_state)(batch)
        return self._choose(outputs, batch)
