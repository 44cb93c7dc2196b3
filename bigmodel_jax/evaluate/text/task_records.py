"""Examples of a task as records: lines of JSON, a TFDS data set, or sums made up here."""

import dataclasses
import glob
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data.sources import files, text_sources

Record = Mapping[str, Any]


class Records:
    """Interface of the configs that say where the examples of a task come from."""

    def open(self) -> Sequence[Record]:
        """The records: text, numbers, and lists and mappings of these.

        Raises:
          InputError: something is missing, empty or unreadable.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonRecords(Records):
    """Every line of the files that match a pattern ('~/tasks/arc_*.jsonl') is a JSON object."""

    pattern: str

    def open(self) -> Sequence[Record]:
        paths = sorted(glob.glob(os.path.expanduser(self.pattern), recursive=True))
        found = [record for path in paths if os.path.isfile(path) for record in _read_lines(path)]
        if not found:
            raise config.InputError(f'No file that matches {self.pattern!r} (from {os.getcwd()}) holds a record.')
        return found


def _read_lines(path: str) -> list[Record]:
    found: list[Record] = []
    with files.unpacked(files.path_of(path)) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:  # Of JSON and of UTF-8.
                raise config.InputError(f'{path}, line {number} is not JSON: {error}.') from error
            if not isinstance(record, dict):
                raise config.InputError(f'{path}, line {number} is a JSON {type(record).__name__}, not an object.')
            found.append(record)
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsRecords(Records):
    """The whole records of a split of a TFDS data set, of which `source` names one text feature."""

    source: text_sources.Tfds

    def open(self) -> Sequence[Record]:
        self.source.open()  # Prepares the data set, or says what is wrong.
        # Not at the top: TFDS takes seconds to import.
        import tensorflow_datasets as tfds

        data_dir = self.source.data_dir or os.environ.get('TFDS_DATA_DIR')
        builder = tfds.builder(self.source.name, data_dir=os.path.expanduser(data_dir) if data_dir else None)
        return TfdsSequence(builder.as_data_source(split=self.source.split))


class TfdsSequence(Sequence[Record]):
    """Records of a data source, each read when it is asked for."""

    def __init__(self, records: Any):
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return plain(self._records[index])


def plain(value: Any) -> Any:
    """What TFDS gives (bytes, arrays and numbers of NumPy) as text, lists and numbers."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value.decode() if isinstance(value, bytes) else value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sums(Records):
    """Sums of two numbers below `below`, each with its result and three wrong ones: 'a', 'b', 'choices' and 'label'.

    The numbers are those of Brown et al. (2020), section 3.9.1, whose task is to write the result, not to choose it.
    """

    count: config.Positive
    below: config.Positive = 100
    seed: config.Seed = 0

    def open(self) -> Sequence[Record]:
        return [self._record(number) for number in range(self.count)]

    def _record(self, number: int) -> Record:
        digits = hashlib.sha256(f'{self.seed} sum {number}'.encode()).digest()
        a, b = (int.from_bytes(digits[i : i + 4], 'big') % self.below for i in (0, 4))
        # Numbers that differ in either digit; the result is any of them in size, unless one fell below 0.
        apart = (0, 1, 10, 11)
        rank = digits[8] % 4 if a + b >= apart[-1] else 0
        label = digits[9] % 4
        choices = [a + b - apart[rank] + apart[(place - label + rank) % 4] for place in range(4)]
        return {'a': a, 'b': b, 'choices': [str(choice) for choice in choices], 'label': label}
