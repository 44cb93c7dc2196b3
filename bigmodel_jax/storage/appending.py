"""Appending to a file of a run, so that neither a full disk nor a storage that fails for a while ends the run.

What cannot be written waits in memory, is tried again with everything that comes after it, and is written in order.
"""

import collections
import contextlib
import errno
import os
import pathlib
import threading
import time
from collections.abc import Callable

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.console import terminal
from bigmodel_jax.storage import durable_files, waits

WAITING_BYTES = 256 * 2**20  # What waits for a disk to get room again; above it the oldest is given up.
LONGEST_WAIT_S = 30.0  # Between a write that failed and the next try.
# What a person has to mend: it is said at once, instead of keeping records for a better time.
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ELOOP}


def say(text: str) -> None:
    """On the terminal; where a progress bar is, it moves out of the way."""
    with contextlib.suppress(OSError):  # It may go to a file on the disk that is full.
        stream = terminal.notes()
        stream.write(f'{terminal.printable(text)}\n')
        stream.flush()


def nothing() -> None:
    """The guard of a file that nobody else can come to own."""


class Appender:
    """Appends pieces to a local file, each as a whole. Threads may share it.

    Several processes may append to one file: a piece is one write. One that is cut in its middle, as on a full disk, is
    written again as a whole where `lines` holds, after a newline, and else continued.

    Args:
      path: the file; made when the first piece comes.
      lines: every piece is a line, and a torn one is skipped by those who read.
      guard: called before anything is written; raises if this process must not write any more.

    Raises:
      InputError: it is a symbolic link, a directory, or may not be written.
    """

    def __init__(self, path: epath.PathLike, *, lines: bool = True, guard: Callable[[], None] = nothing):
        self._path, self._lines, self._guard = pathlib.Path(path), lines, guard
        self._waiting: collections.deque[bytes] = collections.deque()
        self._bytes = self._lost = self._tries = 0
        self._retry_at = 0.0
        self._descriptor: int | None = None
        self._lock = threading.Lock()
        durable_files.check_no_link(epath.Path(path))
        try:
            self._open()
        except OSError as error:
            if error.errno in REFUSED:
                raise config.InputError(f'{path} cannot be written: {error.strerror}. Make it writable.') from error
            self._failed(error)

    def append(self, piece: bytes) -> None:
        """Writes a piece, or keeps it until it can be written."""
        self._guard()
        with self._lock:
            self._waiting.append(piece)
            self._bytes += len(piece)
            self._flush()
            while self._bytes > WAITING_BYTES:
                self._bytes -= len(self._waiting.popleft())
                self._lost += 1

    def sync(self) -> None:
        """Returns when what was written is on disk; tries to write what waits. A failure is said, and not raised."""
        with self._lock:
            self._retry_at = 0.0
            self._flush()
            descriptor = None if self._descriptor is None else os.dup(self._descriptor)
        if descriptor is None:
            return
        try:
            os.fsync(descriptor)
        except OSError as error:
            say(f'{self._path} could not be brought to disk: {error.strerror}. It is tried again.')
        finally:
            os.close(descriptor)

    def close(self) -> str | None:
        """Writes what waits, trying for some seconds; returns what is not in the file, if anything is."""
        for wait_s in (*waits.LOG_S, None):
            with self._lock:
                self._retry_at = 0.0
                self._flush()
            if not self._waiting or wait_s is None:
                break
            time.sleep(wait_s)
        self.sync()
        with self._lock:
            self._close()
        lost = len(self._waiting) + self._lost
        return f'{self._path} lacks its last {lost:,} records' if lost else None

    def abandon(self) -> None:
        """Closes the file without writing anything more."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):  # What was written was synced before.
                os.close(descriptor)

    def _open(self) -> int:
        """The descriptor of the file that has its name now; somebody may have removed the one that was written to."""
        if self._descriptor is not None and not _is_at(self._descriptor, self._path):
            self._close()
            say(f'{self._path} was removed or replaced while the run was writing to it; a new file takes what comes.')
        if self._descriptor is None:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o666)
            if self._lines:
                _end_line(self._descriptor)
        return self._descriptor

    def _flush(self) -> None:
        """Writes what waits, as far as it can."""
        if not self._waiting or time.monotonic() < self._retry_at:
            return
        count = len(self._waiting)
        try:
            while self._waiting:
                self._write(self._waiting[0])
                self._bytes -= len(self._waiting.popleft())
        except OSError as error:
            self._failed(error)
            return
        if self._tries and count:
            say(f'{self._path} can be written again; {count:,} records that waited are in it.')
        self._tries = 0

    def _write(self, piece: bytes) -> None:
        descriptor = self._open()
        written = os.write(descriptor, piece)
        while written < len(piece):
            try:
                written += os.write(descriptor, piece[written:])
            except OSError:
                if self._lines:
                    # A newline is due before it is written again, which the next opening sees to.
                    self._close()
                else:
                    self._waiting[0] = piece[written:]
                    self._bytes -= written
                raise

    def _failed(self, error: OSError) -> None:
        if not self._tries:
            say(
                f'{self._path} cannot be written: {error.strerror}. The run continues; its records wait in memory and '
                'are written when that is possible again.'
            )
        self._retry_at = time.monotonic() + min(0.25 * 2.0**self._tries, LONGEST_WAIT_S)
        self._tries += 1


def _is_at(descriptor: int, path: pathlib.Path) -> bool:
    """Whether an open file still has its name."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _end_line(descriptor: int) -> None:
    """Writes a newline where a writer that was killed, or a full disk, left half a line."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b'\n':
        os.write(descriptor, b'\n')


class Rewriter:
    """An Appender for an object store, which cannot append: the object is read and written again as a whole.

    At most every INTERVAL_S seconds, and when it is closed. What others appended in between stays.
    """

    INTERVAL_S = 30.0

    def __init__(self, path: epath.PathLike, *, guard: Callable[[], None] = nothing):
        self._path, self._guard = epath.Path(path), guard
        self._waiting: list[bytes] = []
        self._lock = threading.Lock()
        self._failing, self._written = False, time.monotonic()

    def append(self, piece: bytes) -> None:
        """Keeps a piece until it is time to write."""
        self._guard()
        self._waiting.append(piece)
        if time.monotonic() - self._written > self.INTERVAL_S:
            self.sync()

    def sync(self) -> None:
        """Writes what waits. A failure is said, and not raised."""
        with self._lock:
            pieces = list(self._waiting)
            try:
                self._write(pieces)
            except OSError as error:
                if not self._failing:
                    say(
                        f'{self._path} cannot be written: {durable_files.brief(error)}. '
                        'The run continues; its records wait.'
                    )
                self._failing = True
            else:
                self._failing = False
                del self._waiting[: len(pieces)]
            self._written = time.monotonic()

    def _write(self, pieces: list[bytes]) -> None:
        before = self._path.read_bytes() if self._path.exists() else b''
        if pieces:
            repair = b'\n' if before and not before.endswith(b'\n') else b''
            self._path.write_bytes(before + repair + b''.join(pieces))

    def close(self) -> str | None:
        """Writes what waits, trying for some seconds; returns what is not in the file, if anything is."""
        for wait_s in (0.0, *waits.LOG_S):
            time.sleep(wait_s)
            self.sync()
            if not self._waiting:
                return None
        return f'{self._path} lacks its last {len(self._waiting):,} records'

    def abandon(self) -> None:
        """Writes nothing more."""


def appender(path: epath.PathLike, *, guard: Callable[[], None] = nothing) -> Appender | Rewriter:
    """What appends lines to a file, local or in an object store."""
    return Rewriter(path, guard=guard) if durable_files.is_remote(path) else Appender(path, guard=guard)
