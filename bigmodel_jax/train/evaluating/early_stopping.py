"""Early stopping: ends a run at an evaluation, when a metric has not improved for a number of evaluations in a row."""

import math
from collections.abc import Mapping
from typing import Any

from bigmodel_jax.evaluate import evaluation, metric
from bigmodel_jax.experiment import STOPPING, EarlyStopping, Experiment
from bigmodel_jax.hosts import processes

REASON = 'early_stopping'  # As loop.TrainingResult.stopped_by has it.


class Monitor:
    """Follows the metric of a run.

    Its state is part of the position of each checkpoint, so that a run that was interrupted stops at the same step.

    Args:
      position: of the checkpoint that the session begins with.
    """

    def __init__(self, experiment: Experiment, direction: metric.Direction, position: Mapping[str, Any]):
        self._config: EarlyStopping | None = experiment.watch.early_stopping
        self._direction = direction
        known: Mapping[str, Any] = position.get(REASON, {})
        if self._config is None or known.get('metric') != self._config.metric:
            known = {}
        self._best: float | None = known.get('best')
        self._best_step: int | None = known.get('best_step')
        self._waited: int = known.get('waited', 0)

    @property
    def position(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        if self._config is None:
            return {}
        own = {'best': self._best, 'best_step': self._best_step, 'waited': self._waited}
        return {REASON: {'metric': self._config.metric, **own}}

    def reads(self, name: str) -> bool:
        """Whether the metric is one of the evaluation `name`."""
        return self._config is not None and self._config.metric.partition('/')[0] == name

    def see(self, number: int, fresh: Mapping[str, float]) -> None:
        """Takes note of the metrics that the evaluations after step `number` gave, if the metric is among them.

        The value of the first process counts on every process, so that all stop at the same step even if an evaluation
        should give them different numbers.
        """
        if self._config is None or self._config.metric not in fresh:
            return
        value = processes.from_first(fresh[self._config.metric])
        margin = self._config.min_delta if self._direction == 'lower' else -self._config.min_delta
        best = math.nan if self._best is None else self._best
        if metric.is_better(value + margin, best, self._direction):
            self._best, self._best_step, self._waited = value, number, 0
        else:
            self._waited += 1

    def missing(self, name: str, found: evaluation.EvaluationResult) -> str | None:
        """A sentence if the evaluation `name` did not give the metric, as one that does not declare its metrics may."""
        if self._config is None or not self.reads(name) or self._config.metric.partition('/')[2] in found.metrics:
            return None
        return (
            f'{STOPPING}={self._config.metric!r}: the evaluation {name!r} did not give this metric; it is not counted.'
        )

    @property
    def reason(self) -> str | None:
        """Why the run is finished before its last step, in one sentence; None if it is not."""
        if self._config is None or self._waited < self._config.patience:
            return None
        last = f'the last {self._waited} evaluations'
        if self._best is None:
            return f'{self._config.metric} was not a finite number in {last}'
        return (
            f'{self._config.metric} did not improve in {last}; its best value is {self._best:.6g}, '
            f'at step {self._best_step}'
        )
