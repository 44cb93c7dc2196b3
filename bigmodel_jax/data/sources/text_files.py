"""Text in files, and in the experiment itself: records that have nothing but their `text`."""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.data import records, splits
from bigmodel_jax.data.sources import files


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFile(records.Source):
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

    def open(self) -> records.Records:
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
        return TextRecords(path.name, [part], {**fingerprint, 'start': self.start, 'stop': self.stop})


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFiles(records.Source):
    """Every UTF-8 file that matches a pattern ('~/books/**/*.txt'), one document each, in the order of their paths.

    Of a folder, every file in it and the folders below whose name ends with .txt or .md, or with .gz, .bz2 or .xz
    after that. A `part` divides the files by their paths within the folder, or after what is fixed in the pattern.
    """

    pattern: str
    part: splits.Subset | None = None

    def open(self) -> records.Records:
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
        return TextFileRecords(self.pattern, paths, fingerprint)


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
class Lines(records.Source):
    """Every line of a UTF-8 file is a document, blank ones too: line i of one file may go with line i of another.

    The whole text is held in memory.
    """

    path: str

    def open(self) -> records.Records:
        path = files.path_of(self.path)
        text, fingerprint = files.read_text(path)
        if not text or text.isspace():
            raise config.InputError(f'{path} holds no text.')
        lines = [line.removesuffix('\r') for line in text.removesuffix('\n').split('\n')]
        return TextRecords(path.name, lines, {**fingerprint, 'lines': len(lines)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Texts(records.Source):
    """Documents that the experiment itself holds: a few sentences to try something on."""

    texts: tuple[str, ...]

    def open(self) -> records.Records:
        if not any(text.strip() for text in self.texts):
            raise config.InputError('Texts() holds no text; give it some, as in Texts(texts=("one", "two")).')
        digest = hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()
        return TextRecords('texts', list(self.texts), {'sha256': digest, 'texts': len(self.texts)})


# ---- records --------------------------------------------------------------------------------------------------------


class TextRecords(records.Records):
    """Texts that are held in memory."""

    text_only = True

    def __init__(self, name: str, texts: Sequence[str], fingerprint: Mapping[str, Any]):
        self.name, self.fingerprint, self._texts = name, fingerprint, texts

    def __len__(self) -> int:
        return len(self._texts)

    def read(self, start: int, stop: int) -> list[records.Record]:
        return [{'text': text} for text in self._texts[start:stop]]


class TextFileRecords(records.Records):
    """Files that are read on demand, and compared with the hash that they had when they were opened."""

    text_only = True

    def __init__(self, name: str, paths: Sequence[epath.Path], fingerprint: Mapping[str, Any]):
        self.name, self.fingerprint, self._paths = name, fingerprint, paths

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, start: int, stop: int) -> list[records.Record]:
        found: list[records.Record] = []
        for path, digest in zip(self._paths[start:stop], self.fingerprint['sha256'][start:stop]):
            text, now = files.read_text(path)
            if now['sha256'] != digest:
                raise files.changed(path)
            found.append({'text': text})
        return found

    def where(self, index: int) -> str:
        return str(self._paths[index])
