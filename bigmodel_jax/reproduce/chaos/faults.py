"""Single faults of file operations, and the schedule of all those that a run can meet."""

import dataclasses
import errno
import pathlib
import random
from collections.abc import Mapping, Sequence

from bigmodel_jax.reproduce.chaos import shim

# What a call can fail with. No disk is too full to read; and rename, mkdir and unlink are not interrupted. `create` is
# an open that makes a file.
ERRORS = {
    'create': ('ENOSPC', 'EIO', 'EINTR'),
    'open': ('EIO', 'EINTR'),
    'read': ('EIO', 'EINTR'),
    'write': ('ENOSPC', 'EIO', 'EINTR'),
    'fsync': ('ENOSPC', 'EIO', 'EINTR'),
    'rename': ('ENOSPC', 'EIO'),
    'mkdir': ('ENOSPC', 'EIO'),
    'unlink': ('EIO',),
}
# Python repeats a call that was interrupted, as POSIX advises: an interruption that lasts is an endless loop.
LASTING = ('ENOSPC', 'EIO')
# A kill at a call that changes nothing is one at the next call that does.
KILLS = {
    'create': ('kill', 'power'),
    'open': (),
    'read': (),
    'write': ('kill', 'half', 'power'),
    'fsync': ('kill', 'power'),
    'rename': ('kill', 'power'),
    'mkdir': ('kill', 'power'),
    'unlink': ('kill', 'power'),
}
WAYS = {'kill': shim.Happens.KILL, 'half': shim.Happens.HALF, 'power': shim.Happens.POWER}
Orders = Mapping[int, Sequence[str | int]]  # Host -> what shim.arm() is told.
STARTS = ('fresh', 'resumed')  # Whether the run begins, or goes on from a checkpoint.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong in one session."""

    start: str  # Of STARTS.
    hosts: int
    host: int  # The one that it happens to.
    operation: str  # Of shim.OPERATIONS.
    n: int  # Which call, from 1.
    what: str  # An error, or a way to be killed.
    lasts: bool = False  # Every later call fails too; if the disk is full, also the other operations that need room.

    def __str__(self) -> str:
        words = (self.start, self.hosts, self.host, self.operation, self.n, self.what)
        return ':'.join(map(str, (*words, 'lasting' if self.lasts else 'once')))

    @property
    def kills(self) -> bool:
        """Whether the process is killed."""
        return self.what in WAYS

    def order(self, directory: pathlib.Path, log: pathlib.Path) -> list[str | int]:
        """What shim.arm() is told.

        Args:
          directory: only calls on paths below it count.
          log: the call that it meets is written there.
        """
        happens = WAYS.get(self.what, shim.Happens.FAIL)
        number = 0 if self.kills else getattr(errno, self.what)
        return [str(directory), self.operation, self.n, int(happens), number, int(self.lasts), str(log)]


def parse(text: str) -> Fault:
    """The inverse of str(fault).

    Raises:
      ValueError: it is none.
    """
    start, hosts, host, operation, n, what, last = text.split(':')
    known = operation in shim.OPERATIONS and what in (*ERRORS[operation], *KILLS[operation])
    if not known or start not in STARTS or last not in ('once', 'lasting'):
        raise ValueError(text)
    lasts = last == 'lasting'
    return Fault(start=start, hosts=int(hosts), host=int(host), operation=operation, n=int(n), what=what, lasts=lasts)


def schedule(counts: Mapping[tuple[str, int, int], Mapping[str, int]], *, seed: int, most: int | None) -> list[Fault]:
    """Every fault that a run can meet, or `most` of them, in an order that follows from the seed.

    Args:
      counts: (start, hosts, host) -> operation -> how many calls there are.
    """
    every = [
        Fault(start=start, hosts=hosts, host=host, operation=operation, n=n, what=what, lasts=lasts)
        for (start, hosts, host), calls in sorted(counts.items())
        for operation in shim.OPERATIONS
        for n in range(1, calls.get(operation, 0) + 1)
        for what, lasts in _kinds(operation)
    ]
    random.Random(seed).shuffle(every)
    return every[:most]


def _kinds(operation: str) -> Sequence[tuple[str, bool]]:
    once = [(what, False) for what in (*ERRORS[operation], *KILLS[operation])]
    return once + [(what, True) for what in ERRORS[operation] if what in LASTING]
