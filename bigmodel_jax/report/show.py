"""How an experiment will compute its attention; the experiment itself is shown by tree.py."""

from typing import Any

import jax

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.kernels import paths
from bigmodel_jax.objectives import objective
from bigmodel_jax.objectives.rngs import Rngs
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import state


def attention(experiment: Experiment) -> list[str]:
    """Which way each attention of the model is computed when it trains on the experiment's mesh here, and why.

    One line if all go the same way, none without attention.
    """
    try:
        taken = _attention_paths(experiment, experiment.mesh.build())
    except config.InputError as error:
        return [f'attention: it cannot run here, since {error}']
    if len(set(taken.values())) == 1:
        return [f'attention: {way}' for way in set(taken.values())]
    return [f'attention of {name}: {way}' for name, way in taken.items()]


def _attention_paths(experiment: Experiment, place: sharding.ShardingContext) -> dict[str, str]:
    """Layer -> way, by tracing a step; nothing is computed."""
    rows = experiment.data.batch // experiment.gradients.microbatches
    batch = {
        name: jax.ShapeDtypeStruct((rows, *field.shape), field.dtype)
        for name, field in batches.batch_fields(experiment.data.fields).items()
    }
    with sharding.use(place):
        spec = state.specify(experiment, place)

        def loss(params: Any, model_state: Any, batch: dict[str, jax.Array]) -> Any:
            apply = objective.Apply(spec.module, params, model_state)
            return experiment.objective(
                apply, batch, train=True, rngs=Rngs(jax.random.key(0), experiment.objective.streams)
            )

        with paths.noted() as taken:
            jax.eval_shape(loss, spec.abstract.params, spec.abstract.model_state, batch)
    return taken
