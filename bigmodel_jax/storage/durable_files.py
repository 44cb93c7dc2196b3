"""What a work directory holds, by name, and how its files are read and written whatever the storage does.

A read that fails is tried again for a few seconds, since network file systems and full tables of open files fail for a
moment. A file is written under another name and renamed, so that it is either the old one or the new one, and it is on
disk when the call returns. Symbolic links are never followed when writing: what is written stays in the directory.
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.storage import waits

EXPERIMENT, ENVIRONMENT, CHECKPOINTS = 'experiment.json', 'environment.json', 'checkpoints'
TRACE = 'trace.jsonl'
SEGMENTS = 'segments.json'  # See run_directory/segments.py.
SESSION = 'session.json'  # Of a checkpoint: the entry of environment.json of the session that saved it.
LIBRARIES = {'gs': 'gcsfs', 's3': 's3fs'}  # What reads and writes in an object store.
# Trying again does not help: there is no such file, or no right to it, or it is something else.
LASTING = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, FileExistsError)
SUMS = 'SHA256SUMS'  # See storage/sums.py.
PARTIAL = re.compile(r'.+\.json\.partial|.+\.[0-9a-f]{8}\.partial')  # What write() leaves when it is killed.

# What tells of a disk, a quota or a server, and of no mistake in a program.
ERRORS = {
    errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EFBIG,
    errno.ETIMEDOUT, errno.ENODEV, errno.ENXIO, errno.EHOSTDOWN, errno.ENOTCONN,
}  # fmt: skip
# In the words of TensorStore: what the operating system said, but not that something is missing or no file; or that a
# store was away.
WORDS = re.compile(
    r"(OS error |os_error_code=')"
    rf'(?!({errno.ENOENT}|{errno.ENOTDIR}|{errno.EISDIR})\b)\d+|^(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED)\b'
)
ADVICE = 'The storage failed. What was saved is as it was; the same command resumes when the storage works again.'

T = TypeVar('T')


class DamagedFile(config.InputError):
    """A file of a run is not as it was written."""


def retried(action: Callable[[], T]) -> T:
    """What `action` gives, which has no effect when it fails; tried again where the storage fails with an OSError."""
    for wait_s in waits.OPERATION_S:
        try:
            return action()
        except LASTING:
            raise
        except OSError:
            time.sleep(wait_s)
    return action()


def is_of_the_storage(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, tells of a disk, a quota or a server."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in ERRORS) or WORDS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def brief(error: BaseException) -> str:
    """An error on one line; the libraries below append many that help nobody."""
    text = ' '.join(str(error).split())
    return text if len(text) <= 300 else f'{text[:200]} ... {text[-90:]}'


# ---- what there is --------------------------------------------------------------------------------------------------


def directory(path: epath.PathLike) -> epath.Path:
    """The work directory that a person named.

    Raises:
      InputError: it is in a store that is unknown, or whose library is missing.
    """
    text = os.fspath(path)
    scheme, separator, rest = text.partition('://')
    if not separator:
        return epath.Path(path).expanduser()
    if scheme not in LIBRARIES:
        local = f' For the local directory write {rest}.' if scheme == 'file' else ''
        known = ' or '.join(f'{each}://BUCKET/...' for each in LIBRARIES)
        raise config.InputError(f'{text}: runs are not kept in {scheme}://. Use a local path, {known}.{local}')
    library = LIBRARIES[scheme]
    if all(importlib.util.find_spec(name) is None for name in (library, 'tensorflow')):
        raise config.InputError(f'{text}: reading and writing {scheme}:// needs {library}: pip install {library}.')
    return epath.Path(path)


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path is in an object store, which has neither links nor renames."""
    return '://' in str(path)


def mode_of(path: epath.Path) -> int | None:
    """The mode of a local file or directory; None if there is none. Unlike Path.exists() it takes no failure for that.

    Raises:
      OSError: the storage does not say.
    """
    try:
        return retried(lambda: os.stat(path)).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def exists(path: epath.Path) -> bool:
    """Whether there is a file or directory; raises OSError where the storage does not say."""
    return path.exists() if is_remote(path) else mode_of(path) is not None


def is_directory(path: epath.Path) -> bool:
    """Whether there is a directory; raises OSError where the storage does not say."""
    return path.is_dir() if is_remote(path) else stat.S_ISDIR(mode_of(path) or 0)


def is_step(name: str) -> bool:
    """Whether a directory of this name is the checkpoint of a step."""
    return name.isascii() and name.isdecimal() and name == str(int(name))


def saved_steps(workdir: epath.Path) -> list[int]:
    """The steps of a run's checkpoints by the names of their directories, oldest first."""
    return sorted(int(name) for name in names_in(workdir / CHECKPOINTS) if is_step(name))


def names_in(directory: epath.Path) -> list[str]:
    """The names in a directory, sorted; none if there is no directory. Raises OSError."""
    if not is_directory(directory):
        return []
    return sorted(retried(lambda: [child.name for child in directory.iterdir()]))


@contextlib.contextmanager
def one_at_a_time(directory: epath.Path) -> Iterator[None]:
    """Processes of one machine go through this context one after another; no lock is left behind by one that dies."""
    if is_remote(directory):
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # Some network file systems have no such locks.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


# ---- reading --------------------------------------------------------------------------------------------------------


def read(path: epath.Path) -> bytes:
    """The content of a file of a run.

    Raises:
      InputError: it cannot be read.
    """
    try:
        return retried(path.read_bytes)
    except OSError as error:
        right = isinstance(error, PermissionError)
        advice = 'Give this user the right to read it.' if right else 'Try again when the storage answers.'
        raise config.InputError(
            f'{path} could not be read: {error.strerror or brief(error)}. It was left as it is. {advice}'
        ) from error


def known_sums(directory: epath.Path) -> dict[str, set[str]]:
    """File name -> the SHA-256 of its content, or of two while it is being replaced, as SHA256SUMS says."""
    sums: dict[str, set[str]] = {}
    path = directory / SUMS
    for line in (read(path) if exists(path) else b'').decode(errors='replace').splitlines():
        value, _, name = line.partition('  ')
        sums.setdefault(name, set()).add(value)
    return sums


def read_checked(directory: epath.Path, name: str) -> bytes:
    """The content of a file of a run, compared with its checksum if it has one; older versions wrote none.

    Raises:
      InputError: it cannot be read.
      DamagedFile: it is not as it was written.
    """
    content, wanted = read(directory / name), known_sums(directory).get(name)
    if wanted and hashlib.sha256(content).hexdigest() not in wanted:
        raise DamagedFile(
            f'{directory / name} is damaged: its SHA-256 is not the one in {SUMS}. Restore it, from a backup or from '
            f'the newest directory in {CHECKPOINTS}/ that has a copy; if it was changed on purpose, remove its line '
            f'from {SUMS}.'
        )
    return content


def read_json(path: epath.Path) -> Any:
    """The content of a JSON file of a run.

    Raises:
      InputError: it cannot be read.
      DamagedFile: it is not as it was written, or not JSON.
    """
    content = read_checked(path.parent, path.name)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # Not JSON, or not even UTF-8.
        raise DamagedFile(f'{path} is damaged: {error}. Restore it, or use another directory.') from error


def encode_json(value: Any) -> bytes:
    """The content of a JSON file of a run."""
    return (json.dumps(value, indent=1, allow_nan=False) + '\n').encode()


# ---- writing --------------------------------------------------------------------------------------------------------


def check_no_link(path: epath.Path) -> None:
    """Raises InputError if a path that is to be written is a symbolic link."""
    if not is_remote(path) and os.path.islink(path):
        raise config.InputError(
            f'{path} is a symbolic link to {os.readlink(path)}, and links in a run directory are not followed when '
            'writing. Nothing was changed. Remove the link, or put a file in its place.'
        )


def write(path: epath.Path, content: bytes) -> None:
    """Writes a file that is either the old one or the new one, whatever happens, and is on disk afterwards.

    Raises:
      InputError: it is a symbolic link.
      OSError: it cannot be written; the old one is still there.
    """
    check_no_link(path)
    if is_remote(path):
        retried(lambda: path.write_bytes(content))
        return
    retried(lambda: _replace(pathlib.Path(path), content))


def write_json(path: epath.Path, value: Any) -> None:
    """write() of JSON."""
    write(path, encode_json(value))


def _replace(path: pathlib.Path, content: bytes) -> None:
    partial = path.parent / f'{path.name}.{secrets.token_hex(4)}.partial'
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: epath.PathLike) -> None:
    """Returns when a file's content, or a directory's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_partial(name: str) -> bool:
    """Whether write() leaves a file of this name when it is killed; nobody misses it."""
    return PARTIAL.fullmatch(name) is not None


def clean(directory: epath.Path) -> None:
    """Removes what write() left in a work directory when it was killed; nobody else may be writing to it."""
    for name in names_in(directory):
        if is_partial(name):
            with contextlib.suppress(OSError):  # It does no harm.
                (directory / name).unlink()
