"""The training loop: `train` prepares a session, `Session.steps` is the loop itself."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from bigmodel_jax import config, sharding, torus
from bigmodel_jax import experiment as experiments
from bigmodel_jax.data import batches
from bigmodel_jax.evaluate import evaluation
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.train import (
    compile_cache,
    environment,
    feed,
    interrupt,
    memory,
    metrics,
    processes,
    progress,
    state,
    step,
    workdir,
)
from bigmodel_jax.train.checkpoints import Checkpointer
from bigmodel_jax.train.digest import digest

IN_FLIGHT = 2  # Steps handed to the devices before the oldest is waited for.


@dataclasses.dataclass(frozen=True)
class Run:
    """An experiment with everything built and checked, before the first compile."""

    experiment: Experiment
    place: sharding.Place
    data: batches.Batches
    blueprint: state.Blueprint
    evaluators: tuple[evaluation.Evaluator, ...]


@dataclasses.dataclass(frozen=True)
class Result:
    """How a session ended."""

    workdir: epath.Path
    step: int
    digest: str  # Of the state at `step`; equal digests mean bit-identical states.
    stopped_by: str | None  # 'SIGTERM', 'SIGINT', 'stop_after'; None at the end of the experiment.
    metrics: dict[str, float]  # The last value of each evaluation's metrics, as 'validation/loss'.


def build(experiment: Experiment) -> Run:
    """Opens the data and checks everything that can be checked without computing; allocates no weight.

    Raises:
      InputError: anything the experiment asks for is wrong, missing or does not fit together.
    """
    experiments.check(experiment)
    place = experiment.mesh.build()
    with sharding.use(place):
        blueprint = state.blueprint(experiment, place)
        data = experiment.data.build(experiment.seed)
        experiment.model.check(data.fields)
        setting = evaluation.Setting(
            model=experiment.model,
            module=blueprint.module,
            objective=experiment.objective,
            training=data,
            place=place,
            seed=experiment.seed,
        )
        evaluators = tuple(each.build(setting) for each in experiment.evaluations)
    return Run(experiment, place, data, blueprint, evaluators)


def prepare(experiment: Experiment) -> Run:
    """build() by every process: the first prepares the data, then the others find it, and an error of one is of all."""
    jax.devices()  # They start together: each waits here for all.
    return processes.in_turn(lambda: build(experiment))


def due(step: int, every: int, last: int) -> bool:
    """Whether a periodic action is due after `step`: every so many steps, and at the end."""
    return step % every == 0 or step == last


def train(
    experiment: Experiment, directory: epath.PathLike, *, stop_after: int | None = None, wandb: str | None = None
) -> Result:
    """Trains `experiment` to its last step, going on from the newest checkpoint in the work directory, if there is one.

    Of several processes, one on each host, every one makes this call; see launch.hosts.join().

    Args:
      directory: the work directory; new, empty, or holding this experiment.
      stop_after: stop with a checkpoint after this step; the same call without it goes on.
      wandb: also log to this project of Weights & Biases.

    Raises:
      InputError: something a person gave is wrong; nothing was written.
      NotFinite: a training metric is nan or infinite; nothing is saved after the last good checkpoint.
    """
    directory = epath.Path(directory).expanduser()
    memory.keep_freed()
    changes = _check(experiment, directory, stop_after=stop_after, wandb=wandb)
    run = _open(experiment, directory)
    with (
        interrupt.listen(run.place) as asked,
        sharding.use(run.place),
        compile_cache.kept_in(directory),
        Checkpointer(directory, experiment.checkpoints) as checkpoints,
    ):
        current, position = processes.together(lambda: _start(run, checkpoints))
        start = position['step']
        with (
            metrics.open_writer(directory, start=start, wandb=wandb, details=config.to_json(experiment)) as writer,
            progress.Progress(experiment.name, start=start, steps=experiment.steps, unit=unit(run.data)) as shown,
            feed.Feed(run.data, run.place, start) as ahead,
        ):
            _record_session(run, directory, writer, start)
            shown.say(_greeting(run, directory, start, changes))
            session = Session(
                run,
                checkpoints=checkpoints,
                writer=writer,
                shown=shown,
                ahead=ahead,
                asked=asked,
                stop_after=stop_after,
                position=position,
            )
            current, number, stopped_by = session.steps(current, start)
            checkpoints.wait()
            result = Result(directory, number, digest(current), stopped_by, session.latest)
            writer.event('stop' if stopped_by else 'end', number, reason=stopped_by, digest=result.digest)
    return result


class Session:
    """One session of a run: what the loop holds between steps."""

    def __init__(
        self,
        run: Run,
        *,
        checkpoints: Checkpointer,
        writer: metrics.Writer,
        shown: progress.Progress,
        ahead: feed.Feed,
        asked: interrupt.Interrupt,
        stop_after: int | None,
        position: dict[str, Any],
    ):
        self.run, self.checkpoints, self.writer, self.shown, self.ahead = run, checkpoints, writer, shown, ahead
        self.asked, self.stop_after = asked, stop_after
        self.unread: list[step.Metrics] = []  # Still on the devices; reading each at once would stall them.
        # Read but not yet reported: saved with a checkpoint, so that a report after it is of the whole interval.
        self.pending: list[metrics.StepMetrics] = [
            {name: (total, count) for name, (total, count) in each.items()} for each in position['pending']
        ]
        self.latest: dict[str, float] = dict(position.get('latest', {}))
        self.clock = Clock()

    def steps(self, current: state.TrainState, start: int) -> tuple[state.TrainState, int, str | None]:
        """Trains from step `start` to the last, or until asked to stop; returns state, step, and what stopped it."""
        experiment, last = self.run.experiment, self.run.experiment.steps
        if self.stop_after is not None and self.stop_after <= start < last:
            return current, start, 'stop_after'
        step_fn = step.compile_step(experiment, self.run.blueprint, self.run.place)
        for number in range(start + 1, last + 1):
            current, values = step_fn(current, self.ahead.next())
            self.unread.append(values)
            jax.block_until_ready(self.unread[-IN_FLIGHT:][0])
            self.clock.step()
            stopped_by = self.asked.settle() or ('stop_after' if number == self.stop_after else None)
            if due(number, experiment.log_every, last):
                self.report(number)
            fresh = self.evaluate(number, current)
            if due(number, experiment.checkpoints.every_steps, last) or stopped_by:
                self.save(number, current, fresh)
            if stopped_by and number < last:
                return current, number, stopped_by
        return current, last, None

    def report(self, number: int) -> None:
        """Writes the means since the last report."""
        self.read(number)
        means, seconds = metrics.mean(self.pending), self.clock.lap()
        self.pending = []
        self.writer.scalars('train', number, means)
        per_second = units_per_step(self.run.data) / seconds if seconds else 0.0
        speed = {'seconds_per_step': seconds, f'{unit(self.run.data)}_per_s': per_second}
        if seconds:
            self.writer.scalars('speed', number, speed)
        self.shown.step(number, means, per_second=per_second, seconds_per_step=seconds)

    def read(self, number: int) -> None:
        """Fetches the metrics that are still on the devices; raises NotFinite, so that nothing bad is saved."""
        self.pending += metrics.read(self.unread, number - len(self.unread) + 1, self.checkpoints.newest)
        self.unread = []

    def evaluate(self, number: int, current: state.TrainState) -> dict[str, float]:
        """Runs the evaluations that are due; returns their metrics as 'name/metric'."""
        experiment, fresh = self.run.experiment, {}
        for each, evaluator in zip(experiment.evaluations, self.run.evaluators):
            if due(number, each.every_steps, experiment.steps):
                with self.clock.pause():
                    outcome = evaluator.run(current.params, current.model_state)
                    fresh |= self.writer.evaluation(number, each.name, outcome)
                self.shown.evaluation(number, each.name, outcome)
        self.latest |= fresh
        return fresh

    def save(self, number: int, current: state.TrainState, fresh: dict[str, float]) -> None:
        """Saves a checkpoint; reads the metrics first, since a state whose loss is not finite is not worth keeping."""
        self.read(number)
        with self.clock.pause():
            position = {'step': number, 'pending': self.pending, 'latest': self.latest}
            self.checkpoints.save(current, position, fresh)


class Clock:
    """Times steps without the first of a session, which compiles, and without evaluations and saves."""

    def __init__(self) -> None:
        self._mark: float | None = None  # Start of the interval; None until the first step is done.
        self._steps = 0

    def step(self) -> None:
        """A step is done."""
        if self._mark is None:
            self._mark = time.monotonic()
        else:
            self._steps += 1

    def lap(self) -> float:
        """Seconds per step since the last lap; 0.0 if no step was timed."""
        now = time.monotonic()
        seconds = (now - self._mark) / self._steps if self._mark is not None and self._steps else 0.0
        self._mark, self._steps = now, 0
        return seconds

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """The time spent within does not count."""
        began = time.monotonic()
        yield
        if self._mark is not None:
            self._mark += time.monotonic() - began


def unit(data: batches.Batches) -> str:
    """What speed is counted in: tokens where every example is a row of them, else examples."""
    return 'tokens' if len(data.fields['weights'].shape) == 1 else 'examples'


def units_per_step(data: batches.Batches) -> int:
    """Tokens (or examples) in one global batch."""
    shape = data.fields['weights'].shape
    return data.rows * (shape[0] if shape else 1)


def _check(
    experiment: Experiment, directory: epath.Path, *, stop_after: int | None, wandb: str | None
) -> list[config.Difference]:
    """What can be checked before the devices start; returns where a run in the directory differs."""
    facts = {
        'experiment': config.to_json(experiment),
        'workdir': str(directory),
        'stop_after': stop_after,
        **environment.that_must_agree(),
    }
    processes.check_same(facts, 'Give every host the same code, libraries, flags and command.')
    changes = processes.on_first(lambda: workdir.check(directory, experiment))
    if wandb is not None:
        processes.on_first(metrics.check_wandb)
    return changes or []


def _open(experiment: Experiment, directory: epath.Path) -> Run:
    """prepare(), and then the work directory: nothing is written before everything is checked."""
    run = prepare(experiment)
    processes.on_first(lambda: workdir.create(directory, experiment))
    processes.together(lambda: workdir.check_shared(directory))
    return run


def _start(run: Run, checkpoints: Checkpointer) -> tuple[state.TrainState, dict[str, Any]]:
    """The newest checkpoint, or a new state; and the position, which says what else is needed to go on."""
    if checkpoints.newest is None:
        return run.blueprint.init(), {'step': 0, 'pending': []}
    return checkpoints.restore(run.blueprint.abstract, run.blueprint.shardings, checkpoints.newest)


def _record_session(run: Run, directory: epath.Path, writer: metrics.Writer, start: int) -> None:
    if processes.is_first():
        session = environment.describe() | {
            'step': start,
            'mesh': run.place.sizes,
            'data': dict(run.data.examples.fingerprint),
            'parameters': run.blueprint.parameters,
        }
        workdir.add_session(directory, session)
        run.data.examples.save(directory)
    writer.event('resume' if start else 'start', start)


def _greeting(run: Run, directory: epath.Path, start: int, changes: list[config.Difference]) -> str:
    lines = [
        f'{run.experiment.name}: {run.blueprint.parameters:,} parameters, '
        f'{units_per_step(run.data):,} {unit(run.data)} per step, '
        f'mesh {torus.shape_text(run.place.sizes)}, in {directory}'
    ]
    if start:
        lines.append(f'going on from the checkpoint of step {start}')
    return '\n'.join(lines + [f'changed since the last session: {change}' for change in changes])
