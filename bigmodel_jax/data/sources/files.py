"""Files of text, local or remote: found, opened, read and indexed; known by their content."""

import bz2
import codecs
import contextlib
import difflib
import glob
import gzip
import hashlib
import lzma
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.data import cache
from bigmodel_jax.data.text import encoding

SETTLED_S = 10.0  # A file's stamp vouches for its content only if nothing has happened to it for so long.
MARKED = 'utf-8-sig'  # Python's name of UTF-8 after a byte-order mark.
STREAMS: dict[str, Callable[[Any], Any]] = {'gzip': gzip.open, 'bzip2': bz2.open, 'xz': lzma.open}


class Stamp(NamedTuple):
    """What the file system says of a local file. A copy that keeps size and time still changes the other two."""

    size_bytes: int
    modified_ns: int
    changed_ns: int  # When its content, name, owner or permissions last changed; programs cannot set it.
    inode: int


class FileText(NamedTuple):
    """The text of a file."""

    text: str
    fingerprint: dict[str, Any]  # JSON-ready: `sha256` of the file as it is stored, and `encoding` if it had a mark.


class Index(NamedTuple):
    """Where the lines of a file are."""

    sha256: str
    starts: np.ndarray  # [lines] int64: of the lines that are not blank, in bytes; a byte-order mark is skipped.
    ends: np.ndarray  # [lines] int64.
    head: bytes  # The first encoding.HEAD_BYTES of the file.
    stamp: Stamp | None  # None of a remote file.

    @property
    def marked(self) -> bool:
        """Whether the file begins with a byte-order mark."""
        return self.head.startswith(codecs.BOM_UTF8)

    @property
    def form(self) -> encoding.Format | None:
        """None if the file may be UTF-8 text, as far as its beginning tells."""
        return encoding.recognise(self.head)


def path_of(path: str) -> epath.Path:
    return epath.Path(os.path.expanduser(path))


def matches(pattern: str) -> list[epath.Path]:
    """The files that match, sorted by path.

    Raises:
      InputError: there is none.
    """
    if '://' in pattern:
        folder = pattern.partition('*')[0].rpartition('/')[0]
        found = epath.Path(folder).glob(pattern[len(folder) + 1 :])
        paths = sorted((path for path in found if not path.is_dir()), key=str)
    else:
        found = glob.glob(os.path.expanduser(pattern), recursive=True)
        paths = [epath.Path(path) for path in sorted(found) if os.path.isfile(path)]
    if not paths:
        where = '' if '://' in pattern else f' (looked from {pathlib.Path.cwd()})'
        raise config.InputError(f'No file matches {pattern!r}{where}.')
    return paths


def below(folder: epath.Path) -> list[epath.Path]:
    """All files in a folder and the folders below it, sorted by path; without hidden ones."""
    found: list[epath.Path] = []
    for path in folder.iterdir():
        if not path.name.startswith('.'):
            found += below(path) if path.is_dir() else [path]
    return sorted(found, key=str)


@contextlib.contextmanager
def readable(path: epath.Path) -> Iterator[Any]:
    """The file's bytes as they are stored, as a stream.

    Raises:
      InputError: it is missing, a directory, or may not be read.
    """
    if path.is_dir():
        raise config.InputError(f'{path} is a directory, not a file; TextFiles(pattern=...) reads many files.')
    try:
        with path.open('rb') as file:
            yield file
    except FileNotFoundError as error:
        raise config.InputError(_missing(path)) from error
    except PermissionError as error:
        raise config.InputError(f'{path} may not be read: {error.strerror}.') from error


@contextlib.contextmanager
def unpacked(path: epath.Path) -> Iterator[Any]:
    """The bytes of the UTF-8 text in a file, as a stream: decompressed if need be, without a byte-order mark.

    Raises:
      InputError: it cannot be read, is in another encoding, or is not a whole compressed file.
    """
    with readable(path) as file:
        form = encoding.recognise(file.read(encoding.HEAD_BYTES))
        if form is not None and form.name not in STREAMS:
            raise encoding.refusal(form, str(path))
        file.seek(0)
        stream = file if form is None else STREAMS[form.name](file)
        try:
            if stream.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
                stream.seek(0)
            yield stream
        except encoding.TORN as error:
            raise encoding.torn(str(path), error) from error


def read_bytes(path: epath.Path) -> bytes:
    """What a file holds. Raises InputError as readable() does."""
    with readable(path) as file:
        return file.read()


def read_text(path: epath.Path) -> FileText:
    """The text of a UTF-8 file: decompressed if need be, without a byte-order mark.

    Raises:
      InputError: it cannot be read, is in another encoding, or is not a whole compressed file.
    """
    content = read_bytes(path)
    if path.name.endswith('.gz') and not content.startswith(b'\x1f\x8b'):
        raise encoding.torn(str(path), ValueError('it does not begin as a gzip file does'))
    fingerprint = {'sha256': hashlib.sha256(content).hexdigest()}
    content = encoding.unpack(content, str(path))
    unmarked = encoding.without_mark(content)
    # Named, since the same file gave another text before its mark was dropped.
    fingerprint |= {} if len(unmarked) == len(content) else {'encoding': MARKED}
    return FileText(encoding.decode(unmarked, str(path)), fingerprint)


def line_at(path: epath.Path, start: int) -> str:
    """'PATH, line N' for the line that begins at byte `start`."""
    with path.open('rb') as file:
        number = 1 + sum(block.count(b'\n') for block in _blocks(file, start))
    return f'{path}, line {number}'


def index(path: epath.Path) -> Index:
    """Content hash of a file, and the byte offsets of its lines that are not blank; kept while it stays unchanged.

    Raises:
      InputError: it cannot be read, or is written to meanwhile.
    """
    with readable(path) as file:
        stamp = stamp_of(file)
        if stamp is None or time.time() - max(stamp.modified_ns, stamp.changed_ns) * 1e-9 < SETTLED_S:
            return _scan(path, file)
    key = {'path': os.path.abspath(path), 'format': 2, **stamp._asdict()}

    def make(directory: pathlib.Path, parts: pathlib.Path) -> None:
        with readable(path) as file:
            found = _scan(path, file)
        if found.stamp != stamp:
            raise changed(path)
        head = np.frombuffer(found.head, np.uint8)
        np.savez(directory / 'index.npz', sha256=found.sha256, starts=found.starts, ends=found.ends, head=head)

    with np.load(cache.prepared('files', key, make) / 'index.npz') as kept:
        return Index(str(kept['sha256']), kept['starts'], kept['ends'], kept['head'].tobytes(), stamp)


def content(path: epath.Path) -> Index:
    """As index(), but without looking for lines, of which `starts` and `ends` have none.

    Raises:
      InputError: it cannot be read, or is written to meanwhile.
    """
    with readable(path) as file:
        before, head = stamp_of(file), file.read(encoding.HEAD_BYTES)
        file.seek(0)
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
        if stamp_of(file) != before:
            raise changed(path)
    return Index(digest.hexdigest(), np.zeros(0, np.int64), np.zeros(0, np.int64), head, before)


def stamp_of(file: Any) -> Stamp | None:
    """The stamp of an open file; None of a remote one."""
    try:
        status = os.fstat(file.fileno())
    except (AttributeError, OSError):  # It has no number: no file of this machine.
        return None
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def changed(path: epath.Path) -> config.InputError:
    return config.InputError(
        f'{path} has changed since it was opened, or is still being written. Start again when it is complete, '
        'and leave it as it is while it is read.'
    )


def unchanged(path: epath.Path, file: Any, known: Index) -> Index:
    """The index of an open file, now; `known` is that of before.

    Raises:
      InputError: it does not hold any more what it held then.
    """
    if stamp_of(file) == known.stamp:
        return known
    # Another stamp is no proof: its permissions were changed, or the same content was copied over it.
    found = _scan(path, file)
    if found.sha256 != known.sha256:
        raise changed(path)
    return found


def _scan(path: epath.Path, file: Any) -> Index:
    """The index of an open file."""
    file.seek(0)
    before, head = stamp_of(file), file.read(encoding.HEAD_BYTES)
    file.seek(0)
    digest, starts, ends, position = hashlib.sha256(), [], [], 0
    for line in file:
        digest.update(line)
        skipped = len(codecs.BOM_UTF8) if not position and line.startswith(codecs.BOM_UTF8) else 0
        if line[skipped:].strip():
            starts.append(position + skipped)
            ends.append(position + len(line))
        position += len(line)
    if stamp_of(file) != before:
        raise changed(path)
    return Index(digest.hexdigest(), np.array(starts, np.int64), np.array(ends, np.int64), head, before)


def _missing(path: epath.Path) -> str:
    absolute = path if '://' in str(path) else pathlib.Path(path).absolute()
    siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    return f'There is no file {absolute}.' + (f' Did you mean {close[0]!r}?' if close else '')


def _blocks(file: Any, size_bytes: int) -> Iterator[bytes]:
    while size_bytes and (block := file.read(min(size_bytes, 2**20))):
        size_bytes -= len(block)
        yield block
