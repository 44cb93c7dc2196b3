"""Examples of a task as records: what any source gives, in plain values; and sums made up here."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import records


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
class Sums(records.Source):
    """Sums of two numbers below `below`, each with its result and three wrong ones: 'a', 'b', 'choices' and 'label'.

    The numbers are those of Brown et al. (2020), section 3.9.1, whose task is to write the result, not to choose it.
    """

    count: config.Positive
    below: config.Positive = 100
    seed: config.Seed = 0

    def open(self) -> records.Records:
        sums = [self._record(number) for number in range(self.count)]
        return records.RecordList('sums', sums, {'sums': config.to_json(self)})

    def _record(self, number: int) -> records.Record:
        digits = hashlib.sha256(f'{self.seed} sum {number}'.encode()).digest()
        a, b = (int.from_bytes(digits[i : i + 4], 'big') % self.below for i in (0, 4))
        # Numbers that differ in either digit; the result is any of them in size, unless one fell below 0.
        apart = (0, 1, 10, 11)
        rank = digits[8] % 4 if a + b >= apart[-1] else 0
        label = digits[9] % 4
        choices = [a + b - apart[rank] + apart[(place - label + rank) % 4] for place in range(4)]
        return {'a': a, 'b': b, 'choices': [str(choice) for choice in choices], 'label': label}
