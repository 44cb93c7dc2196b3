"""Weights as one flat dict of arrays, each under its path: 'blocks.layers.ffn.up', 'batch_stats.stem.norm.mean'."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.interop import matching
from bigmodel_jax.interop.files import tensor_file

PyTree = Any
FILE = 'weights.safetensors'
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


def write(path: pathlib.Path, flat: Mapping[str, Any], dtype: str | None) -> None:
    """Writes the file array by array, of which one at a time is copied from the devices."""
    contents = {name: (tuple(leaf.shape), stored_dtype(leaf, dtype)) for name, leaf in flat.items()}
    with tensor_file.TensorWriter(path, contents) as writer:
        for name, leaf in flat.items():
            writer.write(name, np.asarray(jax.device_get(leaf)).astype(contents[name][1]))


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of the file, mapped from the disk."""
    file = tensor_file.TensorFile(path)
    return {name: file.read(name) for name in file.entries}
