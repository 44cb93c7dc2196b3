"""What a process of a rehearsal notes of a person's own code while it runs."""

import contextlib
import faulthandler
import functools
import linecache
import os
import pathlib
import signal
import socket
import sys
import types
from collections.abc import Iterator
from typing import Any

import bigmodel_jax
from bigmodel_jax import config
from bigmodel_jax.launch.doctor.rehearsal import records
from bigmodel_jax.user_code import own_modules

PACKAGE = str(pathlib.Path(bigmodel_jax.__file__).parent)
STACKS = signal.SIGQUIT  # What hosts/preemption.py does not listen to.
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
# Besides another name, what tells a host of each kind of target which one it is.
NUMBERS = ('SLURM_PROCID', 'SLURM_NODEID', 'TPU_WORKER_ID', 'JOB_COMPLETION_INDEX')


def environment(host: int) -> dict[str, str]:
    """The variables in which hosts differ; also the order of sets, which differs in every process."""
    named = {name: str(host) for name in NUMBERS}
    return {**named, 'HOSTNAME': _name(host), 'PYTHONHASHSEED': str(1_000 + host), 'PYTHONDONTWRITEBYTECODE': '1'}


def _name(host: int) -> str:
    return f'host-{host}'


def name_host(host: int) -> None:
    """Gives this process the name of a host of its own, as Python tells it."""
    real = os.uname()
    named = os.uname_result((real.sysname, _name(host), real.release, real.version, real.machine))
    os.uname = lambda: named
    socket.gethostname = lambda: _name(host)


def dump_stacks(folder: pathlib.Path, host: int) -> None:
    """From now on STACKS writes the stacks of all threads into a file, whatever they wait for."""
    file = records.stacks(folder, host).open('w')  # For the whole life of the process.
    faulthandler.register(STACKS, file=file, all_threads=True)


def note_writes(recorder: records.Recorder) -> None:
    """From now on the files that a person's own code writes or renames are recorded, each place once."""
    seen: set[tuple[str, int, str]] = set()
    noting = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal noting
        if noting or event not in ('open', 'os.rename', 'os.mkdir'):
            return
        path = _written(event, arguments)
        place = None if path is None else own_place()
        if path is None or place is None or (place.file, place.line, path) in seen:
            return
        noting = True  # What is noted here is no write of theirs.
        with contextlib.suppress(OSError):
            seen.add((place.file, place.line, path))
            recorder.add(records.WRITE, path=path, place=place._asdict())
        noting = False

    sys.addaudithook(hook)


def _written(event: str, arguments: tuple[Any, ...]) -> str | None:
    """The absolute path that an event of sys.audit writes; None if it writes none."""
    path = arguments[1] if event == 'os.rename' else arguments[0]
    if event == 'open':
        mode, flags = arguments[1], arguments[2]
        opens = any(letter in mode for letter in 'wax+') if isinstance(mode, str) else bool((flags or 0) & WRITES)
        if not opens:
            return None
    if event == 'os.mkdir' or not isinstance(path, (str, bytes, os.PathLike)):
        return None
    text = os.path.abspath(os.fsdecode(path))
    return None if text.startswith(('/dev/', '/proc/')) else text


def own_place(frame: types.FrameType | None = None) -> records.CodeLine | None:
    """The line of a person's own code that called; None if this package did, or nobody's own code is there."""
    frame = frame or sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file != __file__ and file.startswith(PACKAGE):
            return None
        if own_modules.is_own(file):
            return place(file, frame.f_lineno, frame.f_code.co_name)
        frame = frame.f_back
    return None


def place(file: str, line: int, function: str) -> records.CodeLine:
    """A line with its text."""
    return records.CodeLine(file, line, function, linecache.getline(file, line).strip())


@contextlib.contextmanager
def refusing_starts(recorder: records.Recorder | None = None) -> Iterator[None]:
    """Within this context jax.distributed.initialize() of a person's own code is recorded and refused.

    It would wait for hosts that are not here; or, in a process that has joined the others, fail.
    """
    import jax

    def refuse(*arguments: Any, **named: Any) -> None:
        where = own_place()
        if recorder is not None:
            recorder.add(records.STARTS, place=None if where is None else where._asdict())
        raise config.InputError(
            'jax.distributed.initialize() is called once, by train, before the experiment file is loaded. Leave the '
            'call out of the file.'
        )

    real = jax.distributed.initialize
    jax.distributed.initialize = functools.wraps(real)(refuse)
    try:
        yield
    finally:
        jax.distributed.initialize = real


def own_frames(dump: str) -> Iterator[tuple[str, int, str]]:
    """(file, line, function) of the calls in own code in a text of faulthandler, the innermost first."""
    for line in dump.splitlines():
        text = line.strip()
        if text.startswith('File "') and '", line ' in text:
            file, _, rest = text.removeprefix('File "').partition('", line ')
            number, _, function = rest.partition(' in ')
            if own_modules.is_own(file):
                yield file, int(number), function
