"""Training that begins with published weights: the model of a Hugging Face directory, initialized from its files.

  DIR = 'models/llama'
  Experiment(
      model=finetuning.model(DIR),
      initialization=finetuning.Weights(path=DIR),
      data=text.Text(..., tokenizer=pretrained_tokenizer.Pretrained(path=DIR)),
      ...
  )

The run holds its model and its tokenizer, so that it can be evaluated, sampled and exported without the directory.
"""

import dataclasses
import fnmatch
import functools
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from bigmodel_jax import config, initialization
from bigmodel_jax.data.text.pretrained import pretrained_tokenizer
from bigmodel_jax.interop import huggingface, matching
from bigmodel_jax.interop.files import folder
from bigmodel_jax.run_directory import digest

TOKENIZERS = (pretrained_tokenizer.JSON, *pretrained_tokenizer.MODELS)
Index = tuple[slice, ...]


def model(path: epath.PathLike) -> Any:
    """Our model of the config.json in a Hugging Face directory, checked against its files; reads no weight.

    Raises:
      InputError: the directory is missing or damaged, or its model is not supported.
    """
    return _match(str(path))[1].model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights(initialization.Initialization):
    """The weights of a Hugging Face directory, for the experiment whose model is model() of the same directory.

    They are read slice by slice, each process only what its own devices hold, and converted to the dtype of the
    training state. Parameters that the files do not have, such as a head of BERT, are initialized at random, and told.
    """

    path: str  # A local directory; all processes see it.
    without: tuple[str, ...] = ()  # Patterns of parameters that are initialized at random: 'embedding.output'.
    other_tokenizer: bool = False  # Take also parameters that belong to token ids, although the ids are of another one.

    def check(self, wanted: initialization.Wanted) -> None:
        _, found = _match(self.path)
        initialization.match(wanted, found.shapes, without=self.without, where=self.path)

    def check_tokenizer(self, fingerprint: Mapping[str, Any], by_id: initialization.Wanted) -> None:
        left_out = {name for pattern in self.without for name in fnmatch.filter(by_id, pattern)}
        taken = sorted(by_id.keys() - left_out)
        files = [path for path in (_directory(self.path) / name for name in TOKENIZERS) if path.is_file()]
        hashes = {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        # Without a file of a tokenizer there is nothing to compare.
        if self.other_tokenizer or not taken or not files or hashes & set(map(str, fingerprint.values())):
            return
        raise config.InputError(
            f'initialization: {initialization.listed(taken)} of {self.path} belong to the token ids of its own '
            f'tokenizer, {files[0].name}, but the data is tokenized with another ({fingerprint.get("class")}, '
            f'{fingerprint.get("size")} tokens). Use tokenizer=Pretrained(path={self.path!r}) of '
            'bigmodel_jax.data.text.pretrained.pretrained_tokenizer; or initialize these parameters anew, '
            f'initialization.without={tuple(taken)!r}; or take them nevertheless, initialization.other_tokenizer=True.'
        )

    def read(self, wanted: initialization.Wanted) -> initialization.ResolvedWeights:
        source, found = _match(self.path)
        names = initialization.match(wanted, found.shapes, without=self.without, where=self.path)
        arrays = {name: _placed(found, source, name, wanted[name]) for name in names}
        origin = {
            'directory': self.path,
            'parameters': len(arrays),
            'digest': digest.digest(arrays),
            'config': source.config,
        }
        return initialization.ResolvedWeights(arrays, origin)


def _directory(path: str) -> pathlib.Path:
    return pathlib.Path(path).expanduser()


def _match(path: str) -> tuple[folder.Folder, matching.Match]:
    source = folder.Folder(_directory(path))
    return source, matching.match(source, huggingface.FAMILIES)


def _placed(found: matching.Match, source: folder.Folder, path: str, wanted: jax.ShapeDtypeStruct) -> jax.Array:
    """One parameter, laid out as it is wanted."""
    places = found.places[path]

    @functools.cache  # Devices that hold the same part ask for it each.
    def part(bounds: tuple[tuple[int, int], ...]) -> np.ndarray:
        result = np.empty([stop - start for start, stop in bounds], wanted.dtype)
        for place in places:
            count = len(place.at)
            if all(start <= i < stop for i, (start, stop) in zip(place.at, bounds)):
                here = tuple(i - start for i, (start, _) in zip(place.at, bounds))
                rest = tuple(slice(*each) for each in bounds[count:])
                result[here] = place.tensor.layout.read(source.read(place.tensor.key))[place.part][rest]
        return result

    def shard(index: Index | None) -> np.ndarray:
        assert index is not None  # Every parameter has a shape.
        return part(tuple(each.indices(size)[:2] for each, size in zip(index, wanted.shape)))

    assert wanted.sharding is not None
    return jax.make_array_from_callback(wanted.shape, wanted.sharding, shard)
