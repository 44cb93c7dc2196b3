"""The arrays of a run that are written as Hugging Face has them: of its checkpoint, or merged with its adapter."""

import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from etils import epath

from bigmodel_jax import config, initialization
from bigmodel_jax.interop.files import stored_arrays
from bigmodel_jax.interop.peft import merging
from bigmodel_jax.run_directory import lineage
from bigmodel_jax.runs import directory
from bigmodel_jax.storage import durable_files, integrity

ITEM = 'model'


class CheckpointArrays:
    """The arrays of the newest checkpoint of a run, read slice by slice from the disk.

    Raises:
      InputError: it is damaged.
    """

    files: Mapping[str, bytes] = {}  # What is written beside the weights.
    notes: tuple[str, ...] = ()

    def __init__(self, run: directory.Run):
        self.where = run.path / durable_files.CHECKPOINTS / str(run.checkpoints[-1])
        made = lineage.Lineage.of(run.path).made
        try:
            record = integrity.check(self.where, step=int(self.where.name), ours=made, items=(ITEM,))
        except integrity.DamagedCheckpoint as error:
            raise config.InputError(
                f'Checkpoint {self.where} is damaged: {error}. Move it away to use the one before.'
            ) from None
        self.stored: dict[str, Any] = record['arrays'][ITEM]
        shapes = {name: tuple(facts['shape']) for name, facts in self.stored.items()}
        self._arrays, self.names_read = stored_arrays.Arrays(self.where / ITEM, shapes), set[str]()

    def read(self, name: str, at: tuple[int, ...]) -> np.ndarray:
        """The slice of an array at an index of its leading axes; every slice once."""
        self.names_read.add(name)
        return self._arrays.read(name, at)

    def check(self, names: Collection[str]) -> None:
        """Raises InputError if the arrays of these names, which were read, are not as they were saved."""
        texts = [self._arrays.sums[name].text for name in sorted(names)]
        try:
            integrity.check_sums(sorted(names), texts, self.stored)
        except integrity.DamagedCheckpoint as error:
            raise config.InputError(f'Checkpoint {self.where} is damaged: {error}.') from None


class MergedArrays:
    """The same of a model whose adapter was added to its weights, in memory."""

    def __init__(self, merged: merging.MergedModel):
        self._arrays = {initialization.stored_name(path): array for path, array in merged.arrays.items()}
        self.where = epath.Path('the merged model')
        self.stored: dict[str, Any] = {
            name: {'shape': list(array.shape), 'dtype': array.dtype.name} for name, array in self._arrays.items()
        }
        text = json.dumps(merged.certificate.to_json(), indent=2) + '\n'
        self.files = {merging.FILE: text.encode()}
        self.notes = (merged.certificate.sentence,)

    def read(self, name: str, at: tuple[int, ...]) -> np.ndarray:
        """The slice of an array at an index of its leading axes."""
        return self._arrays[name][at]

    def check(self, names: Collection[str]) -> None:
        """Nothing: they were checked when they were restored."""
