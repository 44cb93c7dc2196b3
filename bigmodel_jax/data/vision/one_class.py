"""Images without labels, as records of one class, for models that know none."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigmodel_jax.data import records


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneClass(records.Source):
    """The records of another source, each with the label 0 in place of any other: for Images(classes=1)."""

    source: records.Source
    label: str = 'label'  # The field.

    def open(self) -> 'OneClassRecords':
        return OneClassRecords(self.source.open(), self.label)


class OneClassRecords(records.Records):
    """Adds the label to each record that is read."""

    def __init__(self, found: records.Records, label: str):
        self._found, self._label = found, label
        self.name, self.fingerprint = found.name, {**found.fingerprint, 'one_class': label}

    def __len__(self) -> int:
        return len(self._found)

    def read(self, start: int, stop: int) -> list[records.Record]:
        return [self._labelled(record) for record in self._found.read(start, stop)]

    def gather(self, indices: Sequence[int]) -> list[records.Record]:
        return [self._labelled(record) for record in self._found.gather(indices)]

    def _labelled(self, record: records.Record) -> Mapping[Any, Any]:
        return {**record, self._label: 0}

    def column(self, field: records.Field) -> np.ndarray | None:
        return np.zeros(len(self), np.int64) if field == self._label else self._found.column(field)

    def shapes(self, field: records.Field) -> np.ndarray | None:
        return self._found.shapes(field)

    def where(self, index: int) -> str:
        return self._found.where(index)
