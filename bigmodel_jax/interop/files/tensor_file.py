"""Safetensors files: a header of JSON, then the bytes of each tensor; mapped from the disk, and written one by one.

Format: 8 bytes, the length N of the header, little-endian; N bytes of JSON, name -> {'dtype', 'shape', 'data_offsets'},
and optionally '__metadata__' of text; then the tensors without gaps (github.com/huggingface/safetensors). What a file
claims of itself is checked against its size before anything is allocated.
"""

import json
import math
import pathlib
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from bigmodel_jax import config

HEADER_BYTES = 100_000_000  # The limit of the reference implementation.
DTYPES = {
    'F64': np.dtype(np.float64),
    'F32': np.dtype(np.float32),
    'F16': np.dtype(np.float16),
    'BF16': np.dtype(ml_dtypes.bfloat16),
    'I64': np.dtype(np.int64),
    'I32': np.dtype(np.int32),
    'I16': np.dtype(np.int16),
    'I8': np.dtype(np.int8),
    'U8': np.dtype(np.uint8),
    'BOOL': np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Entry(NamedTuple):
    """Where a tensor lies."""

    shape: tuple[int, ...]
    dtype: np.dtype
    begin: int  # Of its bytes, from the start of the file.

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class TensorFile:
    """A safetensors file, opened for reading: name -> Entry in `entries`, and read().

    Raises:
      InputError: the file is not what it says it is.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        try:
            self.entries = _entries(path)
        except OSError as error:
            raise config.InputError(f'{path} cannot be read: {error.strerror}.') from error

    def read(self, name: str) -> np.ndarray:
        """The tensor, mapped from the disk: its bytes are read when they are used."""
        entry = self.entries[name]
        if not entry.size_bytes:  # A file cannot be mapped at its end.
            return np.zeros(entry.shape, entry.dtype)
        bytes_N = np.memmap(self.path, np.uint8, 'r', offset=entry.begin, shape=(entry.size_bytes,))
        return bytes_N.view(entry.dtype).reshape(entry.shape)


def _entries(path: pathlib.Path) -> dict[str, Entry]:
    size = path.stat().st_size
    with path.open('rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        if size < 8 or length > min(size - 8, HEADER_BYTES):
            raise config.InputError(
                f'{path} is not a whole safetensors file: it has {size:,} bytes, and says that its header has '
                f'{length:,}. Download it again.'
            )
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop('__metadata__', None)
        _check_dtypes(path, header)
        found = {name: _entry(name, facts, 8 + length) for name, facts in header.items()}
    except config.InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise config.InputError(f'{path}: its header is damaged ({error}). Download it again.') from error
    _check_layout(path, found, begin=8 + length, size=size)
    return found


def _check_dtypes(path: pathlib.Path, header: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises InputError if a sound file holds tensors of a dtype that cannot be computed with here."""
    names = [name for name, facts in header.items() if facts['dtype'] not in DTYPES]
    if names:
        more = f' (as {len(names) - 1} others)' if len(names) > 1 else ''
        raise config.InputError(
            f'{path}: {names[0]}{more} has dtype {header[names[0]]["dtype"]}, which is not supported; supported are '
            f'{", ".join(DTYPES)}. The file itself is not damaged. Save the weights in bfloat16 first, with the '
            'program that quantized them or with transformers: '
            'AutoModelForCausalLM.from_pretrained(DIR, dtype=torch.bfloat16).save_pretrained(DIR2).'
        )


def _entry(name: str, facts: Mapping[str, Any], begin: int) -> Entry:
    shape, (first, last) = facts['shape'], facts['data_offsets']
    if not all(isinstance(each, int) and each >= 0 for each in (*shape, first, last)):
        raise ValueError(f'{name} has shape {shape} and offsets {first}, {last}')
    entry = Entry(tuple(shape), DTYPES[facts['dtype']], begin + first)
    if last - first != entry.size_bytes:
        raise ValueError(f'{name}, {facts["dtype"]}{shape}, takes {entry.size_bytes} bytes, not {last - first}')
    return entry


def _check_layout(path: pathlib.Path, entries: Mapping[str, Entry], *, begin: int, size: int) -> None:
    """Raises InputError unless the tensors fill the file, none over another."""
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].size_bytes)):
        if entry.begin != begin:
            raise config.InputError(f'{path}: {name} begins at byte {entry.begin:,} instead of {begin:,}.')
        begin += entry.size_bytes
    if begin != size:
        how = 'truncated' if size < begin else 'longer than its header says'
        raise config.InputError(f'{path} is {how}: {size:,} bytes instead of {begin:,}. Download it again.')


class TensorWriter:
    """Writes a safetensors file tensor by tensor, in any order, as a context manager.

    Args:
      path: of a file that does not exist.
      contents: name -> shape and dtype of every tensor that will be written.
    """

    def __init__(self, path: pathlib.Path, contents: Mapping[str, tuple[tuple[int, ...], np.dtype]]):
        self.entries: dict[str, Entry] = {}
        header: dict[str, Any] = {'__metadata__': {'format': 'pt'}}
        place = 0
        for name, (shape, dtype) in contents.items():
            entry = Entry(tuple(shape), np.dtype(dtype), place)
            place += entry.size_bytes
            offsets = [entry.begin, place]
            header[name] = {'dtype': NAMES[entry.dtype], 'shape': list(shape), 'data_offsets': offsets}
            self.entries[name] = entry
        text = json.dumps(header, separators=(',', ':')).encode()
        text += b' ' * (-len(text) % 8)  # So that the tensors are aligned.
        self._begin, self._missing = 8 + len(text), set(contents)
        self._file = path.open('xb')
        self._file.write(len(text).to_bytes(8, 'little') + text)
        self._file.truncate(self._begin + place)

    def write(self, name: str, tensor: np.ndarray) -> None:
        """Writes one tensor of the contents."""
        entry = self.entries[name]
        assert (tensor.shape, tensor.dtype) == (entry.shape, entry.dtype), (name, tensor.shape, tensor.dtype, entry)
        self._file.seek(self._begin + entry.begin)
        # As bytes, since not every dtype has a buffer.
        self._file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
        self._missing.remove(name)

    def __enter__(self) -> 'TensorWriter':
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._file.close()
        assert kind is not None or not self._missing, self._missing
