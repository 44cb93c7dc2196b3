"""Sources that are made of other sources."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import records, transforms


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextField(records.Source):
    """The text in one field of a source's records: a column of a table, or one language of translations."""

    source: records.Source
    field: records.Field  # 'data.text' is the field 'text' of the object in 'data'; a Tsv has columns 0, 1, 2 ...

    def open(self) -> records.Records:
        return ViewRecords([records.texts(self.source, self.field)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joined(records.Source):
    """The texts of several sources, one after the other: what a vocabulary of two languages is trained on."""

    parts: tuple[records.Source, ...]

    def open(self) -> records.Records:
        views = [records.texts(part) for part in self.parts]
        found = ViewRecords(views)
        found.fingerprint = {'joined': [dict(view.fingerprint) for view in views]}
        return found


class ViewRecords(records.Records):
    """The texts of one or more views, one after the other, as records that have nothing else."""

    text_only = True

    def __init__(self, views: Sequence[records.TextView]):
        self._views = views
        self._firsts = list(itertools.accumulate(map(len, views), initial=0))
        self.name = ' + '.join(view.name for view in views)
        self.fingerprint = views[0].fingerprint if views else {}

    def __len__(self) -> int:
        return self._firsts[-1]

    def read(self, start: int, stop: int) -> list[records.Record]:
        found: list[records.Record] = []
        for view, first in zip(self._views, self._firsts):
            inside = range(max(start - first, 0), min(stop - first, len(view)))
            found += [{'text': text} for text in view.read(inside.start, inside.stop)] if inside else []
        return found

    def where(self, index: int) -> str:
        number = int(np.searchsorted(self._firsts, index, side='right')) - 1
        return self._views[number].where(index - self._firsts[number])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transformed(records.Source):
    """The records of a source after some transforms, such as Lowercase(); none of them may be random.

    Text is tokenized once, so that nothing can be drawn again in each epoch; Images has transforms of its own.
    """

    source: records.Source
    transforms: tuple[transforms.Transform, ...]

    def open(self) -> records.Records:
        random = [each for each in self.transforms if each.random]
        if random:
            raise config.InputError(
                f'Transformed cannot apply {random[0]}, which is random; records are read only once.'
            )
        return TransformedRecords(self.source.open(), self.transforms)


class TransformedRecords(records.Records):
    """Records that are changed when they are read."""

    def __init__(self, found: records.Records, changes: Sequence[transforms.Transform]):
        self.name, self._records, self._changes = found.name, found, changes
        self.text_only = found.text_only
        self.where = found.where  # type: ignore[method-assign]
        self.fingerprint = {**found.fingerprint, 'transforms': config.to_json(tuple(changes))}

    def __len__(self) -> int:
        return len(self._records)

    def read(self, start: int, stop: int) -> list[records.Record]:
        return [self._changed(record, number) for number, record in enumerate(self._records.read(start, stop), start)]

    def _changed(self, record: records.Record, number: int) -> records.Record:
        where, given = functools.partial(self.where, number), dict(record)
        for name in {each.reads for each in self._changes}:
            found = records.value(record, name, where)
            given[name] = records.text(record, name, where) if isinstance(found, bytes) else found
        return transforms.apply(self._changes, given, seed=0, epoch=0, example=number)
