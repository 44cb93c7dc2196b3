"""Profiles steps of a session with jax.profiler; changes no result."""

import contextlib

import jax
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.hosts import processes
from bigmodel_jax.storage import appending, durable_files
from bigmodel_jax.train.monitoring import hooks
from bigmodel_jax.train.state import TrainState
from bigmodel_jax.train.step import Trace

FOLDER = 'profile'
STEP = 'training step'  # The name of a step of the loop in a trace.

Steps = tuple[int, int]  # The first and the last.


def check(steps: Steps, directory: epath.Path, *, done: int, last: int) -> None:
    """Checks that the steps will be trained in this session.

    Args:
      done: the step from which the session begins.
      last: the step at which it ends.

    Raises:
      InputError: they will not; or the directory is remote.
    """
    first, until = steps
    name = f'--profile {first}:{until}'
    if not 1 <= first <= until:
        raise config.InputError(f'{name}: give the first and the last step to profile, as in --profile 11:15.')
    if first <= done:
        raise config.InputError(f'{name}: the run resumes after step {done}; profile steps from {done + 1} on.')
    if until > last:
        raise config.InputError(f'{name}: this session ends at step {last}; profile steps up to it.')
    if durable_files.is_remote(directory):
        raise config.InputError(f'{name}: the profiler writes only to a local disk, and {directory} is remote.')


class Profiler(hooks.Hook):
    """Traces some steps of a session on the first process."""

    def __init__(self, steps: Steps | None, directory: epath.Path):
        self._steps = steps if processes.is_first() else None
        self._folder = directory / FOLDER
        self._step = contextlib.ExitStack()  # The mark of the step that is being traced.
        self._runs = False

    def __enter__(self) -> 'Profiler':
        return self

    def __exit__(self, *_: object) -> None:
        if self._runs:  # The session ends within the steps.
            self._stop()

    def before_batch(self, number: int, current: TrainState) -> None:
        """Starts the trace if step `number` is the first of it, when the steps before it are done; marks the step."""
        if self._steps is not None and number == self._steps[0] and not self._runs:
            jax.block_until_ready(current)
            # Without its tracer of Python's calls, which would slow down the host many times.
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True, profiler_options=options)
            self._runs = True
        if self._runs:
            self._step.close()
            self._step.enter_context(jax.profiler.StepTraceAnnotation(STEP, step_num=number))

    def after_step(self, number: int, current: TrainState, trace: Trace) -> None:
        """Ends the trace if step `number` is the last of it, when it is done."""
        if self._steps is not None and self._runs and number >= self._steps[1]:
            jax.block_until_ready(current)
            self._stop()

    def _stop(self) -> None:
        steps, self._steps, self._runs = self._steps, None, False
        assert steps is not None
        self._step.close()
        try:
            jax.profiler.stop_trace()
        except OSError as error:
            appending.say(f'The profile could not be written: {durable_files.brief(error)}. The training continues.')
            return
        appending.say(
            f'Steps {steps[0]} to {steps[1]} are traced in the folder {FOLDER} of the run. `bigmodel_jax profile` says '
            'where their time went; XProf, TensorBoard and https://ui.perfetto.dev draw them.'
        )
