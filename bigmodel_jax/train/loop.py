"""The training loop: `train` opens a session, `Session.steps` is the loop itself."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.checkpoints import restoring
from bigmodel_jax.checkpoints.checkpoints import Checkpointer
from bigmodel_jax.evaluate import evaluation
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.hosts import compile_cache, preemption, processes
from bigmodel_jax.parallel import sharding
from bigmodel_jax.run_directory.digest import digest
from bigmodel_jax.storage import durable_files
from bigmodel_jax.train import (
    anomalies,
    best,
    callbacks,
    device_memory,
    early_stopping,
    gaps,
    histograms,
    metrics,
    prefetch,
    preparation,
    profiling,
    progress,
    rollback,
    state,
    step,
    trace,
    watching,
)
from bigmodel_jax.train.route import Route

IN_FLIGHT = 2  # Steps handed to the devices before the oldest is waited for.


@dataclasses.dataclass(frozen=True)
class Result:
    """How a session ended."""

    workdir: epath.Path
    step: int
    digest: str  # Of the state at `step`; equal digests mean bit-identical states.
    # 'SIGTERM' or another signal, 'stop_after' or 'callback'; 'early_stopping' if it is finished early; else None.
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
) -> Result:
    """Trains `experiment` to its last step, going on from the newest checkpoint in the work directory, if there is one.

    Of several processes, one on each host, every one makes this call; see launch.hosts.join().

    Args:
      directory: the work directory; new, empty, or holding this experiment.
      stop_after: stop with a checkpoint after this step; the same call without it goes on.
      wandb: also log to this project of Weights & Biases.
      profile: trace these steps, the first and the last, with jax.profiler into the folder profile/ of the directory.
      callback: is called with the metrics as they come, and may stop the session; see callbacks.Callback.
      new_segment: consents to an experiment or data that changes the coming training steps of the run in `directory`;
        they become a new segment of the run.

    Raises:
      InputError: something a person gave is wrong; nothing was written.
      NotSaved: the last state could not be saved.
      Anomalous: a step went wrong, and `experiment.watch.anomalies` stops the run then; what it made is not saved.
    """
    directory = durable_files.directory(directory)
    device_memory.keep_freed()
    callbacks.check(callback)
    changes = preparation.check(
        experiment, directory, stop_after=stop_after, wandb=wandb, new_segment=new_segment, profile=profile
    )
    run = preparation.prepare_start(experiment, directory, new_segment=new_segment)
    with (
        preparation.open_workdir(experiment, directory) as guard,
        preemption.listen(run.place) as asked,
        sharding.use(run.place),
        compile_cache.kept(),
        preparation.open_checkpoints(run, directory, guard) as checkpoints,
    ):
        how: dict[str, Any] = {'guard': guard, 'changes': changes, 'stop_after': stop_after, 'wandb': wandb}
        how |= {'profile': profile, 'hook': callbacks.Hook(callback, asked.stop)}
        return _session(run, directory, checkpoints, asked, **how)


def _session(
    run: preparation.Run,
    directory: epath.Path,
    checkpoints: Checkpointer,
    asked: preemption.Interrupt,
    *,
    guard: Callable[[], None],
    changes: Sequence[config.Difference],
    stop_after: int | None,
    wandb: str | None,
    profile: profiling.Steps | None,
    hook: callbacks.Hook,
) -> Result:
    """One session of train(), once everything is open."""
    experiment = run.experiment
    current, position = processes.together(lambda: preparation.begin(run, checkpoints))
    start = position['step']
    how: dict[str, Any] = {'start': start, 'guard': guard}
    with (
        metrics.open_writer(directory, wandb=wandb, details=config.to_json(experiment), **how) as writer,
        progress.Progress(experiment.name, start=start, steps=experiment.steps, unit=run.unit) as shown,
        prefetch.Prefetcher(run.data, run.place, start, Route.of(position), workers=experiment.workers) as ahead,
        trace.Tracer(directory, run.blueprint, place=run.place, seed=experiment.seed, **how) as tracer,
        profiling.Profiler(profile, directory) as profiler,
    ):
        checkpoints.logs = (writer.sync, tracer.sync)
        checkpoints.attachments = preparation.record_session(run, directory, writer, position)
        shown.say(preparation.greeting(run, directory, position, changes=changes, begun_anew=checkpoints.begun_anew))
        equipment = Equipment(checkpoints, writer, shown, ahead, tracer, asked, profiler, hook)
        session = Session(run, equipment, position, stop_after=stop_after)
        session.heed('warning', start, rollback.warning(experiment, start))
        session.heed('damage', start, *checkpoints.damage)
        session.heed(gaps.KIND, start, gaps.missing(directory, position))
        with watching.Watcher(session.clock, functools.partial(session.heed, 'slow')):
            current, number, stopped_by = session.steps(current, start)
        checkpoints.retain()
        session.heed('warning', number, *checkpoints.failures())
        result = Result(directory, number, digest(current), stopped_by, session.latest)
        early = session.early.reason if stopped_by == early_stopping.REASON else None
        kind = 'end' if early or not stopped_by else 'stop'
        writer.event(kind, number, reason=early or stopped_by, digest=result.digest)
    return dataclasses.replace(result, unwritten=(*writer.lost, *tracer.lost), finished_early=early)


class Equipment(NamedTuple):
    """What a session works with."""

    checkpoints: Checkpointer
    writer: metrics.Writer
    shown: progress.Progress
    ahead: prefetch.Prefetcher
    tracer: trace.Tracer
    asked: preemption.Interrupt
    profiler: profiling.Profiler
    hook: callbacks.Hook


class Session:
    """One session of a run: what the loop holds between steps.

    Args:
      position: of the checkpoint that it begins with.
      stop_after: stop after this step.
    """

    def __init__(
        self, run: preparation.Run, equipment: Equipment, position: Mapping[str, Any], *, stop_after: int | None
    ):
        self.run, self.stop_after = run, stop_after
        self.checkpoints, self.writer, self.shown, self.ahead, self.tracer = equipment[:5]
        self.asked, self.profiler, self.hook = equipment[5:]
        self.unread: list[step.Trace] = []  # Still on the devices; reading each at once would stall them.
        self.clock = watching.Clock()
        self.take_histograms = histograms.compiled(run.experiment, run.blueprint, run.place)
        self.kept = restoring.Kept(self.checkpoints.workdir, self.checkpoints.attachments)
        self._take_up(position)

    def _take_up(self, position: Mapping[str, Any]) -> None:
        """Goes on from the position that a checkpoint holds."""
        # Read but not yet reported: saved with a checkpoint, so that a report after it is of the whole interval.
        self.pending: list[metrics.StepMetrics] = [
            {name: (total, count) for name, (total, count) in each.items()} for each in position['pending']
        ]
        self.reported: int = position.get('reported', 0)  # The step of the last report.
        self.latest: dict[str, float] = dict(position.get('latest', {}))
        self.route = Route.of(position)
        self.anomalies = anomalies.Anomalies(self.run.experiment.watch.anomalies, position)
        self.early = early_stopping.Monitor(self.run.experiment, self.run.stopping_direction, position)

    def steps(self, current: state.TrainState, start: int) -> tuple[state.TrainState, int, str | None]:
        """Trains from step `start` to the last, or until asked to stop; returns state, step, and what stopped it."""
        experiment, last, number = self.run.experiment, self.run.experiment.steps, start
        if self.early.reason is not None and start < last:
            return current, start, early_stopping.REASON
        if self.stop_after is not None and self.stop_after <= start < last:
            return current, start, 'stop_after'
        stopped_by, step_fn = None, step.compile_step(experiment, self.run.blueprint, self.run.place)
        self.tracer.take(start, current, None)
        while number < last:
            number += 1
            self.profiler.before(number, current)
            with self.clock.phase('data'):
                batch = self.ahead.next()
            self.histograms(number, current, batch)
            with self.clock.phase('train'):
                current, traced = step_fn(current, batch)
                self.unread.append(traced)
                jax.block_until_ready(self.unread[-IN_FLIGHT:][0])
            self.profiler.after(number, current)
            self.heed('slow', number, self.clock.step(number))
            self.shown.advance(number)
            asked = self.asked.settle(number, save=self.checkpoints.due())
            stopped_by = asked.stop or ('stop_after' if number == self.stop_after else None)
            if due(number, experiment.watch.fingerprints_every, last):
                self.tracer.take(number, current, traced.norms)
            reports = due(number, experiment.watch.log_every, last)
            saves = due(number, experiment.checkpoints.every_steps, last) or asked.save or stopped_by is not None
            judged = any(self.early.reads(each.name) for each, _ in self.evaluations_due(number))
            bad = self.read(number) if reports or saves or judged or self.route.turns_at(number) else None
            if bad is not None:
                current, number = self.go_back(*bad)
                continue
            if reports:
                self.report(number)
            fresh = self.evaluate(number, current)
            if self.early.reason is not None:
                stopped_by = early_stopping.REASON
            if saves or stopped_by:
                self.save(number, current, fresh)
            self.heed('checkpoint_failed', number, *self.checkpoints.failures())
            if stopped_by and number < last:
                break
        self.finish(number, current)
        return current, number, stopped_by if number < last else None

    def histograms(self, number: int, before: state.TrainState, batch: step.Batch) -> None:
        """Writes the histograms of step `number`, if they are due, from the state before it."""
        every = self.run.experiment.watch.histograms_every
        if every is not None and due(number, every, self.run.experiment.steps):
            with self.clock.phase('evaluation'):
                self.writer.histograms(number, self.take_histograms(before, batch))

    def report(self, number: int) -> None:
        """Writes the means since the last report."""
        means, lap = metrics.mean(self.pending), self.clock.lap()
        seconds, self.pending, self.reported = lap.seconds_per_step, [], number
        if means:  # Every step may have been skipped.
            self.writer.scalars('train', number, means)
        per_second = self.run.units_per_step / seconds if seconds else 0.0
        speed = {'seconds_per_step': seconds, f'{self.run.unit}_per_s': per_second}
        if seconds:
            self.writer.scalars('speed', number, speed)
        self.writer.event('time', number, metrics=watching.record(lap.times))
        self.heed('slow', number, lap.finding)
        self.heed('warning', number, self.kept.restored())
        self.shown.step(number, means, per_second=per_second, seconds_per_step=seconds)
        self.hook(number, {f'train/{name}': value for name, value in means.items()})

    def read(self, number: int) -> tuple[int, str] | None:
        """Fetches what the steps since the last time say; the step from which the run has to go back, and why.

        Raises:
          Anomalous: a step went wrong, and the run stops; so that nothing bad is saved.
        """
        with self.clock.phase('train'):
            found = metrics.read(self.unread, number - len(self.unread) + 1)
        self.unread = []
        met = self.anomalies.meet(found, self.checkpoints.settled_newest)
        if met.back is not None:
            return met.back
        self.tracer.write(number, [each.certificate for each in found], self.route.skipped(number))
        self.pending += met.kept
        for where, text in met.said:
            self.heed('skipped', where, text)
        return None

    def go_back(self, bad: int, why: str) -> tuple[state.TrainState, int]:
        """The state and step from which the run goes on, leaving out batches up to that of step `bad`; see rollback.py.

        Raises:
          Anomalous: there is no checkpoint to go back to.
        """
        with self.clock.phase('checkpoint'):
            self.checkpoints.finish()
            known = len(self.checkpoints.damage)
            to = rollback.target(bad, self.run.experiment.checkpoints.every_steps)
            to = max(to, rollback.earliest(self.checkpoints))
            start = functools.partial(preparation.begin, self.run, self.checkpoints)
            found = rollback.find(self.checkpoints, self.route, to, start, why=why)
            (current, position), left, before = found, self.route, self.anomalies
            number = position['step']
            self.checkpoints.leave_after(number)
            self._take_up(position)
            self.route, self.anomalies = left.back(to, bad), before
            self.anomalies.back()
            self.ahead.seek(number, self.route)
            self.tracer.rolled_back(number)
        self.heed('damage', number, *self.checkpoints.damage[known:])
        self.heed('rollback', number, rollback.sentence(why, number, to, left_out=(left, self.route)))
        return current, number

    def heed(self, kind: str, number: int, *texts: str | None) -> None:
        """Events of the run, if there are any: in its log, and on the terminal."""
        for text in filter(None, texts):
            self.writer.event(kind, number, text=text)
            self.shown.say(text)

    def evaluations_due(self, number: int) -> list[tuple[evaluation.Evaluation, evaluation.Evaluator]]:
        """The evaluations that are due after step `number`."""
        experiment = self.run.experiment
        pairs = zip(experiment.evaluations, self.run.evaluators)
        return [(each, built) for each, built in pairs if due(number, each.every_steps, experiment.steps)]

    def evaluate(self, number: int, current: state.TrainState) -> dict[str, float]:
        """Runs the evaluations that are due; returns their metrics as 'name/metric'."""
        keep_best, fresh = self.run.experiment.checkpoints.keep_best, {}
        for each, evaluator in self.evaluations_due(number):
            with self.clock.phase('evaluation'):
                found = evaluator.run(current.params, current.model_state)
                fresh |= self.writer.evaluation(number, each.name, found)
            self.shown.evaluation(number, each.name, found)
            self.heed('keep_best', number, best.missing(keep_best, each.name, found))
            self.heed('warning', number, self.early.missing(each.name, found))
        self.early.see(number, fresh)
        self.latest |= fresh
        self.hook(number, fresh)
        return fresh

    def save(self, number: int, current: state.TrainState, fresh: dict[str, float]) -> None:
        """Starts to save a checkpoint of a state that was found to be good."""
        with self.clock.phase('checkpoint'):
            self.checkpoints.save(current, self.position(number), fresh)

    def position(self, number: int) -> dict[str, Any]:
        """What is needed to go on after step `number`, besides the state."""
        own = {'step': number, 'pending': list(self.pending), 'latest': dict(self.latest), 'reported': self.reported}
        way = {'skipped': self.route.skipped(number + 1), 'jumps': self.route.jumps}
        return own | way | self.anomalies.position | self.early.position

    def finish(self, number: int, current: state.TrainState) -> None:
        """Waits for the last checkpoint; if it could not be saved, tries again for a while.

        Raises:
          NotSaved: in vain.
        """
        with self.clock.phase('checkpoint'):
            failure = self.checkpoints.finish()
            self.heed('checkpoint_failed', number, failure)
            if failure is not None:
                self.checkpoints.insist(current, self.position(number), {})
        # What came after the last report.
        self.writer.event('time', number, metrics=watching.record(self.clock.lap().times))
