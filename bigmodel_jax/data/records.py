"""Records: the examples of a data set as they are stored, by number, each a mapping from field to value.

There is one interface of sources. A `Source` is a small config, `Source.open()` gives `Records`: their number, random
access, a fingerprint, and where each stands for messages. The Data config that reads them says what
their fields mean:

  Text, Pairs, SpanCorruption, SentencePairs, vocabularies: the field `text` (TextField gives it another field's text)
  Labelled, Features, Images, Captioned, Instructions, Questions, Task: the fields that they name

The sources are in data/sources: Tfds, TextFile, TextFiles, Lines, Texts, JsonLines, Csv, PackageCsv, Tsv, Parquet, Npz,
ImageFolder, SquadFile; and TextField, Joined and Transformed, which are made of other sources.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import splits
from bigmodel_jax.data.text import encoding

Record = Mapping[Any, Any]  # Fields have names; those of a Tsv have numbers.
Field = str | config.NonNegative


class Records:
    """Records, by number. Subclasses say how they are read."""

    name: str  # For people.
    fingerprint: Mapping[str, Any]  # JSON-ready: what the records are, wherever they lie.
    text_only: bool = False  # Whether all that a record has is its `text`.

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Record:
        inside = range(len(self))[index]
        return self.read(inside, inside + 1)[0]

    def __iter__(self) -> Iterator[Record]:
        return itertools.chain.from_iterable(chunk for _, chunk in self.chunks())

    def read(self, start: int, stop: int) -> list[Record]:
        """Records start ... stop - 1; cheaper than one by one."""
        raise NotImplementedError

    def gather(self, indices: Sequence[int]) -> list[Record]:
        """The records at `indices`, in their order."""
        return [self[index] for index in indices]

    def column(self, field: Field) -> np.ndarray | None:
        """[n, ...]: the values of a field in all records, if they are known without reading them; else None."""
        return None

    def shapes(self, field: Field) -> np.ndarray | None:
        """[n, rank]: the shapes of the arrays in a field, if they are known without reading them; else None."""
        return None

    @property
    def without_images(self) -> 'Records':
        """The same records, without images that are decoded when they are read, where there are any."""
        return self

    def where(self, index: int) -> str:
        """Where record `index` stands: 'reviews.csv, line 17'."""
        return f'{self.name}, row {index + 1}'

    def chunks(self, size: int = 1_024) -> Iterator[tuple[int, list[Record]]]:
        """All records in order, `size` at a time, with the number of the first."""
        for start in range(0, len(self), size):
            yield start, self.read(start, min(start + size, len(self)))


class Source:
    """Interface of the configs that say where records come from."""

    def open(self) -> Records:
        """The records.

        Raises:
          InputError: something is missing, empty or unreadable.
        """
        raise NotImplementedError


class RecordList(Records):
    """Records that are held in memory."""

    def __init__(self, name: str, found: Sequence[Record], fingerprint: Mapping[str, Any]):
        self.name, self.fingerprint, self._found = name, fingerprint, found

    def __len__(self) -> int:
        return len(self._found)

    def read(self, start: int, stop: int) -> list[Record]:
        return list(self._found[start:stop])


class SelectedRecords(Records):
    """A selection of other records."""

    def __init__(self, records: Records, part: splits.Subset):
        self._records = records
        self._indices = part.select_records(records)
        self.name, self.text_only = records.name, records.text_only
        self.fingerprint = {**records.fingerprint, 'part': config.to_json(part)}

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, start: int, stop: int) -> list[Record]:
        wanted = self._indices[start:stop]
        # Those that are left out between them are read too: a share that is held out is small, or read once.
        found: list[Record] = []
        for run in np.split(wanted, np.flatnonzero(np.diff(wanted) > 64) + 1):
            if len(run):
                first = int(run[0])
                block = self._records.read(first, int(run[-1]) + 1)
                found += [block[i - first] for i in run.tolist()]
        return found

    def gather(self, indices: Sequence[int]) -> list[Record]:
        return self._records.gather(self._indices[list(indices)].tolist())

    def where(self, index: int) -> str:
        return self._records.where(int(self._indices[index]))


def selected(records: Records, part: splits.Subset | None) -> Records:
    """The given part of the records, or all of them if it is None."""
    return records if part is None else SelectedRecords(records, part)


# ---- values of fields -----------------------------------------------------------------------------------------------

Where = Callable[[], str]  # Says where a record stands; called for messages only, since counting lines takes time.


def value(record: Record, field: Field, where: Where) -> Any:
    """The field of that name; 'data.text' is the field 'text' of the object in 'data' unless there is 'data.text'.

    Raises:
      InputError: the record has no such field; names the nearest.
    """
    if field in record:
        return record[field]
    node: Any = record
    done: list[str] = []
    for name in str(field).split('.'):
        inside = f' in {".".join(done)!r}' if done else ''
        if not isinstance(node, Mapping):
            raise config.InputError(f'{where()} has no field {name!r}{inside}, which is a {type(node).__name__}.')
        if name not in node:
            known = config.nearest(name, map(str, node))
            raise config.InputError(f'{where()} has no field {name!r}{inside}.{known}')
        node = node[name]
        done.append(name)
    return node


def text(record: Record, field: Field, where: Where) -> str:
    """The text in a field.

    Raises:
      InputError: there is none, or it is no Unicode text.
    """
    found = value(record, field, where)
    if isinstance(found, bytes):
        return encoding.decode(found, where())
    if not isinstance(found, str):
        raise config.InputError(f'{where()}: {field!r} is a {type(found).__name__}, not text.')
    try:
        found.encode()
    except UnicodeEncodeError as error:
        raise config.InputError(
            f'{where()}: {field!r} holds half a surrogate pair at character {error.start}, which is not Unicode text; '
            'remove the line or mend it.'
        ) from error
    return found


def label(record: Record, field: Field, where: Where) -> str:
    """The label in a field, as it is written.

    Raises:
      InputError: there is none.
    """
    found = value(record, field, where)
    if isinstance(found, bytes):
        return encoding.decode(found, where())
    if not isinstance(found, str | int | float | np.integer | np.floating):
        raise config.InputError(f'{where()}: {field!r} is {found!r}, which is not a label.')
    return str(found)


# ---- columns --------------------------------------------------------------------------------------------------------


def columns(found: Records, fields: Sequence[Field], label_field: Field) -> tuple[tuple[list[str], ...], list[str]]:
    """The texts in some fields of all records, a list for each field, and their labels as they are written."""
    read: tuple[list[str], ...] = tuple([] for _ in fields)
    labels = []
    for first, chunk in found.chunks():
        for number, record in enumerate(chunk, first):
            where = functools.partial(found.where, number)
            for column, field in zip(read, fields):
                column.append(text(record, field, where))
            labels.append(label(record, label_field, where))
    return read, labels


# ---- texts ----------------------------------------------------------------------------------------------------------


class TextView:
    """The texts in one field of records, by number."""

    def __init__(self, found: Records, field: Field = 'text'):
        self.name, self._records, self._field = found.name, found, field
        self.fingerprint = found.fingerprint if found.text_only else {**found.fingerprint, 'field': field}

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> str:
        inside = range(len(self))[index]
        return self.read(inside, inside + 1)[0]

    def __iter__(self) -> Iterator[str]:
        return itertools.chain.from_iterable(self.chunks())

    def read(self, start: int, stop: int) -> list[str]:
        """Texts start ... stop - 1; cheaper than one by one."""
        return [
            text(record, self._field, functools.partial(self._records.where, start + number))
            for number, record in enumerate(self._records.read(start, stop))
        ]

    def where(self, index: int) -> str:
        """Where text `index` stands, for messages."""
        return self._records.where(index)

    def chunks(self, size: int = 256) -> Iterator[list[str]]:
        """All texts in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.read(start, min(start + size, len(self)))


def texts(source: Source, field: Field = 'text') -> TextView:
    """The texts in a field of a source's records."""
    return TextView(source.open().without_images, field)
