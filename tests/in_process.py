"""An engine for tests: it trains the trials one after another in this process, which starts none."""

import contextlib
import dataclasses
import signal
import traceback
from collections.abc import Iterator, Sequence

from bigmodel_jax import config
from bigmodel_jax.sweeps import worker
from bigmodel_jax.sweeps.engines import engine
from bigmodel_jax.sweeps.sweep_directory import SweepDirectory, TrialEntry


@dataclasses.dataclass(frozen=True, kw_only=True)
class InProcess(engine.Engine):
    """Trains in this process.

    Attributes:
      interrupt_at: the sweep is interrupted in its nth trial, after a checkpoint at step 8; None: it is not.
    """

    interrupt_at: int | None = None

    def check(self, directory: SweepDirectory) -> None:
        pass

    @contextlib.contextmanager
    def jobs(self, directory: SweepDirectory) -> Iterator['InProcessJobs']:
        yield InProcessJobs(directory, self)


class InProcessJobs(engine.Jobs):
    """One trial at a time, within submit()."""

    def __init__(self, directory: SweepDirectory, how: InProcess):
        self.directory, self.how, self.trained = directory, how, 0
        self.worker = worker.Worker(directory)
        self.over: list[engine.EndedJob] = []

    def room(self) -> int:
        return 1 - len(self.over)

    def submit(self, entries: Sequence[TrialEntry], *, stop_after: int | None = None) -> None:
        for entry in entries:
            self.trained += 1
            if self.trained == self.how.interrupt_at:
                self.worker.run_sharing(entry.name, stop_after=8)
                raise KeyboardInterrupt
            self.over.append(engine.EndedJob(entry, self.train(entry, stop_after)))

    def train(self, entry: TrialEntry, stop_after: int | None) -> int:
        try:
            self.worker.run_sharing(entry.name, stop_after=stop_after)
        except config.InputError:
            self.directory.log(entry).write_text(traceback.format_exc())
            return 2
        return 0

    def ended(self) -> Sequence[engine.EndedJob]:
        found, self.over = self.over, []
        return found

    def stop(self, entries: Sequence[TrialEntry]) -> None:
        pass

    def interrupt(self, number: signal.Signals) -> str | None:
        return None

    def describe(self) -> str:
        return 'in this process'
