"""This machine: several trials at a time, each in a process with its share of the cores or accelerators."""

import contextlib
import dataclasses
import math
import os
import pathlib
import signal
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bigmodel_jax import config
from bigmodel_jax.parallel import sharding
from bigmodel_jax.storage import durable_files
from bigmodel_jax.sweeps import worker
from bigmodel_jax.sweeps.engines import devices, engine, local_process
from bigmodel_jax.sweeps.sweep_directory import SweepDirectory, TrialEntry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Local(engine.Engine):
    """Processes on this machine.

    On the CPU each process keeps to its own cores: as many as there are cores, divided by the processes. On
    accelerators each gets as many chips as its mesh needs, through the variable that hides the others.

    A process trains one trial after another, and compiles once what several of them compute in a step; see
    train/together. One whose trial fails or is stopped ends, and another takes its place.

    Attributes:
      processes: at the same time; by default one for each core, or one for each group of accelerators that a mesh
        needs, and no more than there are trials.
      simulate_devices: into how many devices each process splits its share of the CPU, as `train` does.
      together: False: every trial has a process of its own. None: True on the CPU, where the trials were found to end
        with the same states, bit for bit, either way; False on accelerators, where that was not tried.
    """

    processes: config.Positive | None = None
    simulate_devices: config.Positive | None = None
    together: bool | None = None

    def check(self, directory: SweepDirectory) -> None:
        """As Engine.check(); also that the meshes fit this machine."""
        self._shares(directory)

    @contextlib.contextmanager
    def jobs(self, directory: SweepDirectory) -> Iterator['LocalJobs']:
        """As Engine.jobs()."""
        shares, words = self._shares(directory)
        on_cpu = all(share.is_of_cpu for share in shares)
        with tempfile.TemporaryDirectory() as scratch:
            together = on_cpu if self.together is None else self.together
            how = LocalTraining(pathlib.Path(scratch), tuple(self._flags), together)
            running = LocalJobs(directory, shares, words, how)
            try:
                yield running
            finally:
                running.kill()

    @property
    def _flags(self) -> list[str]:
        return [] if self.simulate_devices is None else ['--simulate-devices', str(self.simulate_devices)]

    def _shares(self, directory: SweepDirectory) -> tuple[list[devices.Share], str]:
        """What each process gets, and that in words."""
        there = devices.accelerators() if self.simulate_devices is None else devices.Accelerators('cpu')
        trials = len(directory.description.trials)
        if there.kind == 'cpu':
            mine = devices.cores()
            for mesh in _meshes(directory):
                mesh.sizes(self.simulate_devices or 1)  # Raises.
            count = self.processes or min(len(mine), trials)
            each = max(len(mine) // count, 1)
            words = f'{_several(count, "process", "processes")} with {_several(each, "core", "cores")} each'
            return devices.shares(count, there, chips=0, mine=mine), words
        chips = self._chips(directory, there)
        count = self.processes or min(len(there.ids) // chips, trials)
        words = f'{_several(count, "process", "processes")} with {_several(chips, "accelerator", "accelerators")} each'
        return devices.shares(count, there, chips=chips, mine=()), words

    def _chips(self, directory: SweepDirectory, there: devices.Accelerators) -> int:
        """How many accelerators each process gets."""
        total = len(there.ids)
        fixed = [mesh for mesh in _meshes(directory) if mesh.data != -1]
        needed = max((math.prod(mesh.sizes(total * there.devices).values()) for mesh in fixed), default=0)
        chips = math.ceil(needed / there.devices) if needed else max(total // (self.processes or total), 1)
        if there.kind == 'tpu':  # Only some parts of a host can be used alone.
            chips = next(size for size in devices.TPU_BOUNDS if size >= chips or size == max(devices.TPU_BOUNDS))
        if chips * (self.processes or 1) > total:
            raise config.InputError(
                f'--jobs {self.processes or 1} with {chips} accelerators each need {chips * (self.processes or 1)}, '
                f'but this machine has {total}. Use --jobs {max(total // chips, 1)}, or a smaller mesh.'
            )
        return chips


def _several(count: int, one: str, more: str) -> str:
    return f'{count} {one if count == 1 else more}'


def _meshes(directory: SweepDirectory) -> list[sharding.MeshShape]:
    """The meshes of the arms."""
    found = [config.from_json(arm['mesh']) for arm in directory.description.arms.values()]
    return [mesh for mesh in found if isinstance(mesh, sharding.MeshShape)]


class LocalTraining(NamedTuple):
    """How the processes are started.

    Attributes:
      scratch: a local directory, for logs that belong into an object store.
      flags: arguments of each process.
      together: whether a process trains several trials, one after another.
    """

    scratch: pathlib.Path
    flags: tuple[str, ...]
    together: bool


class LocalJobs(engine.Jobs):
    """Processes of this machine that train trials.

    Args:
      shares: what each of the processes that may run at a time gets.
      words: the shares in words.
    """

    def __init__(self, directory: SweepDirectory, shares: Sequence[devices.Share], words: str, how: LocalTraining):
        self._directory, self._words, self._how = directory, words, how
        self._free = list(shares)
        self._idle: list[local_process.LocalProcess] = []  # They have a share, and wait for a trial.
        self._running: dict[TrialEntry, local_process.LocalProcess] = {}

    def room(self) -> int:
        """As Jobs.room()."""
        return len(self._free) + len(self._idle)

    def submit(self, entries: Sequence[TrialEntry], *, stop_after: int | None = None) -> None:
        """As Jobs.submit()."""
        for entry in entries:
            self._leave_out_the_dead()
            process = self._idle.pop(0) if self._idle else self._started(entry, stop_after)
            if self._how.together:
                process.ask(entry.name, self._log(entry), stop_after)
            self._running[entry] = process

    def _started(self, entry: TrialEntry, stop_after: int | None) -> local_process.LocalProcess:
        together = self._how.together
        trains = worker.command(self._directory, entry, stop_after=stop_after)
        command = worker.serving_command(self._directory) if together else trains
        # The process ends when this one does, however it ends.
        command = [*command, *self._how.flags, '--end-with', str(os.getpid())]
        return local_process.LocalProcess(command, self._free.pop(0), self._log(entry), serves=together)

    def _leave_out_the_dead(self) -> None:
        """Frees the shares of idle processes that ended, as when the system's memory was full."""
        self._free += [process.share for process in self._idle if process.status() is not None]
        self._idle = [process for process in self._idle if process.status() is None]

    def ended(self) -> Sequence[engine.EndedJob]:
        """As Jobs.ended()."""
        found = []
        for entry, process in list(self._running.items()):
            status = process.status()
            if process.has_answered():  # Asked after the status: one that ended may have answered before.
                self._idle.append(process)
                found.append(engine.EndedJob(entry, 0))
            elif status is not None:
                self._free.append(process.share)
                killed = status == -signal.SIGKILL
                reason = 'killed by SIGKILL, as the system does when its memory is full' if killed else ''
                found.append(engine.EndedJob(entry, status, reason))
            else:
                continue
            del self._running[entry]
            self._keep_log(entry)
        return found

    def stop(self, entries: Sequence[TrialEntry]) -> None:
        """As Jobs.stop()."""
        for entry in entries:
            if entry in self._running:
                self._running[entry].stop()

    def interrupt(self, number: signal.Signals) -> str | None:
        """As Jobs.interrupt(): the trials are asked to stop."""
        self.stop(list(self._running))
        return None

    def describe(self) -> str:
        """As Jobs.describe()."""
        return self._words

    def kill(self) -> None:
        """Ends every process at once, with those that it started."""
        for process in [*self._running.values(), *self._idle]:
            process.kill()
        self._running.clear()
        self._idle.clear()

    def _log(self, entry: TrialEntry) -> pathlib.Path:
        path = self._directory.log(entry)
        return self._how.scratch / path.name if durable_files.is_remote(path) else pathlib.Path(path)

    def _keep_log(self, entry: TrialEntry) -> None:
        """An object store cannot append: the log goes there as a whole when the trial has ended."""
        path = self._directory.log(entry)
        if durable_files.is_remote(path):
            durable_files.write(path, self._log(entry).read_bytes())
