"""Some steps of a run, repeated with jax.profiler: where their time went."""

import dataclasses
import gzip
import itertools
import os
from collections.abc import Callable, Iterable
from typing import Any

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.hosts import compile_cache
from bigmodel_jax.parallel import sharding
from bigmodel_jax.report.profile import breakdown as breakdowns
from bigmodel_jax.report.profile import prediction as predictions
from bigmodel_jax.report.profile import program_ops, stored, trace_file
from bigmodel_jax.report.profile.program_ops import ProgramOps
from bigmodel_jax.reproduce import repeat
from bigmodel_jax.run_directory import environment
from bigmodel_jax.runs import directory
from bigmodel_jax.storage import durable_files
from bigmodel_jax.train import loop, step
from bigmodel_jax.train.monitoring import profiling
from bigmodel_jax.train.state import StateSpec, TrainState

Say = Callable[[str], None]
WARM_UP = 1  # Steps of a session before the traced ones: the first one compiles.
MOST_STEPS_AGAIN = 200  # That are trained before the traced ones from the beginning, where there is no checkpoint.
PROGRAM = 'program.hlo.gz'
SHOWN_OPS = 10
WRITABLE = 'The trace is kept there: make it writable, or copy the run and profile the copy.'


@dataclasses.dataclass(frozen=True)
class RunProfile:
    """Where the time of some steps of a run went."""

    run: directory.Run
    folder: epath.Path  # Of the trace.
    breakdown: breakdowns.Breakdown
    program: ProgramOps | None  # Of the step; None: the operations were told apart by their names alone.
    hardware: predictions.Hardware
    prediction: predictions.Prediction | str  # A sentence if there is none.

    @property
    def ops(self) -> tuple[breakdowns.OpTime, ...]:
        """The operations that took the most time."""
        return self.breakdown.ops[:SHOWN_OPS]

    def origin(self, op: breakdowns.OpTime) -> str:
        """Where an operation came from: its scope in the model, and the line of the source; '' if that is unknown."""
        return self.program.origins.get(op.name, '') if self.program is not None else ''

    def to_json(self) -> dict[str, Any]:
        """It as JSON, in seconds of a step."""
        found = self.breakdown
        names = (*breakdowns.CAUSES, 'hidden')
        return {
            'steps': list(found.steps),
            'step_s': found.step_s,
            'seconds': {name: found.seconds(name) for name in names},
            'hardware': list(self.hardware),
            'prediction': self.prediction if isinstance(self.prediction, str) else self.prediction.to_json(),
            'devices': [dataclasses.asdict(each) for each in found.devices],
            'ops': [
                {**dataclasses.asdict(op), 'seconds': found.op_seconds(op), 'origin': self.origin(op)}
                for op in self.ops
            ],
        }


def profile(
    run: directory.Run,
    steps: profiling.Steps | None = None,
    *,
    experiment_file: str | None = None,
    say: Say = lambda _: None,
) -> RunProfile:
    """Traces steps of a run again, into the folder profile/ of its directory; nothing else of it changes.

    The steps are trained in a temporary directory, from the newest checkpoint before them, on the mesh that they were
    trained on.

    Args:
      steps: the first and the last; None: the newest trace that is there is explained, and nothing is trained.
      experiment_file: needed only if it defines parts of the experiment; see repeat.experiment_of().
      say: is told what is going on.

    Raises:
      InputError: there are no such steps, no checkpoint before them, or too few devices; the directory cannot be
        written; or there is no trace that can be read.
    """
    traces = run.path / profiling.FOLDER
    if steps is None:
        return explain(run, trace_file.newest(traces), experiment_file=experiment_file)
    asked = repeat.experiment_of(run, experiment_file)
    start = _start(run, steps, asked.steps)
    _check_writable(traces)
    first, last = steps
    session = repeat.sessions_of(run, first - 1, last)[-1][1]
    experiment = _plain(repeat.on_mesh(repeat.made(run, first), session))
    origin = f'the checkpoint of step {start}' if start else 'the initial state'
    say(f'Training steps {start + 1} to {last} from {origin} in a temporary directory; {first} to {last} are traced.')
    programs = KeptProgram()
    with repeat.folder(None) as into:
        repeat.begin_at(run, experiment, into, start)
        result = loop.train(experiment, into, stop_after=last, new_segment=True, profile=steps, programs=programs)
        if result.step < last:
            raise config.InputError(f'The training was stopped by {result.stopped_by} at step {result.step}.')
        taken = trace_file.newest(into / profiling.FOLDER)
        folder = _store(taken, traces, programs.text())
    found = explain(run, folder, hardware=environment.describe()['devices'], experiment_file=experiment_file)
    durable_files.write_json(folder / stored.BREAKDOWN, found.to_json())
    return found


def explain(
    run: directory.Run,
    folder: epath.Path,
    *,
    hardware: predictions.Hardware | None = None,
    experiment_file: str | None = None,
) -> RunProfile:
    """What a trace says that train --profile or profile() wrote.

    Args:
      hardware: on which it was taken; None: as recorded with the trace, or else with the run.

    Raises:
      InputError: it cannot be read.
    """
    program = None
    if durable_files.exists(folder / PROGRAM):
        try:
            program = program_ops.read(gzip.decompress((folder / PROGRAM).read_bytes()).decode())
        except (OSError, EOFError, ValueError) as error:
            raise config.InputError(f'{folder / PROGRAM} is damaged: {error}. Delete it, or trace again.') from error
    found = breakdowns.of(trace_file.read(folder, program))
    repeat.experiment_of(run, experiment_file)
    first, last = found.steps
    session = repeat.sessions_of(run, first - 1, last)[-1][1]
    if hardware is None and durable_files.exists(folder / stored.BREAKDOWN):
        hardware = durable_files.read_json(folder / stored.BREAKDOWN).get('hardware')
    hardware = session['devices'] if hardware is None else hardware
    prediction = predictions.of(repeat.with_mesh(repeat.made(run, first), session), hardware)
    return RunProfile(run, folder, found, program, hardware=hardware, prediction=prediction)


def _start(run: directory.Run, steps: profiling.Steps, last: int) -> int:
    """The checkpoint from which the steps are reached; 0: the initial state."""
    first, until = steps
    name = f'--steps {first}:{until}'
    if not 1 <= first <= until:
        raise config.InputError(f'{name}: give the first and the last step, as in --steps 10:13.')
    if until > last:
        raise config.InputError(f'{name}: the experiment of {run.path} has steps 1 to {last}.')
    if first <= WARM_UP:
        raise config.InputError(f'{name}: the first step of a session also compiles; use steps from {WARM_UP + 1} on.')
    before = [saved for saved in run.checkpoints if saved + WARM_UP < first]
    if before:
        return max(before)
    if first > MOST_STEPS_AGAIN:
        raise config.InputError(f'{name}: {run.path} has no checkpoint before step {first - WARM_UP}. {_usable(run)}')
    return 0


def _check_writable(folder: epath.Path) -> None:
    durable_files.check_no_link(folder)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise config.InputError(f'{folder} cannot be made: {error.strerror}. {WRITABLE}') from error
    if not durable_files.is_remote(folder) and not os.access(folder, os.W_OK | os.X_OK):
        raise config.InputError(f'{folder} cannot be written. {WRITABLE}')


def _usable(run: directory.Run) -> str:
    if not run.checkpoints:
        return f'Without a checkpoint, use steps up to {MOST_STEPS_AGAIN}, which are trained from the beginning.'
    saved = run.checkpoints[0]
    first = saved + WARM_UP + 1
    return f'Its first checkpoint is of step {saved}: use steps from {first} on, as --steps {first}:{first + 3}.'


def _plain(experiment: Experiment) -> Experiment:
    """Without evaluations, which are no part of a step, and what depends on them; the steps are the same."""
    changes = {'evaluations': (), 'checkpoints.keep_best': None, 'watch.early_stopping': None}
    return config.vary(experiment, changes)


class KeptProgram(step.RunPrograms):
    """Keeps the program of a session's step, so that the names in a trace can be looked up in it."""

    def __init__(self) -> None:
        self._lowered: Any = None

    def compile_step(self, experiment: Experiment, spec: StateSpec, place: sharding.ShardingContext) -> step.TrainStep:
        found = super().compile_step(experiment, spec, place)
        if not isinstance(found, step.SeededStep):  # Of a step in a fixed order, which is several programs.
            return found

        def run(state: TrainState, batch: step.Batch) -> tuple[TrainState, step.Trace]:
            if self._lowered is None:
                self._lowered = found.lower(state, batch)
            return found(state, batch)

        return run

    def text(self) -> str | None:
        """The compiled program as text; None if there is not one program. JAX has it, and does not compile it again."""
        with compile_cache.kept():
            return None if self._lowered is None else str(self._lowered.compile().as_text())


def _store(taken: epath.Path, traces: epath.Path, text: str | None) -> epath.Path:
    """Copies a trace into the run's directory, with the program of the step."""
    names: Iterable[str] = itertools.chain([taken.name], (f'{taken.name}_{n}' for n in itertools.count(2)))
    target = next(path for name in names if not durable_files.exists(path := traces / 'plugins' / 'profile' / name))
    try:
        repeat.copy_folder(taken, target)
        if text is not None:
            durable_files.write(target / PROGRAM, gzip.compress(text.encode(), mtime=0))
    except OSError as error:
        raise config.InputError(f'{target} cannot be written: {error.strerror}. Make room, and trace again.') from error
    return target
