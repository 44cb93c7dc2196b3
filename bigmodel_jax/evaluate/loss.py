"""The run's objective on other data: loss, perplexity, bits per byte, and whatever else it measures."""

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.evaluate import evaluation, metric
from bigmodel_jax.objectives import objective, requirements, rngs
from bigmodel_jax.objectives.objective import Apply, Mean
from bigmodel_jax.parallel import sharding

PyTree = Any
Totals = dict[str, Mean]

LARGEST_EXPONENT = 700.0  # exp() of more is beyond a float.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss(evaluation.Evaluation):
    """Every metric of the objective over one pass through `data` in order, without dropout.

    Where the objective measures 'nll', in nats per token, its exponential is added as 'perplexity'. A metric for which
    nothing in `data` has a weight is nan.
    """

    data: batches.Data
    every_steps: config.Positive
    name: str = 'validation'
    max_batches: config.Positive | None = None  # Only the first so many of the pass.

    def requires(self, of: objective.Objective, outputs: requirements.Outputs) -> requirements.Requirements | None:
        return of.requires

    def metrics(self, of: objective.Objective, measured: evaluation.MeasuredNames) -> metric.Definitions:
        return {name: definition(name, of) for name in with_perplexity(measured(self.data))}

    def build(self, setting: evaluation.EvaluationContext) -> evaluation.Evaluator:
        data = setting.open(self.data, self.name)
        count = min(data.steps_per_pass, self.max_batches or data.steps_per_pass)
        return LossEvaluator(setting, data, count)


class LossEvaluator(evaluation.Evaluator):
    """Adds up the first `count` batches on the devices and reads the sums once, at the end."""

    data: batches.Batches

    def __init__(self, setting: evaluation.EvaluationContext, data: batches.Batches, count: int):
        self._setting, self._place, self.data, self._count = setting, setting.place, data, count
        step = functools.partial(eval_step, setting=setting)
        self._step = jax.jit(step, donate_argnums=0, out_shardings=setting.place.replicated)
        losses = functools.partial(_losses, setting=setting)
        self._losses = jax.jit(losses, out_shardings=setting.place.replicated)
        zeros = functools.partial(_zeros, step)
        self._zeros = jax.jit(zeros, out_shardings=setting.place.replicated)

    @property
    def fingerprint(self) -> Mapping[str, Any]:  # type: ignore[override]  # It grows when a reference is given.
        return self.data.examples.fingerprint

    def per_example(self, params: PyTree, model_state: PyTree) -> np.ndarray | None:
        """[N] float64: the loss of each example of the pass, in its order, without those of no weight.

        None where the objective has no loss of an example.
        """
        rows, found = self.data.rows, []
        mine = self._place.local_rows(rows)
        for index in range(self._count):
            batch = self._place.put_batch(self.data.eval_batch(index, mine), rows)
            losses = self._losses(params, model_state, batch, number=index)
            if losses is None:
                return None
            weights = batch.get('example_weights', losses * 0 + 1)
            found.append([np.asarray(each, np.float64) for each in jax.device_get((losses, weights))])
        losses, weights = (np.concatenate(each) for each in zip(*found))
        return losses[(weights > 0) & ~np.isnan(losses)]

    def run(self, params: PyTree, model_state: PyTree) -> evaluation.EvaluationResult:
        rows, totals = self.data.rows, None
        mine = self._place.local_rows(rows)
        for index in range(self._count):
            batch = self._place.put_batch(self.data.eval_batch(index, mine), rows)
            totals = self._zeros(params, model_state, batch, number=index) if totals is None else totals
            totals = self._step(totals, params, model_state, batch, number=index)
        found = means(jax.device_get(totals))
        return evaluation.EvaluationResult(
            {name: definition(name, self._setting.objective).measured(value) for name, value in found.items()}
        )


def definition(name: str, of: objective.Objective) -> metric.Definition:
    """What a metric is, of which the objective may declare the direction."""
    found = metric.known(name)
    return dataclasses.replace(found, direction=of.directions.get(name, found.direction))


def eval_step(
    totals: Totals | None,
    params: PyTree,
    model_state: PyTree,
    batch: dict[str, jax.Array],
    *,
    number: jax.Array | int,
    setting: evaluation.EvaluationContext,
) -> Totals:
    """`totals` and those of batch `number`; None stands for none so far."""
    streams = rngs.of_evaluation(setting.seed, number, setting.objective.streams, _rows(batch))
    with sharding.use(setting.place):
        apply = Apply(setting.module, params, model_state)
        found = setting.objective(apply, batch, train=False, rngs=streams).metrics
    return found if totals is None else jax.tree.map(jnp.add, totals, found)


def _losses(
    params: PyTree,
    model_state: PyTree,
    batch: dict[str, jax.Array],
    *,
    number: jax.Array | int,
    setting: evaluation.EvaluationContext,
) -> jax.Array | None:
    """The loss of each example of batch `number`, [B]."""
    streams = rngs.of_evaluation(setting.seed, number, setting.objective.streams, _rows(batch))
    with sharding.use(setting.place):
        apply = Apply(setting.module, params, model_state)
        return setting.objective.per_example(apply, batch, train=False, rngs=streams)


def _rows(batch: Mapping[str, jax.Array]) -> int:
    return len(next(iter(batch.values())))


def _zeros(step: Any, *arguments: PyTree, number: jax.Array) -> Totals:
    return jax.tree.map(jnp.zeros_like, jax.eval_shape(functools.partial(step, None), *arguments, number=number))


def means(totals: Totals) -> dict[str, float]:
    """The means of `totals`, already read from the device, and the perplexity; nan where nothing has a weight."""
    found = {name: float(mean.total) / float(mean.count) if mean.count else math.nan for name, mean in totals.items()}
    return found | {name: _perplexity(found['nll']) for name in with_perplexity(found) - found.keys()}


def with_perplexity(names: Collection[str]) -> set[str]:
    """The names of the metrics of an objective, and 'perplexity' where it measures 'nll'."""
    return {*names, 'perplexity'} if 'nll' in names else {*names}


def _perplexity(nll: float) -> float:
    return math.inf if nll >= LARGEST_EXPONENT else math.exp(nll)
