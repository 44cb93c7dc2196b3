"""Experiment: everything that defines one run. Equal experiments on equal machines give runs equal bit for bit."""

import dataclasses
import math
from typing import Annotated

from bigmodel_jax import bounds, config, tree
from bigmodel_jax import claims as papers
from bigmodel_jax.adapters import lora
from bigmodel_jax.data import batches
from bigmodel_jax.evaluate import evaluation
from bigmodel_jax.initialization import Initialization
from bigmodel_jax.models import model
from bigmodel_jax.objectives import objective
from bigmodel_jax.optim import anomaly_policy, optimizers
from bigmodel_jax.optim import ema as averaging
from bigmodel_jax.optim import gradients as methods
from bigmodel_jax.parallel import sharding
from bigmodel_jax.quantization.quantization import Quantization
from bigmodel_jax.requirement import Requirement

EveryMinutes = Annotated[
    config.PositiveFloat, bounds.Advice('It would save after every step. Use None to save by steps alone.')
]

# The fields that name a metric, as messages name them.
BEST, STOPPING = 'checkpoints.keep_best', 'watch.early_stopping.metric'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """When checkpoints are written and which are kept; the newest is always kept, and one is written at the end."""

    every_steps: config.Positive = 1_000
    every_minutes: EveryMinutes | None = None  # Also when the last one is so old: what a preemption costs at most.
    keep_last: config.Positive = 2
    keep_every: config.Positive | None = None  # Also keep every checkpoint whose step is a multiple of this.
    # Also keep the one with the best value of this metric: 'validation/loss'. Which way is better, the evaluation says.
    # Only checkpoints at whose step it is measured are compared.
    keep_best: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """The run ends, with a checkpoint, when a metric did not improve in `patience` evaluations in a row."""

    metric: str  # As 'validation/loss'. The evaluation says in which direction it is better.
    patience: config.Positive = 3
    min_delta: config.Rate = 0.0  # A value counts as an improvement if it is better than the best by more than this.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watch:
    """How closely a run is looked at, and what is done when its numbers go wrong."""

    log_every: config.Positive = 10  # Steps between reports; metrics stay on the devices until then.
    fingerprints_every: config.Positive = 100  # Steps between fingerprints, by which `diff` finds where runs part.
    anomalies: anomaly_policy.AnomalyPolicy = anomaly_policy.Stop()
    early_stopping: EarlyStopping | None = None
    histograms_every: config.Positive | None = None  # Steps between histograms of weights and gradients; None: none.


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Experiment:
    """The tree of configs that a run is made of; it prints as a tree, one field a line."""

    name: str
    steps: config.Positive  # Updates.
    data: batches.Data
    model: model.Model
    objective: objective.Objective
    optimizer: optimizers.Optimizer
    initialization: Initialization | None = None  # Where its initial weights come from; None: all are random.
    seed: config.Seed = 0  # Of the initial weights, the order of the data, and dropout.
    gradients: methods.Gradients = methods.WholeBatch()  # How a step's gradient is made from its batch.
    quantization: Quantization | None = None  # Which weights are of few bits; None: none.
    adapter: lora.Lora | None = None  # What is trained beside frozen weights; None: the weights themselves are trained.
    ema: averaging.Ema | None = None  # A moving average of the weights, kept beside them; None: none.
    evaluations: tuple[evaluation.Evaluation, ...] = ()
    mesh: sharding.MeshShape = sharding.MeshShape()
    checkpoints: Checkpoints = Checkpoints()
    watch: Watch = Watch()
    workers: config.NonNegative = 1  # Threads that read batches ahead, on each host; 0: none, each is read when needed.
    claims: tuple[papers.Claim, ...] = ()  # What its paper says of it.
    requires: tuple[Requirement, ...] = ()  # What a run must reach before its model is exported or served.

    def __repr__(self) -> str:
        return tree.render(self).plain

    def _repr_html_(self) -> str:
        """What a notebook shows: the same, with values that are no defaults in bold."""
        return tree.html(self)


def check(experiment: Experiment) -> Experiment:
    """Returns the experiment if its fields have the right types and agree with one another.

    Raises:
      InputError: otherwise; one line for each problem.
    """
    config.check(experiment)
    rows, parts = experiment.data.batch, experiment.gradients.microbatches
    if rows % parts:
        raise config.InputError(
            f'data.batch={rows} does not divide into the {parts} microbatches of gradients='
            f'{config.format_value(experiment.gradients)}; use a divisor of {rows}.'
        )
    if experiment.objective.compares_rows and max(parts, getattr(experiment.gradients, 'parts', 1)) > 1:
        raise config.InputError(
            f'objective={type(experiment.objective).__name__} compares the rows of a batch with one another, so that '
            f'gradients={config.format_value(experiment.gradients)} would train on another loss: each part would see '
            'its own rows alone. Use gradients=WholeBatch(); to save memory, model.stack.remat or a larger mesh.'
        )
    evaluation.check_names([each.name for each in experiment.evaluations])
    _check_best(experiment.checkpoints, experiment.evaluations)
    for number, each in enumerate(experiment.requires):
        evaluation.named(each.metric, experiment.evaluations, field=f'requires.{number}.metric')
    if experiment.watch.early_stopping is not None:
        evaluation.named(experiment.watch.early_stopping.metric, experiment.evaluations, field=STOPPING)
    return experiment


def _check_best(checkpoints: Checkpoints, evaluations: tuple[evaluation.Evaluation, ...]) -> None:
    """Whether the metric of keep_best is of an evaluation, and is measured where checkpoints are saved."""
    best, every = checkpoints.keep_best, checkpoints.every_steps
    if best is None:
        return
    measured = evaluation.named(best, evaluations, field=BEST).every_steps
    if every % measured and measured % every:
        raise config.InputError(
            f'{BEST}={best!r} is measured every {measured} steps, but checkpoints are saved every '
            f'{every}, so both happen only every {math.lcm(every, measured)} steps and most checkpoints would never be '
            f'compared. Use checkpoints.every_steps={measured}, or make one of the two a multiple of the other.'
        )
