"""Prepared data, kept in directories named by what went into it.

Many processes, on many machines that share the disk, may prepare the same entry at once, and any of them may be killed.
There are no locks (network file systems do not keep them): everything appears by an atomic rename, and whoever comes
second uses the result of the first.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from bigmodel_jax import config
from bigmodel_jax.data import preparation_progress

CONTENTS = 'contents.json'
LEFT_S = 3_600.0  # No process takes so long to remove an entry.
HASHED_BYTES = 64 * 2**20  # Longer files are checked by size alone when opened: hashing 10 GB takes 10 s.

# Args: the directory to fill, and a directory of finished parts, which all processes share and restarts keep.
Make = Callable[[pathlib.Path, pathlib.Path], None]


def root() -> pathlib.Path:
    """The cache: $BIGMODEL_JAX_CACHE, or bigmodel_jax in $XDG_CACHE_HOME or ~/.cache."""
    chosen = os.environ.get('BIGMODEL_JAX_CACHE')
    if chosen:
        return pathlib.Path(chosen).expanduser()
    return pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'bigmodel_jax'


def digest(key: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON-ready mapping, whatever the order of its entries."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def prepared(kind: str, key: Mapping[str, Any], make: Make) -> pathlib.Path:
    """The directory that `make` fills, made on first use. Damaged entries are reported and made again.

    Args:
      kind: the folder of the cache it goes to.
      key: JSON-ready: everything that the content depends on.
      make: fills a directory; a pure function of `key`, since two processes may both run it.

    Raises:
      InputError: the cache cannot be written, or its disk is full.
    """
    final = _entry(kind, key)
    problem = damage(final)
    if problem and final.exists():
        preparation_progress.say(f'{final} is damaged ({problem}); preparing it again.')
        _remove(final)
    if problem:
        _prepare(final, key, make)
    return final


def find(kind: str, key: Mapping[str, Any]) -> pathlib.Path | None:
    """The directory that prepared() made of these arguments; None if there is none yet, or it is damaged."""
    final = _entry(kind, key)
    return None if damage(final) else final


def _entry(kind: str, key: Mapping[str, Any]) -> pathlib.Path:
    return root() / kind / digest(key)[:32]


def damage(directory: pathlib.Path) -> str | None:
    """What is wrong with a cache entry; None if it is sound."""
    try:
        files = contents(directory)['files']
        for name, expected in files.items():
            path = directory / name
            size_bytes = path.stat().st_size
            if size_bytes != expected['bytes']:
                return f'{name} has {size_bytes} bytes instead of {expected["bytes"]}'
            if size_bytes <= HASHED_BYTES and file_sha256(path) != expected['sha256']:
                return f'{name} has changed'
    except FileNotFoundError as error:
        return f'{error.filename} is missing'
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError):
        return f'{CONTENTS} is unreadable'
    except (NotADirectoryError, PermissionError) as error:
        _blame_the_place(error)
        raise
    return None


def contents(directory: pathlib.Path) -> dict[str, Any]:
    """The record of an entry: its `key`, and `bytes` and `sha256` of each of its `files`."""
    return json.loads((directory / CONTENTS).read_text(encoding='utf-8'))


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that appears under `path` complete or not at all."""
    temporary = path.with_name(f'{path.name}.{uuid.uuid4().hex}')
    with temporary.open('wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def file_sha256(path: pathlib.Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _prepare(final: pathlib.Path, key: Mapping[str, Any], make: Make) -> None:
    work = final.with_name(f'{final.name}.partial')
    parts, directory = work / 'parts', work / f'result-{uuid.uuid4().hex}'
    try:
        parts.mkdir(parents=True, exist_ok=True)
        # Another process may have finished, and removed `work`, since the caller looked.
        if not final.exists():
            directory.mkdir()
            make(directory, parts)
            _seal(directory, key)
            os.rename(directory, final)
    except OSError as error:
        # The process that finishes first takes `work` away from the others, who then use its result.
        if not final.exists():
            _blame_the_place(error)
            raise
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    _remove(work)


def _seal(directory: pathlib.Path, key: Mapping[str, Any]) -> None:
    files = {
        path.relative_to(directory).as_posix(): {'bytes': path.stat().st_size, 'sha256': file_sha256(path)}
        for path in sorted(directory.rglob('*'))
        if path.is_file()
    }
    text = json.dumps({'key': key, 'files': files}, indent=1)
    write_atomically(directory / CONTENTS, text.encode())


def _remove(directory: pathlib.Path) -> None:
    """Moved away first, so that no other process sees half of it."""
    trash = directory.with_name(f'trash-{uuid.uuid4().hex}')
    try:
        os.rename(directory, trash)
    except FileNotFoundError:
        return  # Another process removed it.
    shutil.rmtree(trash, ignore_errors=True)
    # What a process left that was killed while it removed an entry.
    for left in directory.parent.glob('trash-*'):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > LEFT_S:
                shutil.rmtree(left, ignore_errors=True)


def _blame_the_place(error: OSError) -> None:
    """Raises InputError if it is the cache's directory or disk that is at fault."""
    ours = error.filename is not None and str(error.filename).startswith(str(root()))
    if ours or error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise config.InputError(
            f'The cache directory {root()} cannot be used: {error.strerror or error}. '
            'Free some space there, or set BIGMODEL_JAX_CACHE to a directory that can be written.'
        ) from error
