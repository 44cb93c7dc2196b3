"""A directory of Hugging Face: config.json, and the tensors of its safetensors files by name."""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.interop.files import tensor_file

CONFIG, SINGLE, INDEX = 'config.json', 'model.safetensors', 'model.safetensors.index.json'
# What the names of files begin with: those of transformers, and those of diffusers.
STEM, DIFFUSERS = 'model', 'diffusion_pytorch_model'
ENDS = ('.safetensors', '.safetensors.index.json')
JSON_BYTES = 100_000_000


class Folder:
    """Opened for reading: `config`, and the tensors as a mapping of name -> shape and dtype, and read().

    Raises:
      InputError: a file is missing or damaged, or the index does not agree with the files.
    """

    def __init__(self, directory: pathlib.Path):
        self.path = directory
        if not directory.is_dir():
            raise config.InputError(f'{directory}: there is no such directory. Pass one with {CONFIG} and {SINGLE}.')
        self.config: dict[str, Any] = read_json(directory / CONFIG)
        self._files = {name: file for file in _files(directory) for name in _names(file)}

    @property
    def entries(self) -> Mapping[str, tensor_file.Entry]:
        """Name -> shape and dtype of every tensor."""
        return {name: file.entries[name] for name, file in self._files.items()}

    def read(self, name: str) -> np.ndarray:
        """The tensor, mapped from the disk."""
        return self._files[name].read(name)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      InputError: it is missing or damaged.
    """
    if not path.is_file():
        raise config.InputError(f'{path} is missing; a model of Hugging Face has {CONFIG} and {SINGLE}.')
    if path.stat().st_size > JSON_BYTES:
        raise config.InputError(f'{path} has {path.stat().st_size:,} bytes, too large to be a {path.name}.')
    try:
        value = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise config.InputError(f'{path} is damaged: {error}. Download it again.') from error
    if not isinstance(value, dict):
        raise config.InputError(f'{path} holds no JSON object. Download it again.')
    return value


def _names(file: tensor_file.TensorFile) -> Iterator[str]:
    yield from file.entries


def _files(directory: pathlib.Path) -> list[tensor_file.TensorFile]:
    """The safetensors files; checked against the index, where there is one."""
    stem = DIFFUSERS if any((directory / f'{DIFFUSERS}{end}').is_file() for end in ENDS) else STEM
    single, listing = (directory / f'{stem}{end}' for end in ENDS)
    if not listing.is_file():
        if not single.is_file():
            raise config.InputError(_nothing(directory))
        return [tensor_file.TensorFile(single)]
    index = read_json(listing).get('weight_map')
    if not isinstance(index, dict) or not all(isinstance(each, str) for each in index.values()):
        raise config.InputError(f'{listing} has no weight_map of names to files. Download it again.')
    names = sorted(set(index.values()))
    for name in names:
        # A name with a folder in it could point anywhere on this machine.
        if pathlib.PurePath(name).name != name or '\\' in name or not name.endswith('.safetensors'):
            raise config.InputError(f'{listing}: {name!r} is not the name of a safetensors file beside it.')
        if not (directory / name).is_file():
            raise config.InputError(
                f'{directory / name} is missing, though {listing.name} names it. Download it again.'
            )
    files = [tensor_file.TensorFile(directory / name) for name in names]
    there = {(tensor, file.path.name) for file in files for tensor in file.entries}
    wrong = sorted(there ^ set(index.items()))
    if wrong:
        tensor, name = wrong[0]
        what = 'is not in' if wrong[0] not in there else 'is not said to be in'
        raise config.InputError(f'{listing}: {tensor} {what} {name}, nor {len(wrong) - 1} others as named.')
    return files


def _nothing(directory: pathlib.Path) -> str:
    names = sorted(child.name for child in directory.iterdir())[:8]
    other = [name for name in names if name.endswith(('.bin', '.pt', '.pth', '.h5', '.msgpack'))]
    advice = (
        f'{other[0]} is another format: save it with safe_serialization=True first.'
        if other
        else f'It holds {", ".join(names)}.'
    )
    return f'{directory} has neither {SINGLE} nor {INDEX}. {advice}'


def equal_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two tensors are the same, NaNs too."""
    same = a.shape == b.shape and a.dtype == b.dtype
    return same and np.array_equal(a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8))
