"""Progress of a run: a live line on a terminal, plain lines in a log."""

import contextlib
import sys
import time
from collections.abc import Mapping

import rich.progress

from bigmodel_jax.console import quantities, terminal
from bigmodel_jax.evaluate.evaluation import EvaluationResult
from bigmodel_jax.hosts import processes
from bigmodel_jax.storage import appending

PLAIN_EVERY_S = 10.0  # A log gets at most one progress line in this time.


def short(value: float) -> str:
    """A metric as people read it: four significant digits."""
    return f'{value:.4g}' if abs(value) < 1e4 else f'{value:,.0f}'


class Progress:
    """Shows steps, loss, speed and time left on stderr of the first process, as a context manager.

    Args:
      name: of the run.
      start, steps: the step the session begins at, and the last one.
      unit: what the speed counts, such as 'tokens'.
    """

    def __init__(self, name: str, *, start: int, steps: int, unit: str):
        self._steps, self._unit, self._said = steps, unit, 0.0
        self._speaks = processes.is_first()
        self._console = terminal.Console(stderr=True)
        self._live = rich.progress.Progress(
            rich.progress.TextColumn('{task.description}', style='bold', markup=False),
            rich.progress.BarColumn(),
            rich.progress.TextColumn('{task.completed}/{task.total} {task.fields[note]}', markup=False),
            console=self._console,
            disable=not (sys.stderr.isatty() and self._speaks),
        )
        self._task = self._live.add_task(name, total=steps, completed=start, note='compiling')

    def __enter__(self) -> 'Progress':
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # The terminal may be gone.
            self._live.stop()

    def say(self, message: str) -> None:
        """One line that stays."""
        if not self._speaks:
            return
        if self._live.disable:
            appending.say(message)
        else:
            with contextlib.suppress(OSError):
                self._console.print(message)

    def advance(self, step: int) -> None:
        """Moves the bar to `step`; cheap enough for every step, also where reports are minutes apart."""
        if not self._live.disable:
            self._live.update(self._task, completed=step)

    def evaluation(self, step: int, name: str, found: EvaluationResult) -> None:
        """The numbers of an evaluation, on a line that stays."""
        numbers = [f'{key} {short(measured.value)}' for key, measured in found.metrics.items()]
        if numbers:
            self.say(f'step {step}/{self._steps}  {name}: {"  ".join(numbers)}')

    def step(self, step: int, metrics: Mapping[str, float], *, per_second: float, seconds_per_step: float) -> None:
        """The state after `step`, from the metrics and the speed of the last interval (0 if it was not timed)."""
        note = f'loss {short(metrics["loss"])}' if metrics else 'every step was skipped'
        if per_second:
            note += f'  {per_second:,.0f} {self._unit}/s'
        # Of the whole interval, not of what the terminal saw in the last seconds: reports may be minutes apart.
        left = seconds_per_step * (self._steps - step)
        note += f'  {quantities.duration(left)} left' if left else ''
        self._live.update(self._task, completed=step, note=note)
        now = time.monotonic()
        if self._live.disable and (now - self._said > PLAIN_EVERY_S or step == self._steps or not self._said):
            self._said = now
            self.say(f'step {step}/{self._steps}  {note}')
