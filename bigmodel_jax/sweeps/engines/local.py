"""This machine: several trials at a time, each in a process with its share of the cores or accelerators."""

import contextlib
import dataclasses
import math
import os
import pathlib
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence

from bigmodel_jax import config
from bigmodel_jax.parallel import sharding
from bigmodel_jax.storage import durable_files
from bigmodel_jax.sweeps import worker
from bigmodel_jax.sweeps.engines import devices, engine
from bigmodel_jax.sweeps.sweep_directory import SweepDirectory, TrialEntry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Local(engine.Engine):
    """Processes on this machine.

    On the CPU each process keeps to its own cores: as many as there are cores, divided by the processes. On
    accelerators each gets as many chips as its mesh needs, through the variable that hides the others.

    Attributes:
      processes: at the same time; by default one for each core, or one for each group of accelerators that a mesh
        needs, and no more than there are trials.
      simulate_devices: into how many devices each process splits its share of the CPU, as `train` does.
    """

    processes: config.Positive | None = None
    simulate_devices: config.Positive | None = None

    def check(self) -> None:
        devices.accelerators()

    @contextlib.contextmanager
    def jobs(self, directory: SweepDirectory) -> Iterator['LocalJobs']:
        shares, words = self._shares(directory)
        with tempfile.TemporaryDirectory() as scratch:
            running = LocalJobs(directory, shares, words, scratch=pathlib.Path(scratch), flags=self._flags)
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


class LocalJobs(engine.Jobs):
    """Processes of this machine that train trials.

    Args:
      shares: what each of the processes that may run at a time gets.
      words: the shares in words.
      scratch: a local directory, for logs that belong into an object store.
      flags: arguments of each trial.
    """

    def __init__(
        self,
        directory: SweepDirectory,
        shares: Sequence[devices.Share],
        words: str,
        *,
        scratch: pathlib.Path,
        flags: Sequence[str],
    ):
        self._directory, self._words, self._scratch, self._flags = directory, words, scratch, flags
        self._free = list(shares)
        self._running: dict[TrialEntry, tuple[subprocess.Popen[bytes], devices.Share]] = {}

    def room(self) -> int:
        return len(self._free)

    def submit(self, entries: Sequence[TrialEntry]) -> None:
        for entry in entries:
            share = self._free.pop(0)
            # The process ends when this one does, however it ends.
            flags = [*self._flags, '--end-with', str(os.getpid())]
            with open(self._log(entry), 'ab') as log:
                process = subprocess.Popen(
                    [*worker.command(self._directory, entry), *flags],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **share.environment},
                    start_new_session=True,  # Ctrl-C on the terminal reaches it through this process alone, and once.
                )
            if share.cores:
                with contextlib.suppress(ProcessLookupError):  # Threads that it starts later keep to them too.
                    os.sched_setaffinity(process.pid, share.cores)
            self._running[entry] = process, share

    def ended(self) -> Sequence[engine.EndedJob]:
        found = []
        for entry, (process, share) in list(self._running.items()):
            status = process.poll()
            if status is None:
                continue
            del self._running[entry]
            self._free.append(share)
            self._keep_log(entry)
            killed = status == -signal.SIGKILL
            reason = 'killed by SIGKILL, as the system does when its memory is full' if killed else ''
            found.append(engine.EndedJob(entry, status, reason))
        return found

    def stop(self, entries: Sequence[TrialEntry]) -> None:
        for entry in entries:
            if entry in self._running:
                self._running[entry][0].send_signal(signal.SIGTERM)

    def interrupt(self, number: signal.Signals) -> str | None:
        self.stop(list(self._running))
        return None

    def describe(self) -> str:
        return self._words

    def kill(self) -> None:
        """Ends every process at once, with those that it started."""
        for process, _ in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._running.clear()

    def _log(self, entry: TrialEntry) -> pathlib.Path:
        path = self._directory.log(entry)
        return self._scratch / path.name if durable_files.is_remote(path) else pathlib.Path(path)

    def _keep_log(self, entry: TrialEntry) -> None:
        """An object store cannot append: the log goes there as a whole when the trial has ended."""
        path = self._directory.log(entry)
        if durable_files.is_remote(path):
            durable_files.write(path, self._log(entry).read_bytes())
