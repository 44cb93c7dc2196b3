"""Weights as one flat dict of arrays, each under its path: 'blocks.layers.ffn.up', 'batch_stats.stem.norm.mean'."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.interop import matching
from bigmodel_jax.interop.files import shards, tensor_file

PyTree = Any
STEM = 'weights'
DTYPES = ('float32', 'bfloat16', 'float16')


def split(flat: Mapping[str, Any], collections: tuple[str, ...]) -> tuple[PyTree, PyTree]:
    """(parameters, model state) of the weights of a model.

    Args:
      collections: the names of those of the model state, such as 'batch_stats'.
    """
    tree = matching.nested(flat)
    state = {name: tree.pop(name) for name in collections}
    return tree, state


def check_dtype(dtype: str | None) -> None:
    """Raises InputError for a dtype in which weights are not stored."""
    if dtype is not None and dtype not in DTYPES:
        raise config.InputError(f'--dtype {dtype}: weights are stored in {", ".join(DTYPES)}.')


def stored_dtype(leaf: Any, dtype: str | None) -> np.dtype:
    """The dtype of an array in the file: `dtype` for floating-point numbers, its own for others or if that is None."""
    floating = jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating)
    return np.dtype(jax.numpy.dtype(dtype) if dtype is not None and floating else leaf.dtype)


def write(folder: pathlib.Path, flat: Mapping[str, Any], dtype: str | None, *, shard_bytes: int) -> list[str]:
    """Writes 'weights.safetensors', or several files of `shard_bytes` at most and their index; returns their names.

    One array at a time is copied from the devices.
    """
    contents = {name: (tuple(leaf.shape), stored_dtype(leaf, dtype)) for name, leaf in flat.items()}
    with shards.Shards(folder, contents, shard_bytes, STEM) as writer:
        for name, leaf in flat.items():
            writer.write(name, np.asarray(jax.device_get(leaf)).astype(contents[name][1]))
    return sorted(path.name for path in folder.glob(f'{STEM}*.safetensors'))


def read(folder: pathlib.Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of some files in a folder, mapped from the disk.

    Raises:
      InputError: a name leads out of the folder.
    """
    found = {}
    for name in names:
        if pathlib.PurePath(name).name != name:
            raise config.InputError(f'{name!r} is not the name of a file in {folder}. Export the model again.')
        file = tensor_file.TensorFile(folder / name)
        found |= {key: file.read(key) for key in file.entries}
    return found
