"""Records: the rows of a table or the objects of a file, by number, each a mapping from field to value.

A `RecordSource` config opens `Records`. What their fields mean is said by what reads them: text_sources.RecordField,
tables.Columns, tabular.Features, instructions.Instructions.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.data import cache, splits
from bigmodel_jax.data.sources import files
from bigmodel_jax.data.text import encoding

Record = Mapping[str, Any]
BLOCK_BYTES = 2**20


class Records:
    """Records, by number. Subclasses say how they are read."""

    name: str  # For people.
    fingerprint: Mapping[str, Any]  # JSON-ready: what the records are, wherever they lie.

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, start: int, stop: int) -> list[Record]:
        """Records start ... stop - 1; cheaper than one by one."""
        raise NotImplementedError

    def where(self, index: int) -> str:
        """Where record `index` stands: 'reviews.csv, line 17'."""
        return f'{self.name}, row {index + 1}'

    def chunks(self, size: int = 1_024) -> Iterator[tuple[int, list[Record]]]:
        """All records in order, `size` at a time, with the number of the first."""
        for start in range(0, len(self), size):
            yield start, self.read(start, min(start + size, len(self)))


class RecordSource:
    """Interface of the configs that say where records come from."""

    def open(self) -> Records:
        """Raises InputError if something is missing, empty or unreadable."""
        raise NotImplementedError


class SelectedRecords(Records):
    """Some of the records of others."""

    def __init__(self, records: Records, part: splits.Part):
        self._records = records
        self._indices = part.select(range(len(records)), records.name)
        self.name = records.name
        self.fingerprint = {**records.fingerprint, 'part': config.to_json(part)}

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, start: int, stop: int) -> list[Record]:
        wanted = self._indices[start:stop]
        # Those that are left out between them are read too: a share that is held out is small, or read once.
        first = int(wanted[0]) if len(wanted) else 0
        found: list[Record] = []
        for run in np.split(wanted, np.flatnonzero(np.diff(wanted) > 64) + 1):
            if len(run):
                first = int(run[0])
                block = self._records.read(first, int(run[-1]) + 1)
                found += [block[i - first] for i in run.tolist()]
        return found

    def where(self, index: int) -> str:
        return self._records.where(int(self._indices[index]))


def selected(records: Records, part: splits.Part | None) -> Records:
    """The part of the records that is asked for; all of them without one."""
    return records if part is None else SelectedRecords(records, part)


Where = Callable[[], str]  # Says where a record stands; called for messages only, since counting lines takes time.


def value(record: Record, field: str, where: Where) -> Any:
    """The field of that name; 'data.text' is the field 'text' of the object in 'data' unless there is 'data.text'.

    Raises:
      InputError: the record has no such field; names the nearest.
    """
    if field in record:
        return record[field]
    node: Any = record
    done: list[str] = []
    for name in field.split('.'):
        inside = f' in {".".join(done)!r}' if done else ''
        if not isinstance(node, Mapping):
            raise config.InputError(f'{where()} has no field {name!r}{inside}, which is a {type(node).__name__}.')
        if name not in node:
            known = config.nearest(name, map(str, node))
            raise config.InputError(f'{where()} has no field {name!r}{inside}.{known}')
        node = node[name]
        done.append(name)
    return node


def text(record: Record, field: str, where: Where) -> str:
    """The text in a field.

    Raises:
      InputError: there is none, or it is no Unicode text.
    """
    found = value(record, field, where)
    if not isinstance(found, str):
        raise config.InputError(f'{where()}: {field!r} is a {type(found).__name__}, not text.')
    try:
        found.encode()
    except UnicodeEncodeError as error:
        raise config.InputError(
            f'{where()}: {field!r} holds half a surrogate pair at character {error.start}, which is no Unicode text; '
            'remove the line or mend it.'
        ) from error
    return found


def label(record: Record, field: str, where: Where) -> str:
    """The label in a field, as it is written.

    Raises:
      InputError: there is none.
    """
    found = value(record, field, where)
    if not isinstance(found, str | int | float):
        raise config.InputError(f'{where()}: {field!r} is {found!r}, which is no label.')
    return str(found)


# ---- files --------------------------------------------------------------------------------------------------------


class RecordFile(NamedTuple):
    """A file whose records are found by their byte offsets."""

    path: epath.Path  # As it was named.
    plain: epath.Path  # What is read: the same, or its decompressed copy in the cache.
    sha256: str  # Of `path`.
    lines: files.Index  # Of `plain`.


def record_file(path: epath.Path, read: Callable[[epath.Path], files.Index] = files.index) -> RecordFile:
    """The file, decompressed into the cache if it is compressed.

    Args:
      read: files.index, or files.content where lines are not needed.

    Raises:
      InputError: it cannot be read, or is in another encoding.
    """
    index = read(path)
    if index.form is None:
        return RecordFile(path, path, index.sha256, index)
    if index.form.unpack is None:
        raise encoding.refusal(index.form, str(path))

    def make(directory: pathlib.Path, parts: pathlib.Path) -> None:
        with files.unpacked(path) as packed, (directory / 'plain').open('wb') as plain:
            while block := packed.read(BLOCK_BYTES):
                plain.write(block)

    plain = epath.Path(cache.prepared('plain', {'sha256': index.sha256}, make) / 'plain')
    return RecordFile(path, plain, index.sha256, read(plain))


class FileRecords(Records):
    """Records of files, found by their byte offsets. Subclasses say how the bytes of a record are read.

    Args:
      starts, ends: of each file, [records] int64: where the bytes of each record begin and end.
    """

    def __init__(
        self, name: str, paths: Sequence[RecordFile], starts: Sequence[np.ndarray], ends: Sequence[np.ndarray]
    ):
        self.name, self._files, self._starts, self._ends = name, list(paths), starts, ends
        self._firsts = np.cumsum([0, *map(len, starts)])

    def parse(self, content: bytes, number: int, starts: np.ndarray, ends: np.ndarray) -> list[Record]:
        """Records of file `number`; `content` are its bytes from starts[0] to ends[-1]."""
        raise NotImplementedError

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def read(self, start: int, stop: int) -> list[Record]:
        found: list[Record] = []
        for number in range(len(self._files)):
            first, last = self._firsts[number : number + 2]
            inside = slice(max(start - first, 0), min(stop - first, last - first))
            if inside.start < inside.stop:
                found += self._read_file(number, self._starts[number][inside], self._ends[number][inside])
        return found

    def _read_file(self, number: int, starts: np.ndarray, ends: np.ndarray) -> list[Record]:
        of = self._files[number]
        with files.readable(of.plain) as file:
            file.seek(int(starts[0]))
            content = file.read(int(ends[-1] - starts[0]))
            self._files[number] = of._replace(lines=files.unchanged(of.plain, file, of.lines))
        return self.parse(content, number, starts, ends)

    def where(self, index: int) -> str:
        number = int(np.searchsorted(self._firsts, index, side='right')) - 1
        return self.line(number, int(self._starts[number][index - self._firsts[number]]))

    def line(self, number: int, start: int) -> str:
        """'PATH, line N' for the line of file `number` that begins at byte `start`."""
        of = self._files[number]
        return files.line_at(of.plain, start).replace(str(of.plain), str(of.path), 1)


# ---- lines of JSON ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonLines(RecordSource):
    """Every line of the files that match a pattern is a JSON object. Files may be compressed, as *.jsonl.gz is."""

    pattern: str
    part: splits.Part | None = None

    def open(self) -> Records:
        found = [record_file(path) for path in files.matches(self.pattern)]
        if not sum(len(each.lines.starts) for each in found):
            raise config.InputError(f'No file that matches {self.pattern} has a line that is not blank.')
        return selected(JsonRecords(self.pattern, found), self.part)


class JsonRecords(FileRecords):
    """Lines of JSON."""

    def __init__(self, name: str, found: Sequence[RecordFile]):
        super().__init__(name, found, [each.lines.starts for each in found], [each.lines.ends for each in found])
        self.fingerprint = {'sha256': [each.sha256 for each in found]}

    def parse(self, content: bytes, number: int, starts: np.ndarray, ends: np.ndarray) -> list[Record]:
        found: list[Record] = []
        for start, end in zip(starts.tolist(), ends.tolist()):
            try:
                record = json.loads(content[start - starts[0] : end - starts[0]])
            except (ValueError, RecursionError) as error:  # Of JSON and of UTF-8.
                raise config.InputError(f'{self.line(number, start)} is not JSON: {error}.') from error
            if not isinstance(record, dict):
                kind = type(record).__name__
                raise config.InputError(f'{self.line(number, start)} is a JSON {kind}, not an object.')
            found.append(record)
        return found
