"""Compiled programs are kept for the next start, so that a run that resumes does not compile again.

They are machine code. So they are kept where only their user can write, apart from any run: a run directory that comes
from somebody else brings no code along. And each carries a checksum: JAX may compress them with zstd, which has none,
so that a flipped bit would compute something else, or crash.
"""

import contextlib
import hashlib
import os
import pathlib
import stat
import time
from collections.abc import Iterator

import jax
from jax._src import compilation_cache as internal
from jax._src.compilation_cache_interface import CacheInterface
from jax.experimental.compilation_cache import compilation_cache

from bigmodel_jax.data import cache

SETTINGS = ('jax_compilation_cache_dir', 'jax_persistent_cache_enable_xla_caches')
MAX_BYTES = 4 * 2**30  # Beyond this the programs that were not used for the longest time go.
MAGIC = b'bigmodel_jax compiled program 1\n'
ENDING, PARTIAL = '.program', '.partial'
STALE_S = 3_600.0  # A partial file so old was left by a process that died.


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Within this context JAX keeps what takes it a second to compile, in the user's cache.

    Where it keeps it elsewhere already (JAX_COMPILATION_CACHE_DIR), or is told not to (JAX_ENABLE_COMPILATION_CACHE=0),
    it stays so; and where no directory can be had that belongs to this user alone, nothing is kept. Of several
    processes each reads its own, and the first one writes. The key of a program depends on the program, its options,
    the devices and the versions, not on the run or its path.
    """
    is_elsewhere = jax.config.values['jax_compilation_cache_dir'] is not None
    # The cache may be shared; what several users share, none of them can trust.
    folder = None if is_elsewhere else private(cache.root() / f'compiled-{os.geteuid()}')
    if folder is None:
        yield
        return
    # What XLA itself would keep in the directory has no checksum; and its path would be a part of each key.
    before = {name: jax.config.values[name] for name in SETTINGS}
    for name, value in zip(SETTINGS, (str(folder), 'none')):
        jax.config.update(name, value)
    # JAX looks at its setting once, when it first compiles; reset_cache() lets it look again.
    compilation_cache.reset_cache()
    internal._cache, internal._cache_initialized = CachedPrograms(folder), True
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def private(folder: pathlib.Path) -> pathlib.Path | None:
    """The folder if it belongs to this user, who alone can write or read it, else None; made if it is not there."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()  # A link is somebody's choice of another place.
    except OSError:  # A home that cannot be written: every start compiles.
        return None
    is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return folder if is_own else None


class CachedPrograms(CacheInterface):
    """Programs in a folder, a file each. A program that cannot be read, or is not what was written, counts as missing.

    Args:
      folder: a private one.
      max_bytes: of all files together.
    """

    def __init__(self, folder: pathlib.Path, *, max_bytes: int = MAX_BYTES):
        self._path = folder
        self._max_bytes = max_bytes

    def get(self, key: str) -> bytes | None:
        """The program of a key."""
        path = self._file(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        value = content[len(MAGIC) + hashlib.sha256().digest_size :]
        if content != _sealed(key, value):
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return value

    def put(self, key: str, value: bytes) -> None:
        """Keeps a program; the file appears all at once."""
        path = self._file(key)
        partial = path.with_name(f'{path.name}.{os.getpid()}{PARTIAL}')
        try:
            self._make_room(len(value))
            partial.write_bytes(_sealed(key, value))
            partial.replace(path)
        except OSError:  # Such as a full disk. The next start compiles again.
            with contextlib.suppress(OSError):
                partial.unlink()

    def _file(self, key: str) -> pathlib.Path:
        # JAX's keys begin with the name of a function, which may be long.
        return self._path / f'{hashlib.sha256(key.encode()).hexdigest()}{ENDING}'

    def _make_room(self, size_bytes: int) -> None:
        found = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in self._path.glob(f'*{ENDING}'))
        left = sum(size for _, size, _ in found) + size_bytes
        for _, size, path in found:
            if left <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            left -= size
        for path in self._path.glob(f'*{PARTIAL}'):
            if path.stat().st_mtime < time.time() - STALE_S:
                path.unlink(missing_ok=True)


def _sealed(key: str, value: bytes) -> bytes:
    """The content of a file: also the key, so that a file that was renamed is not taken for another."""
    return MAGIC + hashlib.sha256(key.encode() + b'\0' + value).digest() + value
