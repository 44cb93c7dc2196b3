"""Experiment: everything that defines one run. Equal experiments on equal machines give runs equal bit for bit."""

import dataclasses

from bigmodel_jax import claims as papers
from bigmodel_jax import config, sharding
from bigmodel_jax import start as starts
from bigmodel_jax.data import batches
from bigmodel_jax.evaluate import evaluation
from bigmodel_jax.models import model
from bigmodel_jax.objectives import objective
from bigmodel_jax.optim import guards, optimizers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """When checkpoints are written and which are kept; the newest is always kept, and one is written at the end."""

    every_steps: config.Positive = 1_000
    every_minutes: config.Rate | None = None  # Also when the last one is so old: what a preemption costs at most.
    keep_last: config.Positive = 2
    keep_every: config.Positive | None = None  # Also keep every checkpoint whose step is a multiple of this.
    keep_best: str | None = None  # Also keep the one with the lowest value of this metric: 'validation/loss'.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watch:
    """How closely a run is looked at, and what is done when its numbers go wrong."""

    log_every: config.Positive = 10  # Steps between reports; metrics stay on the devices until then.
    fingerprints_every: config.Positive = 100  # Steps between fingerprints, by which `diff` finds where runs part.
    anomalies: guards.Guard = guards.Stop()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """The tree of configs that a run is made of."""

    name: str
    steps: config.Positive  # Updates.
    data: batches.Data
    model: model.Model
    objective: objective.Objective
    optimizer: optimizers.Optimizer
    start: starts.Start | None = None  # Where its first weights come from; None: all by chance.
    seed: config.NonNegative = 0  # Of the initial weights, the order of the data, and dropout.
    microbatches: config.Positive = 1  # The gradient of a batch is summed over so many parts, which saves memory.
    evaluations: tuple[evaluation.Evaluation, ...] = ()
    mesh: sharding.MeshShape = sharding.MeshShape()
    checkpoints: Checkpoints = Checkpoints()
    watch: Watch = Watch()
    claims: tuple[papers.Claim, ...] = ()  # What its paper says of it.


# Fields that say where and how often, not what: a run may go on after they change.
CIRCUMSTANCES = ('mesh', 'checkpoints', 'watch', 'claims')


def check(experiment: Experiment) -> Experiment:
    """Returns the experiment if its fields have the right types and agree with one another.

    Raises:
      InputError: otherwise; one line for each problem.
    """
    config.check(experiment)
    rows, parts = experiment.data.batch, experiment.microbatches
    if rows % parts:
        raise config.InputError(
            f'data.batch={rows} does not divide into microbatches={parts}; use a divisor of {rows}.'
        )
    names = [each.name for each in experiment.evaluations]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise config.InputError(f'evaluations: the name {twice[0]!r} is used twice; metrics are stored under it.')
    best = experiment.checkpoints.keep_best
    if best is not None and best.split('/')[0] not in names:
        raise config.InputError(
            f'checkpoints.keep_best={best!r} is not of the form evaluation/metric.{config.nearest(best, names)}'
        )
    return experiment
