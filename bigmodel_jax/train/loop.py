"""The training loop: `train` opens a session, `Session.steps` is the loop itself."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from bigmodel_jax.experiment import Experiment
from bigmodel_jax.hosts import preemption
from bigmodel_jax.run_directory.digest import digest
from bigmodel_jax.storage import durable_files
from bigmodel_jax.train import services, state, step
from bigmodel_jax.train.evaluating import evaluations
from bigmodel_jax.train.monitoring import budget as budgets
from bigmodel_jax.train.monitoring import callbacks, profiling, reports
from bigmodel_jax.train.recovery import recovery

IN_FLIGHT = 2  # Steps handed to the devices before the oldest is waited for.


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """How a session ended."""

    workdir: epath.Path
    step: int
    digest: str  # Of the state at `step`; equal digests mean bit-identical states.
    # 'SIGTERM' or another signal, 'stop_after', 'callback' or 'budget'; 'early_stopping' if finished early; else None.
    stopped_by: str | None
    metrics: dict[str, float]  # The last value of each evaluation's metrics, as 'validation/loss'.
    unwritten: tuple[str, ...] = ()  # A sentence for each log that could not be written to its end.
    finished_early: str | None = None  # Why early stopping ended it, in a sentence.


def due(step: int, every: int, last: int) -> bool:
    """Whether a periodic action is due after `step`: every so many steps, and at the end."""
    return step % every == 0 or step == last


def train(
    experiment: Experiment,
    directory: epath.PathLike,
    *,
    stop_after: int | None = None,
    wandb: str | None = None,
    new_segment: bool = False,
    profile: profiling.Steps | None = None,
    callback: callbacks.Callback | None = None,
    programs: step.RunPrograms = step.OWN_PROGRAMS,
    peak_flops: float | None = None,
    budget: budgets.RunBudget | None = None,
) -> TrainingResult:
    """Trains `experiment` to its last step, resuming from the newest checkpoint in the work directory, if there is one.

    Of several processes, one on each host, every one makes this call; see hosts.joining.join().

    Args:
      directory: the work directory; new, empty, or holding this experiment.
      stop_after: stop with a checkpoint after this step; the same call without it resumes the run.
      wandb: also log to this project of Weights & Biases.
      profile: trace these steps, the first and the last, with jax.profiler into the folder profile/ of the directory.
      programs: those of the session; see train/together for some that are compiled once for several runs.
      peak_flops: operations per second of a device, for the MFU in the log; None for what hosts/chips.py knows of it.
      budget: what the run may spend in all its sessions; at the limit it saves and stops, with the reason 'budget'.
      callback: is called with the metrics as they come, and may stop the session; see callbacks.Callback.
      new_segment: consents to an experiment or data that changes the coming training steps of the run in `directory`;
        they become a new segment of the run.

    Raises:
      InputError: something a person gave is wrong; nothing was written.
      NotSaved: the last state could not be saved.
      Anomalous: a step went wrong, and `experiment.watch.anomalies` stops the run then; what it made is not saved.
    """
    directory = durable_files.directory(directory)
    how: dict[str, Any] = {'stop_after': stop_after, 'wandb': wandb, 'new_segment': new_segment, 'profile': profile}
    how |= {'callback': callback, 'programs': programs, 'peak_flops': peak_flops, 'budget': budget}
    with services.opened(experiment, directory, **how) as opened:
        session = Session(opened, stop_after=stop_after)
        with opened.services.watched():
            current, number, stopped_by = session.steps(opened.state, opened.position['step'])
        session.clean_up(number)
        early = session.evaluations.finished_early if stopped_by == evaluations.FINISHED_EARLY else None
        latest = session.evaluations.latest
        result = TrainingResult(directory, number, digest(current), stopped_by, latest, finished_early=early)
        kind = 'end' if early or not stopped_by else 'stop'
        opened.services.writer.event(kind, number, reason=early or stopped_by, digest=result.digest)
    return dataclasses.replace(result, unwritten=opened.services.unwritten)


class Session:
    """One session of a run.

    Args:
      stop_after: stop after this step.
    """

    def __init__(self, opened: services.Opened, *, stop_after: int | None):
        self.run, self.services, self.stop_after = opened.run, opened.services, stop_after
        self.recovery = recovery.Recovery(self.run, self.services, opened.position)
        self._resume(opened.position)

    def _resume(self, position: Mapping[str, Any]) -> None:
        self.reports = reports.Reports(self.run, self.services, position)
        self.evaluations = evaluations.Evaluations(self.run, self.services, position)

    def steps(self, current: state.TrainState, start: int) -> tuple[state.TrainState, int, str | None]:
        """Trains from step `start` to the last, or until asked to stop; returns state, step, and what stopped it."""
        experiment, tools, last, number = self.run.experiment, self.services, self.run.experiment.steps, start
        if (stopped_by := self._stopped_before(start)) is not None:
            return current, start, stopped_by
        train_step = self.run.programs.compile_step(experiment, self.run.spec, self.run.place)
        tools.hooks.at_start(start, current)
        while number < last:
            number += 1
            tools.hooks.before_batch(number, current)
            with tools.clock.phase('data'):
                batch = tools.prefetch.next()
            tools.hooks.before_step(number, current, batch)
            with tools.clock.phase('train'):
                current, trace = train_step(current, batch)
                jax.block_until_ready(self.recovery.add(trace, IN_FLIGHT))
            tools.hooks.after_step(number, current, trace)
            requests = tools.preemption.agree(number, save=tools.checkpoints.due())
            stopped_by = requests.stop or ('stop_after' if number == self.stop_after else None)
            reports = due(number, experiment.watch.log_every, last)
            saves = due(number, experiment.checkpoints.every_steps, last) or requests.save or stopped_by is not None
            if reports or saves or self.evaluations.may_stop(number) or self.recovery.must_check(number):
                restored = self.recovery.check(number, self.reports)
                if restored is not None:
                    current, position = restored
                    number = position['step']
                    self._resume(position)
                    continue
            if reports:
                self.reports.write(number)
            fresh = self.evaluations.run(number, current)
            stopped_by = stopped_by if self.evaluations.finished_early is None else evaluations.FINISHED_EARLY
            if saves or stopped_by:
                self.save(number, current, fresh)
            tools.log_event('checkpoint_failed', number, *tools.checkpoints.failures())
            if stopped_by and number < last:
                break
        self.finish(number, current)
        return current, number, stopped_by if number < last else None

    def _stopped_before(self, start: int) -> str | None:
        """Why the session trains no step, although the run is not at its last."""
        if start >= self.run.experiment.steps:
            return None
        if self.evaluations.finished_early is not None:
            return evaluations.FINISHED_EARLY
        if self.services.budget.is_spent():
            return preemption.BUDGET
        return 'stop_after' if self.stop_after is not None and self.stop_after <= start else None

    def save(self, number: int, current: state.TrainState, fresh: Mapping[str, float]) -> None:
        """Starts to save a checkpoint of a state that was found to be good."""
        with self.services.clock.phase('checkpoint'):
            self.services.checkpoints.save(current, self.position(number), fresh)

    def position(self, number: int) -> dict[str, Any]:
        """What is needed to resume after step `number`, besides the state."""
        parts = self.reports.position | self.evaluations.position | self.recovery.position(number)
        return {'step': number} | parts

    def finish(self, number: int, current: state.TrainState) -> None:
        """Waits for the last checkpoint; if it could not be saved, tries again for a while.

        Raises:
          NotSaved: it could not be saved then either.
        """
        with self.services.clock.phase('checkpoint'):
            failure = self.services.checkpoints.finish()
            self.services.log_event('checkpoint_failed', number, failure)
            if failure is not None:
                self.services.checkpoints.insist(current, self.position(number), {})
        self.reports.finish(number)

    def clean_up(self, number: int) -> None:
        """Deletes the checkpoints that could not be deleted before."""
        self.services.checkpoints.retain()
        self.services.log_event('warning', number, *self.services.checkpoints.failures())
