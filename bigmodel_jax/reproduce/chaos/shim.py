"""faults.c, compiled, loaded and armed: what lets a file operation of a process fail, or kills the process there."""

import ctypes
import enum
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence

SOURCE = pathlib.Path(__file__).with_name('faults.c')
OPERATIONS = ('create', 'open', 'read', 'write', 'fsync', 'rename', 'mkdir', 'unlink')


class Happens(enum.IntEnum):
    """What happens at the call; the numbers are those of faults.c."""

    FAIL = 0
    KILL = 1  # Before it.
    HALF = 2  # A write: after half of the bytes.
    POWER = 3  # Before it; and bytes that were not synced are lost.
    COUNT = 4  # Nothing; every call is written down.


class Unavailable(Exception):
    """This machine cannot do it; says why."""


def build(folder: pathlib.Path) -> pathlib.Path:
    """Compiles faults.c into a library in `folder`, unless it is there; returns its path.

    Raises:
      Unavailable: there is no C compiler, or this is no Linux.
    """
    compiler = os.environ.get('CC') or shutil.which('cc') or shutil.which('gcc') or shutil.which('clang')
    if sys.platform != 'linux' or compiler is None:
        raise Unavailable(
            'Faults are planted by a small library that needs Linux and a C compiler (cc, gcc or clang), and '
            f'{"there is none" if sys.platform == "linux" else f"this is {sys.platform}"}.'
        )
    name = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    library = folder / f'faults-{name}.so'
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f'faults-{name}.{os.getpid()}.partial'
        command = [compiler, '-O1', '-shared', '-fPIC', '-o', str(partial), str(SOURCE), '-ldl', '-lpthread']
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f'{" ".join(command)} failed:\n{done.stderr}')
        partial.replace(library)
    return library


def environment(library: pathlib.Path) -> dict[str, str]:
    """The variables of a process that loads the library."""
    return {'LD_PRELOAD': str(library)}


def arm(order: Sequence[str | int]) -> None:
    """Arms the library in this process.

    Args:
      order: the arguments of faults_arm() in faults.c.
    """
    library = ctypes.CDLL(None)
    assert hasattr(library, 'faults_arm'), 'LD_PRELOAD did not load it'
    if library.faults_arm(*[each.encode() if isinstance(each, str) else ctypes.c_long(each) for each in order]):
        raise OSError('the library that plants faults could not be armed')
