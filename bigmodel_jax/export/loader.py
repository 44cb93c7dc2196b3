"""Loads the exported model in this directory. It needs jax, numpy and flatbuffers, and runs no code from the files.

import load
model = load.load('.')
model.programs['forward'](model.weights, {'inputs': tokens})

What each program takes and gives is in signature.json. `export` copies this file into the directory as load.py.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable
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
        programs[name] = _checked(jax.jit(program.call), each, signature['dimensions'])
    weights: dict[str, np.ndarray] = {}
    for name in signature['weights']['files']:
        weights |= read_weights(path / pathlib.PurePath(name).name)
    return LoadedModel(programs, weights, signature)


def _checked(call: Callable[..., Any], of: dict[str, Any], dimensions: dict[str, Any]) -> Callable[..., Any]:
    """`call`, which raises ValueError where its arguments are not what the signature says."""

    def program(weights: dict[str, Any], inputs: dict[str, Any], *cache: dict[str, Any]) -> Any:
        sizes: dict[str, int] = {}
        for kind, arrays in zip(('inputs', 'cache'), (inputs, *cache)):
            if arrays.keys() != of[kind].keys():
                raise ValueError(f'The {kind} are {", ".join(of[kind])}; these are {", ".join(arrays) or "none"}.')
            for name, array in arrays.items():
                what, shape = f'{name} {np.shape(array)}', of[kind][name]['shape']
                _check_shape(what, np.shape(array), shape, sizes=sizes, limits=dimensions)
        return call(weights, inputs, *cache)

    return program


def _check_shape(
    what: str, shape: tuple[int, ...], wanted: list[Any], *, sizes: dict[str, int], limits: dict[str, Any]
) -> None:
    """Raises ValueError unless a shape is as wanted, and open dimensions are within their limits and agree."""
    for size, name in zip(shape, wanted):
        limit = limits.get(name, {'at_least': name, 'at_most': name})
        most = size if limit['at_most'] is None else limit['at_most']
        if not limit['at_least'] <= size <= most or size != sizes.setdefault(name, size):
            raise ValueError(f'{what} should be {wanted}, with {name} from {limit["at_least"]} to {most}; see {sizes}.')
    if len(shape) != len(wanted):
        raise ValueError(f'{what} should be {wanted}.')


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
