"""The run's objective on other data: loss, perplexity, bits per byte, and whatever else it measures."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel_jax import config, sharding
from bigmodel_jax.data import batches
from bigmodel_jax.evaluate import evaluation
from bigmodel_jax.objectives.objective import Apply, Mean

PyTree = Any
Totals = dict[str, Mean]

LARGEST_EXPONENT = 700.0  # exp() of more is beyond a float.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss(evaluation.Evaluation):
    """Every metric of the objective over one pass through `data` in order, without dropout.

    Where the objective measures 'nll', in nats per token, its exponential is added as 'perplexity'.
    """

    data: batches.Data
    every_steps: config.Positive
    name: str = 'validation'
    max_batches: config.Positive | None = None  # Only the first so many of the pass.

    def build(self, setting: evaluation.Setting) -> evaluation.Evaluator:
        setting.place.local_rows(self.data.batch)
        data = self.data.build(setting.seed)
        setting.model.check(data.fields)
        count = min(data.steps_per_pass, self.max_batches or data.steps_per_pass)
        return LossEvaluator(self.name, setting, data, count)


class LossEvaluator(evaluation.Evaluator):
    """Adds up the first `count` batches on the devices and reads the sums once, at the end."""

    def __init__(self, name: str, setting: evaluation.Setting, data: batches.Batches, count: int):
        self._name, self._place, self._data, self._count = name, setting.place, data, count
        step = functools.partial(eval_step, setting=setting)
        self._step = jax.jit(step, donate_argnums=0, out_shardings=setting.place.replicated)
        zeros = functools.partial(_zeros, step)
        self._zeros = jax.jit(zeros, out_shardings=setting.place.replicated)

    def run(self, params: PyTree, model_state: PyTree) -> Mapping[str, float]:
        rows, totals = self._data.rows, None
        mine = self._place.local_rows(rows)
        for index in range(self._count):
            batch = self._place.put_batch(self._data.in_order(index, mine), rows)
            totals = self._zeros(params, model_state, batch) if totals is None else totals
            totals = self._step(totals, params, model_state, batch)
        return metrics(jax.device_get(totals), self._name)


def eval_step(
    totals: Totals | None,
    params: PyTree,
    model_state: PyTree,
    batch: dict[str, jax.Array],
    *,
    setting: evaluation.Setting,
) -> Totals:
    """`totals` and those of one more batch; None stands for none so far."""
    with sharding.use(setting.place):
        found = setting.objective(Apply(setting.module, params, model_state), batch, None).metrics
    return found if totals is None else jax.tree.map(jnp.add, totals, found)


def _zeros(step: Any, *arguments: PyTree) -> Totals:
    return jax.tree.map(jnp.zeros_like, jax.eval_shape(functools.partial(step, None), *arguments))


def metrics(totals: Totals, name: str) -> dict[str, float]:
    """The means of `totals`, already read from the device, and the perplexity.

    Raises:
      InputError: nothing in the data of the evaluation `name` has a weight.
    """
    empty = [metric for metric, mean in totals.items() if not mean.count]
    if empty:
        raise config.InputError(f'Evaluation {name!r}: no example has a weight above 0, so {empty[0]!r} has no mean.')
    means = {metric: float(mean.total) / float(mean.count) for metric, mean in totals.items()}
    if 'nll' in means:
        means['perplexity'] = math.exp(means['nll']) if means['nll'] < LARGEST_EXPONENT else math.inf
    return means
