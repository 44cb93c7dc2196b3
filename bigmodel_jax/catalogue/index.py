"""The index of the runs below a root: an SQLite file that spares reading what has not changed, and nothing more.

SQLite, as it comes with Python, opens in milliseconds, and lets several processes update single entries of one file at
once; DuckDB is a dependency of 20 MB that lets one process write, and pays where millions of rows are aggregated.

The directories are the truth. An entry holds the stamp of the files that it was made from, and is used only as long as
they have that stamp, and only if its checksum holds. A damaged index is made anew.
"""

import contextlib
import hashlib
import os
import pathlib
import sqlite3
import stat
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from bigmodel_jax.storage import durable_files

FILE = '.runs.v{version}.sqlite'
WAIT_S = 5.0  # For another process that is updating the index.
TABLE = 'CREATE TABLE IF NOT EXISTS runs (path BLOB PRIMARY KEY, stamp TEXT, content TEXT, checksum INTEGER)'
UPDATE = 'INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)'


class StoredEntry(NamedTuple):
    """What an index knows of a run."""

    stamp: str  # See walking.FileStamp.
    content: str  # JSON.


class RunIndex:
    """An index, in a file or in memory.

    Attributes:
      notes: a sentence for everything that a person may want to know of it.
    """

    def __init__(self, path: pathlib.Path | None, notes: Iterable[str] = ()):
        self._path, self.notes = path, list(notes)

    def load(self) -> dict[bytes, StoredEntry]:
        """Every whole entry, by the key of its run."""
        if self._path is None or not self._path.exists():
            return {}
        try:
            with contextlib.closing(self._open()) as database:
                rows = database.execute('SELECT path, stamp, content, checksum FROM runs').fetchall()
        except sqlite3.Error as error:
            self._explain(error)
            return {}
        return {row[0]: StoredEntry(row[1], row[2]) for row in rows if _is_whole(row)}

    def _explain(self, error: sqlite3.Error) -> None:
        """Says why the index could not be read; removes it if it is damaged."""
        if str(error).startswith('no such table'):
            return  # Another process makes it at this moment.
        if 'locked' in str(error):
            self.notes.append(f'The index {self._path} is in use ({error}); every run is read instead.')
            return
        self.notes.append(f'The index {self._path} is damaged ({error}); it is made anew.')
        self._remove()

    def update(self, changed: Mapping[bytes, StoredEntry], gone: Iterable[bytes]) -> None:
        """Stores entries, and removes those of other runs; if that fails, the next listing takes longer."""
        deleted = [(each,) for each in gone]
        if self._path is None or not (changed or deleted):
            return
        rows = [(key, each.stamp, each.content, _checksum(each)) for key, each in changed.items()]
        try:
            with contextlib.closing(self._open()) as database:
                database.execute('BEGIN IMMEDIATE')
                database.execute(TABLE)
                database.executemany('DELETE FROM runs WHERE path = ?', deleted)
                database.executemany(UPDATE, rows)
                database.execute('COMMIT')
        except sqlite3.Error as error:
            self.notes.append(f'The index {self._path} was not updated: {error}. What is shown is right all the same.')

    def _open(self) -> sqlite3.Connection:
        assert self._path is not None
        database = sqlite3.connect(self._path, timeout=WAIT_S, isolation_level=None)
        # One entry that is damaged fails by its checksum, and not all of them.
        database.text_factory = lambda content: content.decode(errors='replace')
        # Somebody else may have written the file: it holds data and nothing that is executed.
        database.execute('PRAGMA trusted_schema = OFF')
        database.execute('PRAGMA synchronous = OFF')  # What a loss of power damages is made anew.
        return database

    def _remove(self) -> None:
        assert self._path is not None
        for name in (self._path, f'{self._path}-journal'):
            with contextlib.suppress(OSError):
                os.unlink(name)


def _is_whole(row: tuple[Any, ...]) -> bool:
    key, stamp, content, checksum = row
    typed = isinstance(key, bytes) and isinstance(stamp, str) and isinstance(content, str)
    return typed and checksum == _checksum(StoredEntry(stamp, content))


def _checksum(entry: StoredEntry) -> int:
    return zlib.crc32(entry.content.encode(), zlib.crc32(entry.stamp.encode()))


# ---- where it is ----------------------------------------------------------------------------------------------------


def beside(root: str, version: int, *, is_run: bool) -> RunIndex:
    """The index of a root: a file in it; in the user's cache where that cannot be; else in memory.

    Args:
      version: of the form of what it holds.
      is_run: the root is itself the directory of a run, into which nothing is written.
    """
    if is_run:
        return RunIndex(None)
    name = FILE.format(version=version)
    if not durable_files.is_remote(root):
        path = pathlib.Path(root) / name
        if _may_write(path):
            return RunIndex(path)
    from bigmodel_jax.data import cache

    place = root if durable_files.is_remote(root) else os.path.abspath(root)
    path = cache.root() / 'runs' / f'{hashlib.sha256(os.fsencode(place)).hexdigest()[:32]}{name}'
    why = 'is in an object store' if durable_files.is_remote(root) else 'cannot be written'
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return RunIndex(None, [f'{root} {why}, and neither can {path.parent}: without an index, every run is read.'])
    if not _may_write(path):
        return RunIndex(None, [f'{root} {why}, and neither can {path}: without an index, every run is read.'])
    return RunIndex(path, [f'{root} {why}, so its index is {path}.'])


def _may_write(path: pathlib.Path) -> bool:
    """Whether a file can be made, or changed, in place; a link or anything else that is no file is left alone."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return os.access(path.parent, os.W_OK | os.X_OK)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)
