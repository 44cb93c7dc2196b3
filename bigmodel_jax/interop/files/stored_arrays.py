"""The arrays of a checkpoint slice by slice, so that a model larger than the memory goes in and out of one.

A parameter of all layers is one array of the checkpoint, cut into one chunk for each layer (and expert). Orbax makes
the directory, with arrays of one number; TensorStore then gives them their shapes and writes the chunks.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath

from bigmodel_jax.checkpoints import saving
from bigmodel_jax.interop import rules
from bigmodel_jax.run_directory import digest
from bigmodel_jax.storage import merging

SUMMED = 2**16  # Numbers whose checksum is taken at a time; they take 20 bytes each meanwhile.
GOLDEN = np.uint32(2_654_435_769)  # As in run_directory/digest.py.


class Form(NamedTuple):
    """What an array is before any of its numbers is written."""

    shape: rules.Shape
    dtype: np.dtype
    leading: int  # Axes of size 1 in a chunk: layers, experts.


def make(directory: epath.Path, forms: Mapping[str, Form]) -> None:
    """Makes an item of a checkpoint, whose arrays have no numbers yet: name -> Form."""
    seeds = {name: np.zeros((1,) * len(form.shape), form.dtype) for name, form in forms.items()}
    handler = saving.handler()
    handler.save(directory, args=ocp.args.PyTreeSave(seeds))
    handler.finalize(merging.literal(directory))
    for name, form in forms.items():
        chunk = [*[1] * form.leading, *form.shape[form.leading :]]
        metadata = {
            'shape': list(form.shape),
            'data_type': form.dtype.name,
            'chunk_grid': {'name': 'regular', 'configuration': {'chunk_shape': chunk}},
            'codecs': [{'name': 'bytes', 'configuration': {'endian': 'little'}}],
        }
        ts.open({**_spec(directory, name), 'metadata': metadata}, create=True, delete_existing=True).result()


def _spec(directory: epath.Path, name: str) -> dict[str, Any]:
    store = {'driver': 'ocdbt', 'base': merging.base(directory), 'path': f'{name}/'}
    # Orbax takes a chunk that is not stored for damage, so that one of zeros is stored too.
    return {'driver': 'zarr3', 'kvstore': store, 'store_data_equal_to_fill_value': True}


class TensorChecksums:
    """The checksum of an array, as run_directory/digest.py has it, of its slices in any order.

    Args:
      shape: of the array.
    """

    def __init__(self, shape: rules.Shape):
        self._shape, self._plain, self._weighted = shape, np.uint32(0), np.uint32(0)

    def add(self, index: tuple[int, ...], part: np.ndarray) -> None:
        """Adds the slice at an index of the leading axes."""
        bits = part.reshape(-1).view(_words(part.dtype))
        sizes = self._shape[: len(index)]
        begin = (int(np.ravel_multi_index(index, sizes)) if index else 0) * len(bits)
        with np.errstate(over='ignore'):
            for first in range(0, len(bits), SUMMED):
                some = bits[first : first + SUMMED].astype(np.uint32)
                place = np.arange(begin + first, begin + first + len(some), dtype=np.uint64).astype(np.uint32)
                self._plain = self._plain + some.sum(dtype=np.uint32)
                self._weighted = self._weighted + (some * (place * GOLDEN | np.uint32(1))).sum(dtype=np.uint32)

    @property
    def pair(self) -> tuple[int, int]:
        """As digest.checksums() has it."""
        return int(self._plain), int(self._weighted)

    @property
    def text(self) -> str:
        """As the record of a checkpoint has it."""
        return digest.texts(np.array([self.pair]))[0]


def _words(dtype: np.dtype) -> np.dtype:
    return np.dtype(f'u{min(dtype.itemsize, 4)}')


class Arrays:
    """The arrays of an item of a checkpoint, opened one by one, with a checksum of what was read or written."""

    def __init__(self, directory: epath.Path, shapes: Mapping[str, rules.Shape]):
        self._directory, self._open = directory, {}
        self.sums = {name: TensorChecksums(shape) for name, shape in shapes.items()}

    def write(self, name: str, index: tuple[int, ...], part: np.ndarray) -> None:
        """Writes the slice at an index of the leading axes; every slice once."""
        contiguous = np.ascontiguousarray(part)  # [1] of a single number, which is written as one.
        self.sums[name].add(index, contiguous)
        self._array(name)[index].write(contiguous.reshape(part.shape)).result()

    def read(self, name: str, index: tuple[int, ...]) -> np.ndarray:
        """The slice at an index of the leading axes; every slice once."""
        part = self._array(name)[index].read().result()
        contiguous = np.ascontiguousarray(part)
        self.sums[name].add(index, contiguous)
        return contiguous.reshape(part.shape)

    def _array(self, name: str) -> ts.TensorStore:
        if name not in self._open:
            self._open[name] = ts.open(_spec(self._directory, name), open=True).result()
        return self._open[name]
