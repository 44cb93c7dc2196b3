"""signature.json: what the programs of an exported model take and give, and what limits them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigmodel_jax import __version__
from bigmodel_jax.export import dimensions, named_arrays, programs

FILE = 'signature.json'
FORMAT = 2  # Of signature.json and of the directory.
FOLDER = 'programs'
KERNELS = (
    'Attention is computed by its plain formula on every platform. Fused kernels (cuDNN, Splash) are custom calls of '
    'one platform and are not in the programs.'
)
FORCED = ' The experiment forces a kernel, which is left out here: results may differ in rounding.'


def file_of(name: str) -> str:
    """The file of a program, within the directory."""
    return f'{FOLDER}/{name}.jax_export'


def describe(
    made: Mapping[str, programs.ExportedProgram],
    of: programs.ModelToExport,
    *,
    dtype: str | None,
    forced: bool,
    files: Sequence[str],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of the file, JSON-ready.

    Args:
      dtype: in which the weights are stored; None: in their own.
      forced: whether a kernel was left out that the experiment forces.
      files: with the weights.
      facts: of the run.
    """
    arrays = {name: (each.shape, named_arrays.stored_dtype(each, dtype)) for name, each in of.weights.items()}
    exported = next(iter(made.values())).exported
    return {
        'format': FORMAT,
        **facts,
        'written_by': {'bigmodel_jax': __version__, 'calling_convention': exported.calling_convention_version},
        'platforms': list(programs.PLATFORMS),
        'devices': exported.nr_devices,
        'kernels': KERNELS + (FORCED if forced else ''),
        'weights': {
            'files': list(files),
            'parameters': sum(_size(shape) for name, (shape, _) in arrays.items() if not _is_state(name, of)),
            'size_bytes': sum(_size(shape) * kind.itemsize for shape, kind in arrays.values()),
            'dtypes': sorted({kind.name for _, kind in arrays.values()}),
            'model_state': list(of.collections),
        },
        'dimensions': _dimensions(made, of),
        'programs': {name: _program(name, each) for name, each in made.items()},
    }


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


def _is_state(name: str, of: programs.ModelToExport) -> bool:
    return name.partition('.')[0] in of.collections


def _dimensions(made: Mapping[str, programs.ExportedProgram], of: programs.ModelToExport) -> dict[str, Any]:
    shapes = {
        f'{name}.{key}': value.shape for name, each in made.items() for key, value in (each.inputs | each.cache).items()
    }
    found = {}
    for name in dimensions.names_in(shapes):
        size, most = of.fixed.of(name), None if name == dimensions.ROWS else of.longest
        found[name] = {
            'meaning': dimensions.MEANING.get(name, name),
            'at_least': size or 1,
            'at_most': size or most,
        }
    return found


def _program(name: str, each: programs.ExportedProgram) -> dict[str, Any]:
    found: dict[str, Any] = {'file': file_of(name), 'inputs': _arrays(each.inputs), 'outputs': _arrays(each.outputs)}
    return found | ({'cache': _arrays(each.cache)} if each.cache else {})


def _arrays(described: Mapping[str, programs.Described]) -> dict[str, Any]:
    return {name: _array(each) for name, each in described.items()}


def _array(each: programs.Described) -> dict[str, Any]:
    found: dict[str, Any] = {'shape': list(each.shape), 'dtype': each.dtype, 'axes': list(each.axes)}
    found |= {'units': each.units} if each.units else {}
    return found | ({} if each.below is None else {'at_least': 0, 'below': each.below})
