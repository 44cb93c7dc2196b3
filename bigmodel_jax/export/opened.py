"""An exported directory, opened by this package: the same model as that of the run, ready to predict."""

import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from bigmodel_jax import config, experiment_file
from bigmodel_jax.checkpoints import checkpoints
from bigmodel_jax.export import card, exporting, named_arrays, signature
from bigmodel_jax.parallel import sharding
from bigmodel_jax.runs import requirements, restored_model
from bigmodel_jax.storage import durable_files

PyTree = Any


class ExportedModel(NamedTuple):
    """What an exported directory holds.

    Attributes:
      trained: its model as that of a run: predictor(), sample(), tokenizer.
      signature: the content of signature.json.
      missed: a clause for each requirement that the run did not meet when it was exported.
    """

    trained: restored_model.Trained
    signature: dict[str, Any]
    missed: tuple[str, ...]


def is_exported(path: epath.PathLike) -> bool:
    """Whether a directory is one that `export` wrote."""
    folder = pathlib.Path(path).expanduser()
    return (folder / signature.FILE).is_file() and (folder / card.ORIGIN).is_file()


def open_export(
    path: epath.PathLike, file: epath.PathLike | None = None, mesh: sharding.MeshShape | None = None
) -> ExportedModel:
    """The model in a directory that `export` wrote.

    Args:
      file: the Python file of the experiment; needed only if that file defines parts of its own.
      mesh: over which the weights are spread; None: one device.

    Raises:
      InputError: it is no such directory, or a file is not as it was written.
    """
    folder = pathlib.Path(path).expanduser().absolute()
    if not is_exported(folder):
        raise config.InputError(
            f'{folder} is not an exported model: it lacks {signature.FILE} or {card.ORIGIN}. `export RUN DIR` writes '
            'one from a run.'
        )
    for name in durable_files.known_sums(epath.Path(folder)):
        _check(folder, name)
    if file is not None:
        experiment_file.load_module(str(file))
    described, origin = (durable_files.read_json(epath.Path(folder / name)) for name in (signature.FILE, card.ORIGIN))
    if described['format'] != signature.FORMAT:
        raise config.InputError(
            f'{folder} has format {described["format"]} and this version reads {signature.FORMAT}; export it again.'
        )
    experiment = config.vary(config.from_json(origin['experiment']), {'mesh': mesh or sharding.MeshShape(data=1)})
    place = experiment.mesh.build()
    params, state = _weights(folder, experiment, place, described['weights'])
    how: dict[str, Any] = {'weights': described['trained_or_ema']}
    trained = restored_model.Trained(epath.Path(folder), experiment, place, described['step'], params, state, **how)
    missed = tuple(each['clause'] for each in origin['requirements'] if each['verdict'] != requirements.MET)
    return ExportedModel(trained, described, missed)


def _check(folder: pathlib.Path, name: str) -> None:
    """Raises InputError if a file that has a checksum is missing or is not as it was written."""
    known = durable_files.known_sums(epath.Path(folder))[name]
    path = folder / name
    if not path.is_file() or exporting.sha256(path) not in known:
        raise config.InputError(f'{path} is missing or not as it was written. Export or copy the model again.')


def _weights(
    folder: pathlib.Path, experiment: Any, place: sharding.ShardingContext, described: dict[str, Any]
) -> tuple[PyTree, PyTree]:
    """(parameters, model state) on the devices of `place`."""
    from bigmodel_jax.train import state

    with sharding.use(place):
        spec = state.specify(experiment, place).shardings
    found = named_arrays.split(named_arrays.read(folder, described['files']), tuple(described['model_state']))
    params, model_state = (_put(tree, like, place) for tree, like in zip(found, (spec.params, spec.model_state)))
    return params, model_state


def _put(tree: PyTree, shardings: PyTree, place: sharding.ShardingContext) -> PyTree:
    """The arrays on the devices, as the run spreads them.

    A run whose weights have adapters or few bits stores others than its model reads, which are exported; such a model
    lies whole on each device.
    """
    given, stored = checkpoints.flatten(tree), checkpoints.flatten(shardings)
    if given.keys() != stored.keys():
        shardings = jax.tree.map(lambda _: place.replicated, tree)
    return jax.tree.map(lambda leaf, where: jax.device_put(np.asarray(leaf), where), tree, shardings)
