"""Whether the hosts of a target reach the data of an experiment and its work directory."""

import io
import os
import pathlib
import sys
import tarfile
from collections.abc import Collection, Iterator
from typing import Any

from bigmodel_jax import config
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.launch import code, programs
from bigmodel_jax.launch.doctor import results
from bigmodel_jax.launch.targets import target
from bigmodel_jax.run_directory import locking, workdir
from bigmodel_jax.storage import durable_files
from bigmodel_jax.train.recovery import continuing

DATA, DIRECTORY = 'data', 'work directory'
# Writes, reads and removes one small file.
PROBE = (
    'import sys; from etils import epath; path = epath.Path(sys.argv[1]); path.write_text("doctor"); '
    'assert path.read_text() == "doctor"; path.unlink()'
)
READ = 'import sys; from etils import epath; sys.exit(0 if epath.Path(sys.argv[1]).exists() else 3)'
MISSING = 3
NAME = '.bigmodel_jax_doctor'
OF_ONE_MACHINE = ('tmpfs', 'ramfs')  # File systems that no other machine sees.
TEMPORARY = ('/tmp', '/var/tmp', '/dev/shm')  # By convention on the disk, or in the memory, of one machine.
MOUNTS = pathlib.Path('/proc/mounts')


def paths_in(node: Any, where: str = '') -> Iterator[tuple[str, str]]:
    """(field, text) of what looks like a path in a config, such as ('data.source.path', '/data/books.txt')."""
    for name, value in config.walk(node):
        field = config.join(where, name)
        if isinstance(value, os.PathLike) or (isinstance(value, str) and _is_path(value)):
            yield field, os.fspath(value)
        elif config.is_config(value):
            yield from paths_in(value, field)


def _is_path(text: str) -> bool:
    if not text.isprintable() or ' ' in text or len(text) < 3:
        return False
    return '://' in text or text.startswith(('/', '~/', './', '../')) or ('/' in text and os.path.exists(text))


def check_data(
    experiment: Experiment, on: target.Target, packed: code.PackedCode | None, run: programs.Run
) -> Iterator[results.CheckResult]:
    """The results of the paths that an experiment names; what it finds by a name, such as a data set, is prepared on
    the hosts."""
    found = [(field, text) for field, text in paths_in(experiment) if not field.startswith('claims.')]
    if not found:
        yield results.ok(DATA, 'the experiment names no path')
        return
    sent = frozenset(_names(packed)) if packed else frozenset()
    for field, text in found:
        if '://' in text:
            yield _in_store(field, text, run)
        elif on.shares_files:
            yield _here(field, text, on)
        else:
            yield _sent(field, text, packed, sent)


def _names(packed: code.PackedCode) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(packed.archive)) as tar:
        return tar.getnames()


def _in_store(field: str, text: str, run: programs.Run) -> results.CheckResult:
    try:
        durable_files.directory(text)
    except config.InputError as error:
        return results.not_checked(DATA, f'{field}={text!r}: {error}')
    if '*' in text:
        return results.not_checked(DATA, f'{field}={text!r} is a pattern')
    answer = run([sys.executable, '-c', READ, text])
    if answer.status == 0:
        return results.ok(DATA, f'{field}={text!r} is there')
    if answer.status == MISSING:
        return results.fault(DATA, f'{field}={text!r}: there is nothing.', 'Correct the path, or copy the data there.')
    return results.not_checked(DATA, f'{field}={text!r} cannot be reached from here: {answer.problem}')


def _here(field: str, text: str, on: target.Target) -> results.CheckResult:
    path = pathlib.Path(text).expanduser()
    if not path.exists() and '*' not in text:
        return results.fault(DATA, f'{field}={text!r}: there is no such file here.', 'Correct the path.')
    if not on.foreground and (why := alone(path)):
        return results.warning(
            DATA, f'{field}={text!r}: {why}, which other machines do not see.', 'Use a directory that all nodes share.'
        )
    return results.ok(DATA, f'{field}={text!r} is there')


def _sent(field: str, text: str, packed: code.PackedCode | None, sent: Collection[str]) -> results.CheckResult:
    """A path on the hosts of a cloud, which start in the packed code and see nothing else of this machine."""
    path = pathlib.Path(text).expanduser()
    advice = f'Copy it to a bucket: gcloud storage cp --recursive {path} gs://BUCKET/, and name it so.'
    if path.is_absolute():
        if path.exists():
            return results.fault(
                DATA, f'{field}={text!r} is a path of this machine; the hosts of the target do not see it.', advice
            )
        return results.not_checked(DATA, f'{field}={text!r} is not a path of this machine; is it one of the hosts?')
    if packed is None:
        return results.not_checked(DATA, f'{field}={text!r}: the code could not be packed')
    name = os.path.normpath(text)
    if any(each == name or each.startswith(f'{name}/') for each in sent):
        return results.ok(DATA, f'{field}={text!r} is sent with the code')
    there = (packed.root / name).exists()
    why = 'is ignored by git, so it is not sent' if there else f'is not in {packed.root}, from where the hosts start'
    return results.fault(DATA, f'{field}={text!r} {why}.', advice)


def alone(path: pathlib.Path) -> str | None:
    """Why a path is most likely seen by one machine alone; None if it may well be shared."""
    path = path.absolute()
    for folder in TEMPORARY:
        if path.is_relative_to(folder):
            return f'{folder} is a directory of one machine'
    kind = _file_system(path)
    return f'its file system is {kind}, of one machine' if kind in OF_ONE_MACHINE else None


def _file_system(path: pathlib.Path) -> str:
    """The kind of the file system of a path; '' where that is unknown."""
    try:
        lines = [line.split() for line in MOUNTS.read_text().splitlines()]
    except OSError:
        return ''
    holding = [(len(where), kind) for _, where, kind, *_ in lines if path.is_relative_to(where)]
    return max(holding)[1] if holding else ''


def check_directory(
    experiment: Experiment, directory: str, on: target.Target, run: programs.Run
) -> Iterator[results.CheckResult]:
    """The results of the work directory: whether it can be written, and whether a run may begin or go on there."""
    try:
        path = durable_files.directory(directory)
    except config.InputError as error:
        yield results.not_checked(DIRECTORY, f'this machine cannot reach it: {error}')
        return
    if durable_files.is_remote(path):
        answer = run([sys.executable, '-c', PROBE, f'{directory.rstrip("/")}{NAME}'])
        if answer.status != 0:
            because = f'writing to {directory} from here failed: {answer.problem}'
            advice = 'The account of this machine may have fewer rights than that of the hosts; `gcloud auth '
            yield results.not_checked(DIRECTORY, because, f'{advice}application-default login` gives it yours.')
            return

    def free() -> str:
        locking.check_free(path)
        workdir.check_writable(path)
        changes = workdir.check(path, experiment)
        continuing.check(path, changes, consent=False)
        there = durable_files.exists(path / durable_files.EXPERIMENT)
        return f'{directory} can be written' + ('; the run there is resumed' if there else '')

    found = results.attempt(DIRECTORY, free)
    yield found
    why = None if durable_files.is_remote(path) or on.foreground else alone(pathlib.Path(path))
    if why and found.level is results.Level.OK:
        advice = 'Use a directory that all nodes see at the same path, such as one on NFS.'
        yield results.warning(DIRECTORY, f'{directory}: {why}.', advice)
