"""Single faults of file operations, and the schedule of all those that a run can meet."""

import collections
import dataclasses
import errno
import pathlib
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

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
ANY = '*'  # The pattern that every path matches.
# What differs between the names of files of one kind: steps and random names; and what has the time in it.
NUMBER = re.compile(r'(?<=/)\d+(?=[./]|$)|(?<![0-9a-f])[0-9a-f]{8,}(?![0-9a-f])')
TIMED = re.compile(r'(?<=events\.out\.).*')
# What differs between the paths of the parts of a checkpoint that are written in the same way.
PART = re.compile(r'(?<=/)(model|optimizer)(?=/|$)|(?<=process_)\d+')
Calls = Mapping[tuple[str, str], int]  # (operation, place) -> how many calls there are.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong in one session."""

    start: str  # Of STARTS.
    hosts: int
    host: int  # The one that it happens to.
    operation: str  # Of shim.OPERATIONS.
    n: int  # Which call, from 1, of those whose path matches.
    what: str  # An error, or a way to be killed.
    # Every later call of the operation fails too, whatever its path; if the disk is full, also those that need room.
    lasts: bool = False
    path: str = ANY  # A pattern for the path below the run's directory, as place() gives.

    def __str__(self) -> str:
        words = (self.start, self.hosts, self.host, self.operation, self.n, self.what)
        path = () if self.path == ANY else (self.path,)
        return ':'.join(map(str, (*words, 'lasting' if self.lasts else 'once', *path)))

    @property
    def kills(self) -> bool:
        """Whether the process is killed."""
        return self.what in WAYS

    @property
    def group(self) -> tuple[str, str, str, bool]:
        """What it has in common with the faults of one operation on one kind of file that fail in the same way."""
        return self.operation, self.path, self.what, self.lasts

    @property
    def kind(self) -> tuple[str, str, str, bool]:
        """Its group, without which part of a checkpoint it is, or of which process."""
        return self.operation, PART.sub('#', self.path), self.what, self.lasts

    def order(self, directory: pathlib.Path, log: pathlib.Path) -> list[str | int]:
        """What shim.arm() is told.

        Args:
          directory: only calls on paths below it count.
          log: the call that it meets is written there.
        """
        happens = WAYS.get(self.what, shim.Happens.FAIL)
        number = 0 if self.kills else getattr(errno, self.what)
        return [str(directory), self.operation, self.path, self.n, int(happens), number, int(self.lasts), str(log)]


def parse(text: str) -> Fault:
    """The inverse of str(fault).

    Raises:
      ValueError: it is none.
    """
    start, hosts, host, operation, n, what, last, *path = text.split(':', 7)
    known = operation in shim.OPERATIONS and what in (*ERRORS[operation], *KILLS[operation])
    if not known or start not in STARTS or last not in ('once', 'lasting'):
        raise ValueError(text)
    return Fault(
        start=start,
        hosts=int(hosts),
        host=int(host),
        operation=operation,
        n=int(n),
        what=what,
        lasts=last == 'lasting',
        path=path[0] if path else ANY,
    )


def place(path: str) -> str:
    """The pattern of the paths of all files of the same kind: '/checkpoints/12.partial' -> '/checkpoints/#.partial'."""
    return NUMBER.sub('#', TIMED.sub(ANY, path))


def schedule(
    calls: Mapping[tuple[str, int, int], Calls], *, seed: int, most: int | None = None, each: bool = False
) -> list[Fault]:
    """Every fault that a run can meet, or `most` of them, in an order that follows from the seed.

    Args:
      calls: of (start, hosts, host).
      each: one fault of each group: of all faults of one operation on one kind of file that fail in the same way. Those
        of different kinds come first, so that the first part of a sweep shows the most.
    """
    dice, groups = random.Random(seed), collections.defaultdict(list)
    for (start, hosts, host), counts in sorted(calls.items()):
        for (operation, path), count in sorted(counts.items()):
            where: dict[str, Any] = {'start': start, 'hosts': hosts, 'host': host}
            where |= {'operation': operation, 'path': path}
            for what, lasts in _kinds(operation):
                found = [Fault(**where, n=n, what=what, lasts=lasts) for n in range(1, count + 1)]
                groups[operation, path, what, lasts] += found
    planned = [fault for group in groups.values() for fault in ([dice.choice(group)] if each else group)]
    dice.shuffle(planned)
    return (_different_first(planned) if each else planned)[:most]


def _different_first(planned: Sequence[Fault]) -> list[Fault]:
    """First one of each kind, then a second of each, and so on."""
    met: collections.Counter[tuple[str, str, str, bool]] = collections.Counter()
    rounds: dict[int, list[Fault]] = collections.defaultdict(list)
    for fault in planned:
        rounds[met[fault.kind]].append(fault)
        met[fault.kind] += 1
    return [fault for number in sorted(rounds) for fault in rounds[number]]


def _kinds(operation: str) -> Sequence[tuple[str, bool]]:
    once = [(what, False) for what in (*ERRORS[operation], *KILLS[operation])]
    return once + [(what, True) for what in ERRORS[operation] if what in LASTING]
