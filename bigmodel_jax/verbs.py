"""The verbs of the command line as Python calls, for notebooks and scripts.

verbs.train(experiment, 'runs/quickstart')
run = verbs.open_run('runs/quickstart')
steps, losses = run.metrics('loss')
run.sample('The ', tokens=100)
run.restore().evaluate()
"""

import jax
from etils import epath

from bigmodel_jax import config, sharding
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.runs import describe as descriptions
from bigmodel_jax.runs import directory, report
from bigmodel_jax.train import loop, state

open_run = directory.open_run
write_report = report.write_report


def train(
    experiment: Experiment, workdir: epath.PathLike, *, stop_after: int | None = None, wandb: str | None = None
) -> loop.Result:
    """Trains `experiment`, or goes on training it, and writes the report; see loop.train()."""
    result = loop.train(experiment, workdir, stop_after=stop_after, wandb=wandb)
    write_report(result.workdir)
    return result


def describe(experiment: Experiment) -> dict[str, list[descriptions.Row]]:
    """Every array of the training state and how it lies on the mesh; needs neither data nor memory."""
    place = experiment.mesh.build()
    with sharding.use(place):
        blueprint = state.blueprint(experiment, place)
    abstract, shardings = blueprint.abstract, blueprint.shardings
    return {
        'parameters': descriptions.rows(abstract.params, blueprint.axes, shardings.params),
        'optimizer state': descriptions.rows(abstract.opt_state, None, shardings.opt_state),
        'model state': descriptions.rows(abstract.model_state, None, shardings.model_state),
    }


def parameters(experiment: Experiment) -> int:
    """How many numbers the parameters of an experiment's model are; needs neither data nor memory."""
    # One device: the count is of the model, whatever the mesh.
    alone = config.vary(experiment, {'mesh': sharding.MeshShape(data=1)})
    place = alone.mesh.build(jax.devices()[:1])
    with sharding.use(place):
        return state.blueprint(alone, place).parameters
