"""The verbs of the command line as Python calls, for notebooks and scripts.

run = verbs.open_run('runs/quickstart')
steps, losses = run.metrics('loss')
verbs.sample('runs/quickstart', 'The ', tokens=100)
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from bigmodel_jax import config, sharding
from bigmodel_jax.evaluate import decoding, samples
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.runs import describe as descriptions
from bigmodel_jax.runs import directory, report
from bigmodel_jax.train import loop, metrics, state, workdir
from bigmodel_jax.train.checkpoints import Checkpointer

PyTree = Any
SAMPLING = decoding.Sampling()

open_run = directory.open_run
write_report = report.write_report


def train(
    experiment: Experiment, workdir: epath.PathLike, *, stop_after: int | None = None, wandb: str | None = None
) -> loop.Result:
    """Trains `experiment`, or goes on training it, and writes the report; see loop.train()."""
    result = loop.train(experiment, workdir, stop_after=stop_after, wandb=wandb)
    write_report(result.workdir)
    return result


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model as it stood at one checkpoint."""

    run: loop.Run
    step: int
    params: PyTree
    model_state: PyTree


def restore(directory: epath.PathLike, *, experiment: Experiment | None = None, step: int | None = None) -> Trained:
    """The model of a run, without its optimizer.

    Args:
      experiment: that of the run; another mesh is fine. None: as stored with the run.
      step: of the checkpoint; None: the newest.

    Raises:
      InputError: there is no such run or checkpoint, or it is of another experiment.
    """
    stored = open_run(directory)
    if experiment is None:
        experiment = stored.experiment
    else:
        workdir.check(stored.path, experiment)
    if not stored.checkpoints:
        raise config.InputError(f'{stored.path} holds no checkpoint yet; train it first.')
    step = stored.checkpoints[-1] if step is None else step
    if step not in stored.checkpoints:
        known = ', '.join(map(str, stored.checkpoints))
        raise config.InputError(f'{stored.path} holds no checkpoint of step {step}; there are {known}.')
    run = loop.build(experiment)
    with Checkpointer(stored.path, None) as checkpoints:
        params, model_state = checkpoints.restore_model(run.blueprint.abstract, run.blueprint.shardings, step)
    return Trained(run, step, params, model_state)


def evaluate(
    workdir: epath.PathLike, *, experiment: Experiment | None = None, step: int | None = None
) -> dict[str, Mapping[str, Any]]:
    """Runs every evaluation of a run's experiment on a checkpoint, and records the results with the run.

    Returns:
      evaluation name -> metric -> number, or list of samples.
    """
    trained = restore(workdir, experiment=experiment, step=step)
    outcomes = {}
    with (
        sharding.use(trained.run.place),
        metrics.Writer(epath.Path(workdir).expanduser(), start=None, wandb=None, details={}) as writer,
    ):
        for each, evaluator in zip(trained.run.experiment.evaluations, trained.run.evaluators):
            outcomes[each.name] = evaluator.run(trained.params, trained.model_state)
            writer.evaluation(trained.step, each.name, outcomes[each.name])
    return outcomes


def sample(
    workdir: epath.PathLike,
    *prompts: str,
    tokens: int = 200,
    how: decoding.Decoding = SAMPLING,
    seed: int = 0,
    experiment: Experiment | None = None,
    step: int | None = None,
) -> list[str]:
    """How the model of a run goes on from each prompt; see samples.write()."""
    trained = restore(workdir, experiment=experiment, step=step)
    tokenizer = getattr(trained.run.data.examples, 'tokenizer', None)
    if tokenizer is None:
        raise config.InputError(f'{workdir} was trained on data without a tokenizer, so that it cannot write text.')
    return samples.write(
        trained.run.experiment.model,
        trained.params,
        tokenizer,
        prompts,
        tokens=tokens,
        how=how,
        seed=seed,
        model_state=trained.model_state,
        place=trained.run.place,
    )


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
