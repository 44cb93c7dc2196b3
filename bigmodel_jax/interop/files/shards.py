"""One file of tensors, or several and their index, as transformers cuts them."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigmodel_jax.interop import rules
from bigmodel_jax.interop.files import folder, tensor_file


class Shards:
    """One file of tensors, or several and their index, written tensor by tensor; a context manager."""

    def __init__(
        self,
        path: pathlib.Path,
        contents: Mapping[str, tuple[rules.Shape, np.dtype]],
        shard_bytes: int,
        stem: str = folder.STEM,
    ):
        groups: list[dict[str, tuple[rules.Shape, np.dtype]]] = [{}]
        filled = total = 0
        for key, (shape, dtype) in contents.items():
            size = int(np.prod(shape)) * dtype.itemsize
            if groups[-1] and filled + size > shard_bytes:
                groups.append({})
                filled = 0
            groups[-1][key] = (shape, dtype)
            filled, total = filled + size, total + size
        names = [f'{stem}.safetensors']
        if len(groups) > 1:
            names = [f'{stem}-{i:05d}-of-{len(groups):05d}.safetensors' for i in range(1, len(groups) + 1)]
            index = {key: name for name, group in zip(names, groups) for key in group}
            text = json.dumps({'metadata': {'total_size': total}, 'weight_map': index}, indent=2)
            (path / f'{stem}.safetensors.index.json').write_text(text + '\n')
        self._writers = [tensor_file.TensorWriter(path / name, group) for name, group in zip(names, groups)]
        self._of = {key: writer for writer, group in zip(self._writers, groups) for key in group}

    def write(self, key: str, tensor: np.ndarray) -> None:
        """Writes one tensor."""
        self._of[key].write(key, tensor)

    def __enter__(self) -> 'Shards':
        return self

    def __exit__(self, *error: Any) -> None:
        for writer in self._writers:
            writer.__exit__(*error)
