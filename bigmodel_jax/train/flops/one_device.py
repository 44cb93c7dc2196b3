"""A training step traced for one device, which need not exist: what of it does not depend on the mesh."""

import dataclasses
from typing import Any, NamedTuple

import jax

from bigmodel_jax.data import batches
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.optim import gradients
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import state, step
from bigmodel_jax.train.flops import count


class TracedOnOne(NamedTuple):
    """A step that was traced and not compiled."""

    place: sharding.ShardingContext
    spec: state.StateSpec
    batch: dict[str, Any]  # The whole batch, as jax.ShapeDtypeStruct.
    work: count.Work


def experiment_on_one(experiment: Experiment) -> Experiment:
    """The same mathematics on one device, with its batch as a whole."""
    mesh = sharding.MeshShape(data=1, rules=experiment.mesh.rules)
    return dataclasses.replace(experiment, mesh=mesh, gradients=gradients.WholeBatch())


def trace(experiment: Experiment) -> TracedOnOne:
    """The step of experiment_on_one(); touches neither data nor a device."""
    experiment = experiment_on_one(experiment)
    # The kernels of GPUs cannot be traced without one; those of TPUs can, and compute the same.
    place = experiment.mesh.abstract(1, 'tpu')
    with sharding.use(place):
        spec = state.specify(experiment, place)
        batch = {
            name: jax.ShapeDtypeStruct((experiment.data.batch, *field.shape), field.dtype)
            for name, field in batches.batch_fields(experiment.data.fields).items()
        }
        jitted: Any = step.compile_step(experiment, spec, place)
        traced = jitted.trace(spec.abstract, batch)
    return TracedOnOne(place, spec, batch, count.work(traced.jaxpr))
