"""Where text comes from: TFDS data sets and local files, all as a random-access sequence of documents."""

import contextlib
import dataclasses
import difflib
import glob
import gzip
import hashlib
import itertools
import json
import os
import pathlib
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.data import cache, documents

SETTLED_S = 10.0  # A file's size and time vouch for its content only if it has not been written to for so long.


class Source:
    """Interface of the configs that say where text comes from."""

    def open(self) -> documents.Documents:
        """Raises InputError if something is missing, empty or unreadable."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFile(Source):
    """One UTF-8 file as one document, or the part of it between two fractions of its characters."""

    path: str
    start: config.Fraction = 0.0
    stop: config.Fraction = 1.0

    def open(self) -> documents.Documents:
        path = _path(self.path)
        content = _read_bytes(path)
        text = documents.decode(content, str(path))
        part = text[int(len(text) * self.start) : int(len(text) * self.stop)]
        if not part.strip():
            of_it = f' between {self.start} and {self.stop} of its {len(text)} characters' if text.strip() else ''
            raise config.InputError(f'{path} holds no text{of_it}.')
        fingerprint = {'sha256': hashlib.sha256(content).hexdigest(), 'start': self.start, 'stop': self.stop}
        return TextsInMemory(path.name, [part], fingerprint)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFiles(Source):
    """Every UTF-8 file that matches a pattern ('~/books/**/*.txt'), one document each, in the order of their paths."""

    pattern: str

    def open(self) -> documents.Documents:
        paths = _matches(self.pattern)
        hashes = [_index(path)['sha256'] for path in paths]
        if all(digest == hashlib.sha256(b'').hexdigest() for digest in hashes):
            raise config.InputError(f'Every file that matches {self.pattern} is empty.')
        return FileDocuments(self.pattern, paths, {'sha256': hashes})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lines(Source):
    """Every line of a UTF-8 file is a document, blank ones too: line i of one file may go with line i of another.

    A file named *.gz is unpacked; its whole text is held in memory.
    """

    path: str

    def open(self) -> documents.Documents:
        path = _path(self.path)
        content = _read_bytes(path)
        digest = hashlib.sha256(content).hexdigest()
        if path.name.endswith('.gz'):
            try:
                content = gzip.decompress(content)
            except (OSError, EOFError, zlib.error) as error:
                raise config.InputError(f'{path} is no whole gzip file: {error}.') from error
        text = documents.decode(content, str(path))
        if not text.strip():
            raise config.InputError(f'{path} holds no text.')
        lines = [line.removesuffix('\r') for line in text.removesuffix('\n').split('\n')]
        return TextsInMemory(path.name, lines, {'sha256': digest, 'lines': len(lines)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Texts(Source):
    """Documents that the experiment itself holds: a few sentences to try something on."""

    texts: tuple[str, ...]

    def open(self) -> documents.Documents:
        if not any(text.strip() for text in self.texts):
            raise config.InputError('Texts() holds no text; give it some, as in Texts(texts=("one", "two")).')
        digest = hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()
        return TextsInMemory('texts', list(self.texts), {'sha256': digest, 'texts': len(self.texts)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joined(Source):
    """The documents of several sources, one after the other: what a vocabulary of two languages is trained on."""

    parts: tuple[Source, ...]

    def open(self) -> documents.Documents:
        return JoinedDocuments([part.open() for part in self.parts])


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonLines(Source):
    """Every line of the files that match a pattern is a JSON object, one of whose fields is the document."""

    pattern: str
    field: str = 'text'

    def open(self) -> documents.Documents:
        paths = _matches(self.pattern)
        indices = [_index(path) for path in paths]
        if not sum(len(index['starts']) for index in indices):
            raise config.InputError(f'No file that matches {self.pattern} has a line that is not blank.')
        fingerprint = {'sha256': [index['sha256'] for index in indices], 'field': self.field}
        return LineDocuments(self, paths, indices, fingerprint)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tfds(Source):
    """A split of a TFDS data set, ours or any other; prepared on first use (see tfds_source.py).

    Source: https://www.tensorflow.org/datasets. TensorFlow is needed only by builders that use it themselves.
    """

    name: str  # 'lm1b', 'wmt14_translate/de-en', 'python_docs/docs:1.311.7'.
    split: str  # 'train', 'train[:10%]', 'train+validation'.
    field: str = 'text'  # The text feature to read; 'de' or 'en' in a data set of translations.
    data_dir: str | None = None  # Default: $TFDS_DATA_DIR or ~/tensorflow_datasets.

    def open(self) -> documents.Documents:
        # Not at the top: TFDS takes seconds to import, and most sources do without.
        from bigmodel_jax.data import tfds_source

        data_dir = os.path.expanduser(self.data_dir) if self.data_dir else None
        return tfds_source.open_split(self.name, split=self.split, field=self.field, data_dir=data_dir)


# ---- documents ----------------------------------------------------------------------------------------------------


class TextsInMemory(documents.Documents):
    """Texts that have been read."""

    def __init__(self, name: str, texts: list[str], fingerprint: Mapping[str, Any]):
        self.name, self.fingerprint, self._texts = name, fingerprint, texts

    def __len__(self) -> int:
        return len(self._texts)

    def read(self, start: int, stop: int) -> list[str]:
        return self._texts[start:stop]


class JoinedDocuments(documents.Documents):
    """Several sets of documents as one."""

    def __init__(self, parts: Sequence[documents.Documents]):
        self._parts = parts
        self._firsts = list(itertools.accumulate(map(len, parts), initial=0))
        self.name = ' + '.join(part.name for part in parts)
        self.fingerprint = {'joined': [dict(part.fingerprint) for part in parts]}

    def __len__(self) -> int:
        return self._firsts[-1]

    def read(self, start: int, stop: int) -> list[str]:
        texts = []
        for part, first in zip(self._parts, self._firsts):
            inside = range(max(start - first, 0), min(stop - first, len(part)))
            texts += part.read(inside.start, inside.stop) if inside else []
        return texts


class FileDocuments(documents.Documents):
    """Files, each read when it is asked for."""

    def __init__(self, name: str, paths: Sequence[epath.Path], fingerprint: Mapping[str, Any]):
        self.name, self.fingerprint, self._paths = name, fingerprint, paths

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, start: int, stop: int) -> list[str]:
        return [documents.decode(_read_bytes(path), str(path)) for path in self._paths[start:stop]]


class LineDocuments(documents.Documents):
    """Lines of JSON, found by their byte offsets."""

    def __init__(
        self, source: JsonLines, paths: Sequence[epath.Path], indices: Sequence[Mapping], fingerprint: Mapping[str, Any]
    ):
        self.name, self.fingerprint = source.pattern, fingerprint
        self._field, self._paths, self._indices = source.field, paths, indices
        self._firsts = np.cumsum([0, *(len(index['starts']) for index in indices)])

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def read(self, start: int, stop: int) -> list[str]:
        texts = []
        for number, path in enumerate(self._paths):
            first, last = self._firsts[number : number + 2]
            inside = slice(max(start - first, 0), min(stop - first, last - first))
            if inside.start < inside.stop:
                texts += self._read_file(path, self._indices[number], inside)
        return texts

    def _read_file(self, path: epath.Path, index: Mapping[str, Any], lines: slice) -> list[str]:
        starts, ends = index['starts'][lines], index['ends'][lines]
        with path.open('rb') as file:
            file.seek(int(starts[0]))
            content = file.read(int(ends[-1] - starts[0]))
        return [
            self._parse(content[start - starts[0] : end - starts[0]], path, int(start))
            for start, end in zip(starts, ends)
        ]

    def _parse(self, line: bytes, path: epath.Path, start: int) -> str:
        try:
            record = json.loads(line)
        except ValueError as error:  # Of JSON and of UTF-8.
            raise config.InputError(f'{_line(path, start)} is not JSON: {error}.') from error
        if not isinstance(record, dict):
            raise config.InputError(f'{_line(path, start)} is a JSON {type(record).__name__}, not an object.')
        if self._field not in record:
            known = config.nearest(self._field, record)
            raise config.InputError(f'{_line(path, start)} has no field {self._field!r}.{known}')
        text = record[self._field]
        if not isinstance(text, str):
            raise config.InputError(f'{_line(path, start)}: {self._field!r} is a {type(text).__name__}, not text.')
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise config.InputError(
                f'{_line(path, start)}: {self._field!r} holds half a surrogate pair at character {error.start}, '
                'which is no Unicode text; remove the line or mend it.'
            ) from error
        return text


# ---- files --------------------------------------------------------------------------------------------------------


def _path(path: str) -> epath.Path:
    return epath.Path(os.path.expanduser(path))


def _read_bytes(path: epath.Path) -> bytes:
    if path.is_dir():
        raise config.InputError(f'{path} is a directory, not a file; TextFiles(pattern=...) reads many files.')
    with _readable(path) as file:
        return file.read()


@contextlib.contextmanager
def _readable(path: epath.Path) -> Iterator[Any]:
    try:
        with path.open('rb') as file:
            yield file
    except FileNotFoundError as error:
        raise config.InputError(_missing(path)) from error
    except PermissionError as error:
        raise config.InputError(f'{path} may not be read: {error.strerror}.') from error


def _missing(path: epath.Path) -> str:
    absolute = path if '://' in str(path) else pathlib.Path(path).absolute()
    siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    return f'There is no file {absolute}.' + (f' Did you mean {close[0]!r}?' if close else '')


def _matches(pattern: str) -> list[epath.Path]:
    """The files that match, sorted by path."""
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


def _line(path: epath.Path, start: int) -> str:
    """'PATH, line N' for the line that begins at byte `start`."""
    with path.open('rb') as file:
        number = 1 + sum(block.count(b'\n') for block in _blocks(file, start))
    return f'{path}, line {number}'


def _blocks(file: Any, size_bytes: int) -> Iterator[bytes]:
    while size_bytes and (block := file.read(min(size_bytes, 2**20))):
        size_bytes -= len(block)
        yield block


def _index(path: epath.Path) -> dict[str, Any]:
    """Content hash of a file, and the byte offsets of its lines that are not blank; kept while it stays unchanged.

    Returns `sha256` and, both [lines] int64, `starts` and `ends`.
    """
    if '://' in str(path):
        return _scan(path)
    stamp = os.stat(path)
    if time.time() - stamp.st_mtime < SETTLED_S:
        return _scan(path)
    key = {'path': os.path.abspath(path), 'bytes': stamp.st_size, 'modified_ns': stamp.st_mtime_ns}

    def make(directory: pathlib.Path, parts: pathlib.Path) -> None:
        np.savez(directory / 'index.npz', **_scan(path))

    with np.load(cache.prepared('files', key, make) / 'index.npz') as index:
        return {'sha256': str(index['sha256']), 'starts': index['starts'], 'ends': index['ends']}


def _scan(path: epath.Path) -> dict[str, Any]:
    digest, starts, ends, position = hashlib.sha256(), [], [], 0
    with _readable(path) as file:
        for line in file:
            digest.update(line)
            if line.strip():
                starts.append(position)
                ends.append(position + len(line))
            position += len(line)
    return {'sha256': digest.hexdigest(), 'starts': np.array(starts, np.int64), 'ends': np.array(ends, np.int64)}
