"""Tables with a header, as spreadsheets and pandas write them: CSV and TSV."""

import array
import codecs
import csv
import dataclasses
import importlib.util
import io
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import cache, records, splits
from bigmodel_jax.data.sources import files, record_files
from bigmodel_jax.data.text import encoding

LONGEST_CELL = 2**31 - 1  # The default of the csv module, 131,072, is less than a long document.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Csv(records.Source):
    """A file whose first line names the columns; a record for each row, whose values are text.

    Cells may be quoted, and then hold separators, doubled quotes and line breaks (RFC 4180). Blank lines are skipped.
    The file may be compressed, as *.csv.gz is; it is read piece by piece.
    """

    path: str
    separator: str | None = None  # None: a tab if the name ends with .tsv or .tsv.gz, otherwise a comma.
    part: splits.Subset | None = None

    def open(self) -> records.Records:
        if self.separator is not None and len(self.separator) != 1:
            raise config.InputError(f'Csv(separator={self.separator!r}): it should be one character.')
        found = record_files.record_file(files.path_of(self.path), files.content)
        separator = self.separator or ('\t' if '.tsv' in found.path.name.lower() else ',')
        return records.selected(_opened(found, separator), self.part)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackageCsv(records.Source):
    """A CSV file that an installed package brings along; nothing of the package is imported."""

    package: str  # As it is imported: 'lifelines'.
    file: str  # Within its folder: 'datasets/gbsg2.csv'.
    part: splits.Subset | None = None

    def open(self) -> records.Records:
        spec = importlib.util.find_spec(self.package) if self.package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise config.InputError(
                f'The table {self.file} comes with the package {self.package!r}, which is not installed; '
                f'pip install {self.package}.'
            )
        folder = pathlib.Path(spec.submodule_search_locations[0]).resolve()
        path = (folder / self.file).resolve()
        if not path.is_relative_to(folder) or not path.is_file():
            raise config.InputError(f'The package {self.package!r} has no file {self.file!r}; use another version.')
        return Csv(path=str(path), part=self.part).open()


def _opened(found: record_files.RecordFile, separator: str) -> 'CsvRecords':
    """The rows, found once for a content and kept in the cache."""
    key = {'sha256': found.sha256, 'separator': separator, 'format': 'csv 1'}

    def make(directory: pathlib.Path, parts: pathlib.Path) -> None:
        np.savez(directory / 'rows.npz', **_scan(found, separator)._asdict())

    with np.load(cache.prepared('rows', key, make) / 'rows.npz') as kept:
        return CsvRecords(found, separator, Rows(**kept))


class Rows(NamedTuple):
    """Where the rows of a table are."""

    header: np.ndarray  # [I] of text: what the columns are called.
    starts: np.ndarray  # [n] int64: where the bytes of each row begin.
    ends: np.ndarray  # [n] int64.


class CsvRecords(record_files.FileRecords):
    """The rows of a table."""

    def __init__(self, found: record_files.RecordFile, separator: str, rows: Rows):
        super().__init__(found.path.name, [found], [rows.starts], [rows.ends])
        self._header, self._separator = rows.header.tolist(), separator
        self.fingerprint = {'sha256': [found.sha256], 'separator': separator}

    def parse(self, content: bytes, number: int, starts: np.ndarray, ends: np.ndarray) -> list[records.Record]:
        lines = io.StringIO(encoding.decode(content, str(self._files[number].path)), newline='')
        return [dict(zip(self._header, row)) for row in _reader(lines, self._separator) if row]


def _scan(found: record_files.RecordFile, separator: str) -> Rows:
    """Finds the rows, and checks each."""
    starts, ends = array.array('q'), array.array('q')  # A list would take four times as much memory.
    with files.readable(found.plain) as file:
        lines = _Lines(file, str(found.path))
        reader = _reader(lines, separator)
        header: list[str] = []
        while True:
            first, number = lines.position, lines.number + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise _broken(found, number, lines, error) from error
            if row is None:
                break
            if not header and row:
                header = _checked(row, f'{found.path}, line {number}')
            elif row:
                _check_width(row, header, f'{found.path}, line {number}', separator)
                starts.append(first)
                ends.append(lines.position)
        files.unchanged(found.plain, file, found.lines)  # The rows are kept under the hash of what was there before.
    if not starts:
        raise config.InputError(f'{found.path} holds {"a header but no row" if header else "no text"}.')
    return Rows(np.array(header, np.str_), np.array(starts, np.int64), np.array(ends, np.int64))


def _reader(lines: Iterable[str], separator: str) -> Iterator[list[str]]:
    csv.field_size_limit(LONGEST_CELL)
    return csv.reader(lines, delimiter=separator, strict=True)


class _Lines:
    """The lines of a file as text, which says how many bytes and lines of it have been read."""

    def __init__(self, file: Any, where: str):
        self._file, self._where = file, where
        self.position = self.number = 0

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            skipped = len(codecs.BOM_UTF8) if not self.position and line.startswith(codecs.BOM_UTF8) else 0
            self.position += len(line)
            self.number += 1
            yield encoding.decode(line[skipped:], f'{self._where}, line {self.number}')


def _broken(found: record_files.RecordFile, number: int, lines: _Lines, error: csv.Error) -> config.InputError:
    if 'unexpected end of data' in str(error):
        return config.InputError(
            f'{found.path}: the row that begins on line {number} has a quoted cell that never ends. '
            'Close its quote; a quote within a quoted cell is written twice ("").'
        )
    return config.InputError(
        f'{found.path}, line {lines.number}: {error}. A cell with separators, quotes or line breaks must be quoted, '
        'and a quote within it written twice ("").'
    )


def _checked(header: list[str], where: str) -> list[str]:
    names = [name.strip() for name in header]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise config.InputError(f'{where}: the column {twice[0]!r} occurs twice in the header; rename one.')
    return names


def _check_width(row: list[str], header: list[str], where: str, separator: str) -> None:
    if len(row) == len(header):
        return
    other = next((each for each in ';\t,|' if each != separator and each in header[0]), None)
    advice = f' If columns are separated by {other!r}, say so: Csv(separator={other!r}).' if other else ''
    raise config.InputError(f'{where} has {len(row)} cells, but the header has {len(header)} columns.{advice}')
