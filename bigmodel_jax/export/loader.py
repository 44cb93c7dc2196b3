"""Loads the exported model in this directory. It needs jax, numpy and flatbuffers, and runs no code from the files.

import load
model = load.load('.')
model.programs['forward'](model.weights, {'inputs': tokens})

What each program takes and gives is in signature.json. `export` copies this file into the directory as load.py.
"""

import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.export
import ml_dtypes  # A part of jax.
import numpy as np

DTYPES = {'F64': 'f8', 'F32': 'f4', 'F16': 'f2', 'BF16': ml_dtypes.bfloat16, 'I64': 'i8', 'I32': 'i4', 'I16': 'i2',
          'I8': 'i1', 'U8': 'u1', 'BOOL': '?'}  # fmt: skip


class LoadedModel(NamedTuple):
    """The programs by name, the weights by path, and what signature.json says."""

    programs: dict[str, Any]
    weights: dict[str, np.ndarray]
    signature: dict[str, Any]

    def empty_cache(self, **sizes: int) -> dict[str, np.ndarray]:
        """The cache before the first token, such as empty_cache(rows=1, slots=128)."""
        arrays = self.signature['programs']['decode']['cache'].items()
        return {name: np.zeros([sizes.get(n, n) for n in each['shape']], each['dtype']) for name, each in arrays}


def load(directory: str = '.') -> LoadedModel:
    """The model in a directory; raises ValueError if a file is not as it was written."""
    path = pathlib.Path(directory)
    for line in (path / 'SHA256SUMS').read_text().splitlines():
        digest, _, name = line.partition('  ')
        with (path / name).open('rb') as file:
            if hashlib.file_digest(file, 'sha256').hexdigest() != digest:
                raise ValueError(f'{path / name} is not as it was written. Export or copy it again.')
    signature = json.loads((path / 'signature.json').read_text())
    programs = {}
    for name, each in signature['programs'].items():
        program = jax.export.deserialize(bytearray((path / each['file']).read_bytes()))
        programs[name] = jax.jit(program.call)
    return LoadedModel(programs, read_weights(path / signature['weights']['file']), signature)


def read_weights(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file: a length, a header in JSON, and their bytes, which are mapped from the disk."""
    with path.open('rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        header = json.loads(file.read(length))
    bytes_N, begin = np.memmap(path, np.uint8, 'r'), 8 + length
    header.pop('__metadata__', None)
    return {
        name: bytes_N[begin + each['data_offsets'][0] : begin + each['data_offsets'][1]]
        .view(DTYPES[each['dtype']])
        .reshape(each['shape'])
        for name, each in header.items()
    }
