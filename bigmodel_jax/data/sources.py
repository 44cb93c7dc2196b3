"""Where text comes from: TFDS data sets and local files, all as a random-access sequence of documents."""

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.data import documents, encoding, files


class Source:
    """Interface of the configs that say where text comes from."""

    def open(self) -> documents.Documents:
        """Raises InputError if something is missing, empty or unreadable."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFile(Source):
    """One UTF-8 file as one document, or the part of it between two fractions of its characters.

    Here and below, a byte-order mark at the beginning of a file is dropped, and a file that is compressed with gzip,
    bzip2 or xz is decompressed, whatever its name; JsonLines needs its files as they are.
    """

    path: str
    start: config.Fraction = 0.0
    stop: config.Fraction = 1.0

    def open(self) -> documents.Documents:
        path = files.path_of(self.path)
        text, fingerprint = files.read_text(path)
        part = text[int(len(text) * self.start) : int(len(text) * self.stop)]
        if not part.strip():
            of_it = f' between {self.start} and {self.stop} of its {len(text)} characters' if text.strip() else ''
            raise config.InputError(f'{path} holds no text{of_it}.')
        return TextsInMemory(path.name, [part], {**fingerprint, 'start': self.start, 'stop': self.stop})


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFiles(Source):
    """Every UTF-8 file that matches a pattern ('~/books/**/*.txt'), one document each, in the order of their paths."""

    pattern: str

    def open(self) -> documents.Documents:
        paths = files.matches(self.pattern)
        indices = [files.index(path) for path in paths]
        hashes = [index.sha256 for index in indices]
        if all(digest == hashlib.sha256(b'').hexdigest() for digest in hashes):
            raise config.InputError(f'Every file that matches {self.pattern} is empty.')
        marked = [number for number, index in enumerate(indices) if index.marked]
        fingerprint = {'sha256': hashes} | ({'encoding': {files.MARKED: marked}} if marked else {})
        return FileDocuments(self.pattern, paths, fingerprint)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lines(Source):
    """Every line of a UTF-8 file is a document, blank ones too: line i of one file may go with line i of another.

    The whole text is held in memory.
    """

    path: str

    def open(self) -> documents.Documents:
        path = files.path_of(self.path)
        text, fingerprint = files.read_text(path)
        if not text.strip():
            raise config.InputError(f'{path} holds no text.')
        lines = [line.removesuffix('\r') for line in text.removesuffix('\n').split('\n')]
        return TextsInMemory(path.name, lines, {**fingerprint, 'lines': len(lines)})


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
        paths = files.matches(self.pattern)
        indices = [files.index(path) for path in paths]
        for path, index in zip(paths, indices):
            if index.form is not None:
                raise encoding.refusal(index.form, str(path))
        if not sum(len(index.starts) for index in indices):
            raise config.InputError(f'No file that matches {self.pattern} has a line that is not blank.')
        fingerprint = {'sha256': [index.sha256 for index in indices], 'field': self.field}
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
    """Files, each read when it is asked for, and compared with the hash that it had when it was opened."""

    def __init__(self, name: str, paths: Sequence[epath.Path], fingerprint: Mapping[str, Any]):
        self.name, self.fingerprint, self._paths = name, fingerprint, paths

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, start: int, stop: int) -> list[str]:
        texts = []
        for path, digest in zip(self._paths[start:stop], self.fingerprint['sha256'][start:stop]):
            text, found = files.read_text(path)
            if found['sha256'] != digest:
                raise files.changed(path)
            texts.append(text)
        return texts


class LineDocuments(documents.Documents):
    """Lines of JSON, found by their byte offsets."""

    def __init__(
        self,
        source: JsonLines,
        paths: Sequence[epath.Path],
        indices: Sequence[files.Index],
        fingerprint: Mapping[str, Any],
    ):
        self.name, self.fingerprint = source.pattern, fingerprint
        self._field, self._paths, self._indices = source.field, paths, list(indices)
        self._firsts = np.cumsum([0, *(len(index.starts) for index in indices)])

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def read(self, start: int, stop: int) -> list[str]:
        texts = []
        for number, path in enumerate(self._paths):
            first, last = self._firsts[number : number + 2]
            inside = slice(max(start - first, 0), min(stop - first, last - first))
            if inside.start < inside.stop:
                texts += self._read_file(path, number, inside)
        return texts

    def _read_file(self, path: epath.Path, number: int, lines: slice) -> list[str]:
        starts, ends = self._indices[number].starts[lines], self._indices[number].ends[lines]
        with files.readable(path) as file:
            file.seek(int(starts[0]))
            content = file.read(int(ends[-1] - starts[0]))
            self._indices[number] = files.unchanged(path, file, self._indices[number])
        return [
            self._parse(content[start - starts[0] : end - starts[0]], path, int(start))
            for start, end in zip(starts, ends)
        ]

    def _parse(self, line: bytes, path: epath.Path, start: int) -> str:
        try:
            record = json.loads(line)
        except ValueError as error:  # Of JSON and of UTF-8.
            raise config.InputError(f'{files.line_at(path, start)} is not JSON: {error}.') from error
        if not isinstance(record, dict):
            raise config.InputError(f'{files.line_at(path, start)} is a JSON {type(record).__name__}, not an object.')
        if self._field not in record:
            known = config.nearest(self._field, record)
            raise config.InputError(f'{files.line_at(path, start)} has no field {self._field!r}.{known}')
        text = record[self._field]
        if not isinstance(text, str):
            raise config.InputError(
                f'{files.line_at(path, start)}: {self._field!r} is a {type(text).__name__}, not text.'
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            where = files.line_at(path, start)
            raise config.InputError(
                f'{where}: {self._field!r} holds half a surrogate pair at character {error.start}, which is no Unicode '
                'text; remove the line or mend it.'
            ) from error
        return text
