"""Where text comes from: TFDS data sets and local files, all as a random-access sequence of documents."""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.data import records, splits
from bigmodel_jax.data.sources import documents, files


class Source:
    """Interface of the configs that say where text comes from."""

    def open(self) -> documents.Documents:
        """Raises InputError if something is missing, empty or unreadable."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFile(Source):
    """One UTF-8 file as one document, or the part of it between two fractions of its characters.

    Here and below, a byte-order mark at the beginning of a file is dropped, and a file that is compressed with gzip,
    bzip2 or xz is decompressed, whatever its name.

    The file is read whole, which takes twice its size in memory while it is read, and at most four times with text
    that is not ASCII. Bytes, Characters, Bpe and WordPiece tokenize it part by part: a file of 64 MB took 128 MB with
    Bytes() and 259 MB with Bpe(). SentencePiece and pretrained tokenizers hold the ids of the whole too, up to 30
    bytes for each of them; give them a corpus as many documents, in JsonLines or TextFiles.
    """

    path: str
    start: config.Fraction = 0.0
    stop: config.Fraction = 1.0

    def open(self) -> documents.Documents:
        path = files.path_of(self.path)
        text, fingerprint = files.read_text(path)
        part = text[int(len(text) * self.start) : int(len(text) * self.stop)]
        if not part or part.isspace():
            of_it = (
                f' between {self.start} and {self.stop} of its {len(text)} characters'
                if text and not text.isspace()
                else ''
            )
            raise config.InputError(f'{path} holds no text{of_it}.')
        return TextsInMemory(path.name, [part], {**fingerprint, 'start': self.start, 'stop': self.stop})


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFiles(Source):
    """Every UTF-8 file that matches a pattern ('~/books/**/*.txt'), one document each, in the order of their paths.

    Of a folder, every file in it and the folders below whose name ends with .txt or .md, or with .gz, .bz2 or .xz
    after that. A `part` divides the files by their paths within the folder, or after what is fixed in the pattern.
    """

    pattern: str
    part: splits.Part | None = None

    def open(self) -> documents.Documents:
        paths = _in_folder(self.pattern) if files.path_of(self.pattern).is_dir() else files.matches(self.pattern)
        if self.part is not None:
            fixed = re.split('[*?[]', os.path.expanduser(self.pattern))[0]
            names = [str(path).removeprefix(fixed).lstrip('/') for path in paths]
            paths = [paths[i] for i in self.part.select(names, self.pattern)]
        indices = [files.index(path) for path in paths]
        hashes = [index.sha256 for index in indices]
        if all(digest == hashlib.sha256(b'').hexdigest() for digest in hashes):
            raise config.InputError(f'Every file that matches {self.pattern} is empty.')
        marked = [number for number, index in enumerate(indices) if index.marked]
        fingerprint = {'sha256': hashes} | ({'encoding': {files.MARKED: marked}} if marked else {})
        return FileDocuments(self.pattern, paths, fingerprint)


def _in_folder(folder: str) -> list[epath.Path]:
    endings = tuple(text + packed for text in ('.txt', '.md') for packed in ('', '.gz', '.bz2', '.xz'))
    found = [path for path in files.below(files.path_of(folder)) if path.name.endswith(endings)]
    if not found:
        raise config.InputError(
            f'No file in the folder {folder} ends with .txt or .md, or with these and .gz; name others by a pattern: '
            f"TextFiles(pattern='{folder}/**/*.html')."
        )
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lines(Source):
    """Every line of a UTF-8 file is a document, blank ones too: line i of one file may go with line i of another.

    The whole text is held in memory.
    """

    path: str

    def open(self) -> documents.Documents:
        path = files.path_of(self.path)
        text, fingerprint = files.read_text(path)
        if not text or text.isspace():
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
    field: str = 'text'  # 'data.text' is the field 'text' of the object in 'data'.
    part: splits.Part | None = None

    def open(self) -> documents.Documents:
        return FieldDocuments(records.JsonLines(pattern=self.pattern, part=self.part).open(), self.field)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordField(Source):
    """A field of records, such as a column of a CSV or Parquet file: each record gives a document."""

    records: records.RecordSource
    field: str = 'text'

    def open(self) -> documents.Documents:
        return FieldDocuments(self.records.open(), self.field)


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
        from bigmodel_jax.data.sources import tfds_source

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


class FieldDocuments(documents.Documents):
    """The texts in a field of records."""

    def __init__(self, found: records.Records, field: str):
        self.name, self._records, self._field = found.name, found, field
        self.fingerprint = {**found.fingerprint, 'field': field}

    def __len__(self) -> int:
        return len(self._records)

    def read(self, start: int, stop: int) -> list[str]:
        found = self._records.read(start, stop)
        return [
            records.text(record, self._field, functools.partial(self._records.where, start + number))
            for number, record in enumerate(found)
        ]
