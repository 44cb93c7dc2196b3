"""The evaluations of a session: when each is due, what it found, and whether the run is finished early."""

from collections.abc import Mapping
from typing import Any

from bigmodel_jax.evaluate import evaluation
from bigmodel_jax.train import preparation, services
from bigmodel_jax.train.evaluating import best, early_stopping
from bigmodel_jax.train.state import TrainState

FINISHED_EARLY = early_stopping.REASON  # As loop.TrainingResult.stopped_by has it.


class Evaluations:
    """Runs the evaluations of a run as they come due.

    Args:
      position: of the checkpoint that the session begins with.
    """

    def __init__(self, run: preparation.PreparedRun, tools: services.Services, position: Mapping[str, Any]):
        self._run, self._tools = run, tools
        self.latest: dict[str, float] = dict(position.get('latest', {}))  # The last value of each metric.
        self._early = early_stopping.Monitor(run.experiment, run.directions.stopping, position)

    @property
    def position(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {'latest': dict(self.latest)} | self._early.position

    @property
    def finished_early(self) -> str | None:
        """Why early stopping ends the run, in a sentence; None if it does not."""
        return self._early.reason

    def may_stop(self, number: int) -> bool:
        """Whether an evaluation is due after step `number` on which early stopping depends."""
        return any(self._early.reads(each.name) for each, _ in self._due(number))

    def run(self, number: int, current: TrainState) -> dict[str, float]:
        """Runs the evaluations that are due after step `number`; returns their metrics as 'name/metric'."""
        due = self._due(number)
        if not due:
            return {}
        experiment, tools, fresh = self._run.experiment, self._tools, {}
        params = current.averaged_params if experiment.ema is not None and experiment.ema.evaluate else current.params
        params = self._run.spec.storage.read(params)
        for each, evaluator in due:
            with tools.clock.phase('evaluation'):
                found = evaluator.run(params, current.model_state)
                fresh |= tools.writer.evaluation(number, each.name, found)
            tools.progress.evaluation(number, each.name, found)
            tools.log_event('keep_best', number, best.missing(experiment.checkpoints.keep_best, each.name, found))
            tools.log_event('warning', number, self._early.missing(each.name, found))
        self._early.see(number, fresh)
        self.latest |= fresh
        tools.hooks.after_metrics(number, fresh)
        return fresh

    def _due(self, number: int) -> list[tuple[evaluation.Evaluation, evaluation.Evaluator]]:
        experiment = self._run.experiment
        pairs = zip(experiment.evaluations, self._run.evaluators)
        return [(each, built) for each, built in pairs if number % each.every_steps == 0 or number == experiment.steps]
