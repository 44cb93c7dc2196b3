"""Tables in Parquet files, read by pyarrow."""

import dataclasses
import hashlib
import io
import threading
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.data import libraries, records, splits
from bigmodel_jax.data.sources import files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parquet(records.Source):
    """The rows of every Parquet file that matches a pattern, a record each; only the columns that are named are read.

    A group of rows is held in memory at a time.
    """

    pattern: str
    columns: tuple[str, ...] = ()  # Empty: all of them.
    part: splits.Subset | None = None

    def open(self) -> records.Records:
        paths = files.matches(self.pattern)
        return records.selected(ParquetRecords(self.pattern, paths, self.columns), self.part)


def from_frame(frame: Any, folder: epath.PathLike) -> Parquet:
    """The rows of a data frame of pandas or polars as a source, written to a file of `folder` that is named by them.

    An experiment holds where its data is, not the data, so that it can be stored, repeated and run elsewhere. The same
    rows give the same file, which is written once. An index of pandas is left out; reset_index() makes it a column.

    Raises:
      InputError: `frame` is no data frame, or holds what no Parquet file can.
    """
    _arrow()
    import pyarrow

    try:
        made = (
            frame.to_arrow() if hasattr(frame, 'to_arrow') else pyarrow.Table.from_pandas(frame, preserve_index=False)
        )
    except (AttributeError, TypeError, ValueError, pyarrow.ArrowException) as error:
        raise config.InputError(f'A {type(frame).__name__} is no data frame that can be stored: {error}') from error
    content = io.BytesIO()
    _arrow().write_table(made.replace_schema_metadata(None), content)
    path = epath.Path(folder).expanduser() / f'{hashlib.sha256(content.getvalue()).hexdigest()[:16]}.parquet'
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        durable = path.with_name(f'{path.name}.partial')
        durable.write_bytes(content.getvalue())
        durable.rename(path)
    return Parquet(pattern=str(path))


class ParquetRecords(records.Records):
    """Rows in groups, the last of which is kept."""

    def __init__(self, name: str, paths: Sequence[epath.Path], columns: tuple[str, ...]):
        arrow = _arrow()
        self.name, self._columns, self._paths = name, list(columns) or None, paths
        self.fingerprint = {'sha256': [files.content(path).sha256 for path in paths], 'columns': list(columns)}
        self._opened, sizes = [], []
        self._groups: list[tuple[int, int]] = []  # File and number within it.
        for number, path in enumerate(paths):
            try:
                opened = arrow.ParquetFile(path.open('rb'))
            except ValueError as error:  # ArrowInvalid is one.
                raise config.InputError(f'{path} is not a Parquet file: {error}') from error
            names = opened.schema_arrow.names
            for column in columns:
                if column not in names:
                    raise config.InputError(f'{path} has no column {column!r}.{config.nearest(column, names)}')
            self._opened.append(opened)
            self._groups += [(number, group) for group in range(opened.num_row_groups)]
            sizes += [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
        self._firsts = np.cumsum([0, *sizes])
        if not len(self):
            raise config.InputError(f'{name} holds no row.')
        self._kept: tuple[int, Any] = (-1, None)
        self._reading = threading.Lock()

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def read(self, start: int, stop: int) -> list[records.Record]:
        found: list[records.Record] = []
        for number in range(len(self._groups)):
            first, last = self._firsts[number : number + 2].tolist()
            inside = range(max(start - first, 0), min(stop - first, last - first))
            if inside:
                found += self._group(number).slice(inside.start, len(inside)).to_pylist()
        return found

    def _group(self, number: int) -> Any:
        kept = self._kept  # Another thread may replace it meanwhile.
        if kept[0] != number:
            file, group = self._groups[number]
            try:
                with self._reading:  # A file that is open cannot be read by two threads at once.
                    kept = number, self._opened[file].read_row_group(group, columns=self._columns)
            except (OSError, ValueError) as error:
                raise config.InputError(f'{self._paths[file]} is damaged: {error}') from error
            self._kept = kept
        return kept[1]

    def where(self, index: int) -> str:
        number = int(np.searchsorted(self._firsts, index, side='right')) - 1
        file = self._groups[number][0]
        first = self._firsts[[each for each, _ in self._groups].index(file)]
        return f'{self._paths[file]}, row {index - first + 1}'


def _arrow() -> types.ModuleType:
    return libraries.load('pyarrow.parquet', 'Parquet files are read by pyarrow', extra='parquet')
