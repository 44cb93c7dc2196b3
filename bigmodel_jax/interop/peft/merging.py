"""An adapter added to the weights of its model, with a certificate of what that changed: rounding, and nothing else."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config, initialization
from bigmodel_jax.adapters import lora
from bigmodel_jax.checkpoints import checkpoints
from bigmodel_jax.data import batches
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.interop import converted, huggingface
from bigmodel_jax.models import model as models
from bigmodel_jax.objectives.objective import Apply
from bigmodel_jax.parallel import sharding
from bigmodel_jax.quantization import quantization
from bigmodel_jax.runs import directory, restored_model
from bigmodel_jax.train.weights import weight_storage

FILE = 'merge_certificate.json'
ROWS, LENGTH, SEED = 2, 64, 0  # Of the random inputs that are compared.
# How far the two may be apart, relative to the largest output: in float64, where an error of the algebra is all that is
# left; and in numbers of roundings of the largest output, or of what rounding makes of the unmerged model, whichever is
# more: each weight is rounded once, and its error passes through all later layers.
ALGEBRA, ROUNDINGS, TIMES = 1e-10, 32, 4
PyTree = Any


class MergeCertificate(NamedTuple):
    """How far the outputs of the merged model are from those of the model with its adapter, on random inputs.

    Attributes:
      outputs: the largest difference of each output, in the dtypes of weights and computation.
      exact: the same in float64, where the merged weights are not rounded.
      unmerged: how far the model with its adapter is from itself in float64: its own rounding.
      largest: the largest magnitude of each output.
      dtype: the coarsest of weights and computation.
      inputs: the shapes.
    """

    outputs: dict[str, float]
    exact: dict[str, float]
    unmerged: dict[str, float]
    largest: dict[str, float]
    dtype: str
    inputs: dict[str, list[int]]

    @property
    def tolerance(self) -> dict[str, float]:
        """What rounding can make of each output."""
        epsilon = float(jnp.finfo(self.dtype).eps)
        return {
            name: max(ROUNDINGS * epsilon * size, TIMES * self.unmerged[name]) for name, size in self.largest.items()
        }

    @property
    def holds(self) -> bool:
        """Whether the algebra is right, and every difference is rounding."""
        same = all(each <= ALGEBRA * self.largest[name] for name, each in self.exact.items())
        return same and all(self.outputs[name] <= limit for name, limit in self.tolerance.items())

    @property
    def sentence(self) -> str:
        """What it says, for people."""
        parts = [
            f'{name} {each:.2g}, where rounding explains {self.tolerance[name]:.2g} (in float64 {self.exact[name]:.2g})'
            for name, each in self.outputs.items()
        ]
        verdict = 'merged = unmerged' if self.holds else 'the merged model DIFFERS'
        return f'{verdict} within {self.dtype}: the largest difference on random inputs is {"; ".join(parts)}.'

    def to_json(self) -> dict[str, Any]:
        """As FILE has it."""
        return {**self._asdict(), 'tolerance': self.tolerance, 'holds': self.holds}


class MergedModel(NamedTuple):
    """The parameters of a run with its adapter added, in the memory of the host, by their paths."""

    arrays: dict[str, np.ndarray]
    certificate: MergeCertificate


def merge(run: directory.Run) -> MergedModel:
    """The newest checkpoint of a run, merged; all of it is in memory, and computed with on one device.

    Raises:
      InputError: the run has no adapter, or the merged model does not compute the same.
    """
    experiment = run.experiment
    if experiment.adapter is None:
        raise config.InputError(f'{run.path} has no adapter to merge: its experiment says adapter=None.')
    alone = config.vary(experiment, {'mesh': sharding.MeshShape(data=1)})
    restored = restored_model.restore(run.path, alone, run.checkpoints)
    params = restored.params
    adapters = weight_storage.of_experiment(experiment).adapters
    assert adapters is not None
    merged = merged_parameters(params, adapters)
    certificate = certify(experiment, params, merged, adapters=adapters, model_state=restored.model_state)
    if not certificate.holds:
        raise config.InputError(f'{run.path}: {certificate.sentence} Nothing was written.')
    of_state = {
        f'{initialization.STATE}{path}': each for path, each in checkpoints.flatten(restored.model_state).items()
    }
    return MergedModel(jax.device_get(checkpoints.flatten(merged) | of_state), certificate)


def merged_parameters(params: PyTree, adapters: lora.Attachment) -> PyTree:
    """W + scale A B for every weight with an adapter; weights of few bits become float32."""
    return quantization.dense(lora.merged(params, adapters.factorizations))


def certify(
    experiment: Experiment, params: PyTree, merged: PyTree, *, adapters: lora.Attachment, model_state: PyTree
) -> MergeCertificate:
    """Compares a model with an adapter and the merged one on random inputs.

    Args:
      params: with the adapter.
      merged: without.
      model_state: of both.
    """
    batch = _inputs(experiment)
    model: Any = experiment.model
    outputs = functools.partial(_outputs, model_state=model_state, batch=batch)
    with_adapter, without = outputs(model, params), outputs(model, merged)
    with jax.enable_x64(True):
        wide, exact = config.vary(model, {'dtype': 'float64'}), _wide(quantization.dense(params))
        pair = [outputs(wide, each) for each in (exact, merged_parameters(exact, adapters))]
    kinds = [*(leaf.dtype for leaf in jax.tree.leaves(merged)), jnp.dtype(model.dtype)]
    return MergeCertificate(
        outputs={name: _apart(with_adapter[name], each) for name, each in without.items()},
        exact={name: _apart(*(each[name] for each in pair)) for name in without},
        unmerged={name: _apart(with_adapter[name], pair[0][name]) for name in without},
        largest={name: float(np.abs(each).max()) for name, each in with_adapter.items()},
        dtype=max(kinds, key=lambda kind: float(jnp.finfo(kind).eps)).name,
        inputs={name: list(each.shape) for name, each in batch.items()},
    )


def _wide(params: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), params)


def _apart(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(left.astype(np.float64) - right.astype(np.float64)).max())


def _outputs(
    model: Any, params: PyTree, *, model_state: PyTree, batch: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The floating-point outputs of a model."""
    with huggingface.precision(model):
        found, _ = jax.jit(lambda params, batch: Apply(model.build(), params, model_state)(batch))(params, dict(batch))
    return {name: np.asarray(each) for name, each in found.items() if jnp.issubdtype(each.dtype, jnp.floating)}


def _inputs(experiment: Experiment) -> dict[str, np.ndarray]:
    """Random inputs of a model: rows of its data's fields, of at most LENGTH positions."""
    data = experiment.data
    if isinstance(data, converted.Elsewhere):
        data = next(filter(lambda each: _fits(experiment.model, each), _lengths(data)))
    random, found = np.random.default_rng(SEED), {}
    for name, field in batches.batch_fields(data.fields).items():
        shape = (
            ROWS,
            *(min(size, LENGTH) if axis == 'length' else size for size, axis in zip(field.shape, field.axes)),
        )
        if np.issubdtype(field.dtype, np.integer):
            found[name] = random.integers(0, field.upper_bound or 2, shape).astype(field.dtype)
        else:
            found[name] = random.standard_normal(shape).astype(field.dtype)
    # One document in each row, at its own positions.
    fixed: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        'segments': np.ones_like,
        'positions': lambda x: np.broadcast_to(np.arange(x.shape[1], dtype=x.dtype), x.shape),
    }
    return {name: fixed.get(name, np.asarray)(each) for name, each in found.items()}


def _lengths(data: converted.Elsewhere) -> Any:
    """The data of a converted run, whose length is not known, with shorter and shorter rows."""
    return (dataclasses.replace(data, length=LENGTH >> k) for k in range(int(math.log2(LENGTH)) + 1))


def _fits(model: models.Model, data: batches.Data) -> bool:
    try:
        model.check(batches.batch_fields(data.fields))
    except config.InputError:
        return False
    return True
