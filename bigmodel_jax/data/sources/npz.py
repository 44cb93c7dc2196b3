"""Arrays in a file that numpy.savez wrote, as records."""

import dataclasses
import hashlib
import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.data import arrays as checking
from bigmodel_jax.data import records, splits
from bigmodel_jax.data.sources import files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Npz(records.Source):
    """The arrays of an .npz file, whose first axes have the same length; record i has element i of each, by its name.

    They are held in memory.
    """

    path: str
    arrays: tuple[str, ...] = ()  # Only these; empty: all of them.
    part: splits.Subset | None = None

    def open(self) -> 'ArrayRecords':
        path = files.path_of(self.path)
        content = files.read_bytes(path)
        found = _arrays(path, content, self.arrays)
        problems = checking.problems_of_lengths(found)
        if problems:
            raise config.InputError(f'{path}: {problems[0]}')
        fingerprint = {'sha256': hashlib.sha256(content).hexdigest()}
        whole = ArrayRecords(self.path, found, fingerprint)
        if self.part is None:
            return whole
        chosen = self.part.select_records(whole)
        fingerprint |= {'part': config.to_json(self.part)}
        return ArrayRecords(self.path, {name: array[chosen] for name, array in found.items()}, fingerprint)


class ArrayRecords(records.Records):
    """Arrays with a common first axis."""

    def __init__(self, name: str, arrays: Mapping[str, np.ndarray], fingerprint: Mapping[str, Any]):
        self.name, self.fingerprint, self._arrays = name, fingerprint, arrays

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def read(self, start: int, stop: int) -> list[records.Record]:
        inside = range(len(self))[start:stop]
        return [{name: array[number] for name, array in self._arrays.items()} for number in inside]

    def column(self, field: records.Field) -> np.ndarray | None:
        return self._arrays.get(str(field))

    def shapes(self, field: records.Field) -> np.ndarray | None:
        array = self._arrays.get(str(field))
        return None if array is None else np.broadcast_to(array.shape[1:], (len(self), array.ndim - 1))

    def where(self, index: int) -> str:
        return f'{self.name}, example {index}'


def _arrays(path: epath.Path, content: bytes, wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    if content.startswith(np.lib.format.MAGIC_PREFIX):
        raise config.InputError(
            f'{path} is an .npy file, which holds one array without a name. Write the arrays with their names: '
            'numpy.savez(FILE, image=..., label=...).'
        )
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as kept:
            names = list(kept)
            found = {name: kept[name] for name in wanted or names if name in names}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise config.InputError(f'{path} is not an .npz file of plain arrays: {error}') from error
    for name in wanted:
        if name not in found:
            raise config.InputError(f'{path} has no array {name!r}.{config.nearest(name, names)}')
    for name, array in found.items():
        if array.dtype.kind not in 'uifb':
            raise config.InputError(f'{path}: {name!r} is of {array.dtype}; arrays should hold numbers.')
        if array.dtype.kind == 'f' and not np.isfinite(array).all():
            raise config.InputError(f'{path}: {name!r} holds numbers that are not finite.')
    return found
