"""How far each trial of a sweep is, as its directory and the engine say; read again while it changes."""

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from typing import Any

from bigmodel_jax import config
from bigmodel_jax.evaluate import metric
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.storage import durable_files
from bigmodel_jax.sweeps.sweep_directory import SweepDirectory, TrialEntry


class State(enum.Enum):
    """Of a trial, in a word for tables."""

    WAITING = 'waiting'
    STARTED = 'started'  # And not finished; nobody is known to train it.
    RUNNING = 'running'
    ELSEWHERE = 'running elsewhere'
    STOPPED = 'stopped'  # With a checkpoint, by a signal, the budget or a rule.
    FAILED = 'failed'
    FINISHED = 'finished'


@dataclasses.dataclass(frozen=True)
class Standing:
    """How far a trial is.

    Attributes:
      step, steps: the last that was recorded, and of how many.
      curve: step -> value of the sweep's metric.
      seconds: of all its sessions.
      device_hours: of all its sessions, each times the devices of JAX that it used; on the CPU a process that does not
        simulate several devices is one.
    """

    entry: TrialEntry
    state: State = State.WAITING
    step: int = 0
    steps: int = 0
    curve: Mapping[int, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    device_hours: float = 0.0


class Standings:
    """Of all trials of a sweep.

    Attributes:
      damage: name of a trial -> why its directory cannot be read; such a trial counts as failed.
      version: grows with every change.
    """

    def __init__(self, directory: SweepDirectory):
        self._directory = directory
        self._by_name: dict[str, Standing] = {}
        self._stamps: dict[str, Any] = {}
        self.damage: dict[str, str] = {}
        self.version = 0
        self.refresh(directory.description.trials)
        for entry in directory.description.trials:
            if durable_files.exists(directory.failure(entry)) and self[entry].state is not State.FINISHED:
                self.mark(entry, State.FAILED)

    def __getitem__(self, entry: TrialEntry) -> Standing:
        return self._by_name[entry.name]

    def all(self) -> list[Standing]:
        """In the order of the sweep."""
        return [self[entry] for entry in self._directory.description.trials]

    def of(self, arm: str) -> list[Standing]:
        """Those of an arm."""
        return [each for each in self.all() if each.entry.arm == arm]

    def mark(self, entry: TrialEntry, state: State) -> None:
        """Records what the engine says of a trial; one that is finished stays so."""
        if self[entry].state is not State.FINISHED:
            self._by_name[entry.name] = dataclasses.replace(self[entry], state=state)
            self.version += 1

    def refresh(self, entries: Iterable[TrialEntry]) -> None:
        """Reads the directories of trials, where they have changed."""
        for entry in entries:
            stamp = self._stamp(entry)
            if entry.name not in self._by_name or stamp != self._stamps.get(entry.name):
                self._stamps[entry.name] = stamp
                self._by_name[entry.name] = self._read(entry)
                self.version += 1

    def forget_failure(self, entry: TrialEntry) -> None:
        """A trial that failed is to be tried again."""
        self._directory.failure(entry).unlink(missing_ok=True)
        self.damage.pop(entry.name, None)
        self.mark(entry, State.STARTED if self[entry].step else State.WAITING)

    def summary(self, standing: Standing) -> float | None:
        """The number that stands for a finished trial."""
        about = self._directory.description
        is_measured = standing.state is State.FINISHED and standing.curve
        return about.summary.of(standing.curve, about.direction) if is_measured else None

    def mean(self, arm: str) -> tuple[float, int] | None:
        """The mean of an arm's metric, and over how many seeds: finished ones, or else the latest values of all."""
        every = self.of(arm)
        done = [value for each in every if (value := self.summary(each)) is not None]
        values = done or [each.curve[max(each.curve)] for each in every if each.curve]
        return (sum(values) / len(values), len(values)) if values else None

    def best(self) -> str | None:
        """The arm with the best mean so far."""
        about = self._directory.description
        means = {arm: found[0] for arm in about.arms if (found := self.mean(arm)) is not None}
        return metric.best(means, about.direction)

    def _stamp(self, entry: TrialEntry) -> Any:
        """What changes whenever the records of a trial do."""
        path = self._directory.trial(entry) / event_log.FILE
        if durable_files.is_remote(path):
            return object()
        if not path.exists():
            return durable_files.exists(self._directory.trial(entry) / durable_files.EXPERIMENT)
        status = path.stat()
        return status.length, status.mtime

    def _read(self, entry: TrialEntry) -> Standing:
        steps = int(self._directory.description.arms[entry.arm]['steps'])
        before = self._by_name.get(entry.name, Standing(entry, steps=steps))
        try:
            run = self._directory.run(entry)
        except config.InputError as error:
            self.damage[entry.name] = str(error)
            return dataclasses.replace(before, state=State.FAILED)
        if run is None:
            return before
        return dataclasses.replace(
            before,
            state=State.FINISHED if run.finished else State.STARTED if before.state is State.WAITING else before.state,
            step=run.step,
            steps=run.steps,
            curve=self._directory.curve(run),
            seconds=run.seconds,
            device_hours=run.device_hours,
        )
