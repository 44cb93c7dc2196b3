"""Starts the processes of a rehearsal, and ends them in bounded time, whatever they do."""

import collections
import contextlib
import dataclasses
import os
import pathlib
import subprocess
import sys
import time
import warnings
from collections.abc import Callable

from bigmodel_jax import config
from bigmodel_jax.hosts import simulation
from bigmodel_jax.launch.doctor.rehearsal import instruments, records

MOST_HOSTS = 4  # Each takes a core and a gigabyte of this machine, and what differs between hosts shows with two.
LIMIT_S = 300.0
IDLE_S = 10.0  # Of hosts of which none computes or reads: they wait for each other for ever.
GRACE_S = 8.0  # What the others have to end by themselves when one has failed.
POLL_S = 0.2
# Of the looks within IDLE_S. Hosts that wait for ever still send heartbeats, and look whether another one failed.
BUSY_SHARE = 0.25
BUSY = 'RD'  # States of a thread in /proc: it runs or could, or it waits for a disk.
WITH_PROC = pathlib.Path('/proc/self/task').exists()

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class RehearsalOutcome(config.Value):
    """How a rehearsal ended.

    Attributes:
      statuses: the exit status of each host; None if it had to be ended.
      stuck: no host computed any more, though none had ended.
    """

    order: records.RehearsalOrder
    folder: pathlib.Path
    statuses: tuple[int | None, ...]
    stuck: bool
    seconds: float

    @property
    def hosts(self) -> tuple[records.HostRecords, ...]:
        """The records of all hosts."""
        return tuple(records.HostRecords(self.folder, host) for host in range(self.order.hosts))


def hosts_for(asked: int) -> int:
    """How many processes stand for so many hosts on this machine."""
    return min(asked, MOST_HOSTS, max(os.cpu_count() or 1, 2))


def rehearse(order: records.RehearsalOrder, folder: pathlib.Path) -> RehearsalOutcome:
    """Runs the processes of a rehearsal and leaves none behind.

    Args:
      folder: an empty one for their records; removed by the caller.
    """
    order.write(folder)
    begun = time.monotonic()
    started: list[subprocess.Popen[bytes]] = []
    with simulation.ending(started):
        coordinator = f'127.0.0.1:{simulation.free_port()}'
        for host in range(order.hosts):
            started.append(_start(folder, host, coordinator))
        stuck = _wait(started, folder, begun + LIMIT_S)
        statuses = tuple(process.poll() for process in started)
    return RehearsalOutcome(order, folder, statuses, stuck, time.monotonic() - begun)


def _start(folder: pathlib.Path, host: int, coordinator: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, '-m', 'bigmodel_jax.launch.doctor.rehearsal', str(folder), str(host), coordinator]
    with open(records.printed(folder, host), 'wb') as output, warnings.catch_warnings():
        # JAX warns of every fork; the new process only calls prctl() before it becomes the program.
        warnings.filterwarnings('ignore', 'os.fork', RuntimeWarning)
        return subprocess.Popen(
            command,
            env=os.environ | instruments.environment(host),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=simulation.end_with_parent if simulation.ENDS_WITH_PARENT else None,
        )


def _wait(processes: list[subprocess.Popen[bytes]], folder: pathlib.Path, deadline: float) -> bool:
    """Waits until all have ended, one failed, none does anything any more, or it is late; whether they are stuck."""
    looks: collections.deque[bool] = collections.deque(maxlen=round(IDLE_S / POLL_S))
    while True:
        statuses = [process.poll() for process in processes]
        if None not in statuses:
            return False
        now = time.monotonic()
        if any(statuses):
            deadline = min(deadline, now + GRACE_S)
        looks.append(_any_busy(processes))
        idle = len(looks) == looks.maxlen and sum(looks) < BUSY_SHARE * len(looks)
        if idle or now > deadline:
            _dump(processes, folder)
            return idle and not any(statuses)
        time.sleep(POLL_S)


def _any_busy(processes: list[subprocess.Popen[bytes]]) -> bool:
    """Whether a thread of one of the processes runs or could, now; without /proc they count as busy."""
    return not WITH_PROC or any(_states(process.pid) & set(BUSY) for process in processes if process.poll() is None)


def _states(pid: int) -> set[str]:
    """The states of the threads of a process."""
    found = set()
    for task in pathlib.Path(f'/proc/{pid}/task').glob('*'):
        with contextlib.suppress(OSError):
            # After the name, which is in parentheses and may hold anything.
            found.add((task / 'stat').read_text().rpartition(')')[2].split()[0])
    return found


def _dump(processes: list[subprocess.Popen[bytes]], folder: pathlib.Path) -> None:
    """Lets every process that still runs write where its threads are."""
    left = [host for host, process in enumerate(processes) if process.poll() is None]
    for host in left:
        processes[host].send_signal(instruments.STACKS)
    until = time.monotonic() + 2.0
    while time.monotonic() < until and not all(_written(folder, host) for host in left):
        time.sleep(POLL_S)


def _written(folder: pathlib.Path, host: int) -> bool:
    file = records.stacks(folder, host)
    return file.exists() and file.stat().st_size > 0
