"""Recovery: reads how the steps of a session went, and restores an earlier state when the experiment asks for it."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from bigmodel_jax.train import metrics, preparation, services
from bigmodel_jax.train.monitoring import reports
from bigmodel_jax.train.recovery import anomalies, rollback
from bigmodel_jax.train.route import Route
from bigmodel_jax.train.state import TrainState
from bigmodel_jax.train.step import Trace


class Recovery:
    """Follows the steps of a session, and applies the experiment's anomaly policy to them.

    Args:
      position: of the checkpoint that the session begins with.
    """

    def __init__(self, run: preparation.PreparedRun, tools: services.Services, position: Mapping[str, Any]):
        self._run, self._tools = run, tools
        self._unread: list[Trace] = []  # Still on the devices; reading each at once would stall them.
        self._route = Route.of(position)
        self._anomalies = anomalies.Anomalies(run.experiment.watch.anomalies, position)

    def position(self, number: int) -> dict[str, Any]:
        """What a checkpoint of step `number` keeps of it."""
        return {'skipped': self._route.skipped(number + 1), 'jumps': self._route.jumps} | self._anomalies.position

    def add(self, trace: Trace, in_flight: int) -> Trace:
        """Takes what a step records; returns that of the step which `in_flight` steps may still follow."""
        self._unread.append(trace)
        return self._unread[-in_flight:][0]

    def must_check(self, number: int) -> bool:
        """Whether check() has to be called after step `number` whatever else is due."""
        return self._route.turns_at(number)

    def check(self, number: int, collected: reports.Reports) -> tuple[TrainState, dict[str, Any]] | None:
        """Reads the steps since the last call, up to step `number`, and gives their metrics to the reports.

        Returns:
          None if training continues; else the earlier state and position from which it resumes, without the batches
          that went wrong.

        Raises:
          Anomalous: a step went wrong, and the run stops, so that nothing bad is saved; or there is no earlier state.
        """
        with self._tools.clock.phase('train'):
            found = metrics.read(self._unread, number - len(self._unread) + 1)
        self._unread = []
        met = self._anomalies.meet(found, self._tools.checkpoints.settled_newest)
        if met.back is not None:
            return self._restore(*met.back)
        self._tools.tracer.write(number, [each.certificate for each in found], self._route.skipped(number))
        collected.pending += met.kept
        for where, text in met.said:
            self._tools.log_event('skipped', where, text)
        return None

    def _restore(self, bad: int, why: str) -> tuple[TrainState, dict[str, Any]]:
        """The state to resume from, without the batches up to that of step `bad`; see rollback.py."""
        tools, before = self._tools, self._route
        with tools.clock.phase('checkpoint'):
            tools.checkpoints.finish()
            known = len(tools.checkpoints.damage)
            to = rollback.target(bad, self._run.experiment.checkpoints.every_steps)
            to = max(to, rollback.earliest(tools.checkpoints))
            run = dataclasses.replace(self._run, changes=())  # By now they are recorded as a segment.
            start = functools.partial(preparation.begin, run, tools.checkpoints)
            current, position = rollback.find(tools.checkpoints, before, to, start, why=why)
            number = position['step']
            tools.checkpoints.leave_after(number)
            self._route = before.back(to, bad)
            self._anomalies.back()
            tools.prefetch.seek(number, self._route)
            tools.tracer.rolled_back(number)
        tools.log_event('damage', number, *tools.checkpoints.damage[known:])
        tools.log_event('rollback', number, rollback.sentence(why, number, to, left_out=(before, self._route)))
        return current, position
