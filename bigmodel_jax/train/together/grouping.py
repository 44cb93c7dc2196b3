"""Which runs can share their programs: those whose experiments differ only in what is an argument of the programs.

Of the experiment, `seed` and the numbers in ARGUMENTS can be arguments. What never enters a program may differ as well:
names, the data behind batches of the same shapes, evaluations, checkpoints, and how a run is watched. All else is a
part of the programs: the numbers of the model and of the objective choose what is computed (a dropout of 0 leaves the
dropout out); Adam's b1 and b2 enter as 1 - b, which a program computes from its float32 argument with a larger error
than Python from the config; and of a clip_norm of 1 the compiler makes other instructions than of an argument.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.objectives.distillation import Distillation
from bigmodel_jax.optim import optimizers
from bigmodel_jax.optim.gradients import FixedOrder
from bigmodel_jax.quantization.quantization import PostTraining

SCHEDULE, WEIGHT_DECAY = 'optimizer.schedule', 'optimizer.weight_decay'
ARGUMENTS = (SCHEDULE, WEIGHT_DECAY)
# Optimizers whose states were equal bit for bit when these were arguments (on a CPU). Those of Muon and Adafactor were
# not; and an optimizer of a person's own may use the numbers in Python.
SAME_BITS = (optimizers.AdamW, optimizers.Sgd, optimizers.Lion)
OUTSIDE = (
    'seed', 'name', 'data', 'initialization', 'evaluations', 'checkpoints', 'workers', 'claims', 'requires', 'watch',
)  # fmt: skip
INSIDE = ('watch.anomalies',)  # Of the fields in OUTSIDE.
MAY_DIFFER = (
    'seed, optimizer.schedule and optimizer.weight_decay (of AdamW, Sgd and Lion), the examples of data, and what is '
    'no part of a step: name, initialization, evaluations, checkpoints, watch (not watch.anomalies), workers, claims, '
    'requires'
)


class HasExperiment(Protocol):
    """Anything with an experiment, such as the trial of a sweep."""

    @property
    def experiment(self) -> Experiment: ...


T = TypeVar('T', bound=HasExperiment)


def groups(trials: Sequence[T]) -> list[list[T]]:
    """The trials in groups that can be trained together, each group and the trials in it in their order."""
    found: list[list[T]] = []
    for trial in trials:
        mine = (group for group in found if not apart(group[0].experiment, trial.experiment))
        group = next(mine, None)
        if group is None:
            found.append([trial])
        else:
            group.append(trial)
    return found


def check(experiments: Sequence[Experiment]) -> None:
    """Checks that experiments can be trained together.

    Raises:
      InputError: some cannot; names the fields.
    """
    for number, each in enumerate(experiments):
        reasons = apart(experiments[0], each) if number else []
        if reasons:
            listed = '\n'.join(f'  {reason}' for reason in reasons)
            raise config.InputError(
                f'Experiments 0 ({experiments[0].name}) and {number} ({each.name}) cannot be trained together:\n'
                f'{listed}\nThey may differ in {MAY_DIFFER}. Train them in groups; grouping.groups() makes them.'
            )


def apart(one: Experiment, other: Experiment) -> list[str]:
    """Why two experiments cannot share their programs, a line each; empty if they can."""
    if isinstance(one.gradients, FixedOrder) and isinstance(other.gradients, FixedOrder):
        return ['gradients=FixedOrder computes a step in several programs, which runs cannot share']
    if isinstance(one.objective, Distillation) and isinstance(other.objective, Distillation):
        return ['objective=Distillation gives each step the weights of a teacher, which runs together do not']
    if any(not isinstance(each.quantization, PostTraining | None) for each in (one, other)):
        return ['quantization in training rounds weights in each step, which runs together do not']
    differences = config.difference(one, other)
    found = [str(each) for each in differences if not _may_differ(each, one, other)]
    return found + list(_shapes(one, other))


def varying(experiments: Sequence[Experiment]) -> tuple[str, ...]:
    """Those of ARGUMENTS in which some of the experiments differ."""
    paths = {each.path for other in experiments[1:] for each in config.difference(experiments[0], other)}
    return tuple(name for name in ARGUMENTS if any(_is_within(path, name) for path in paths))


def _may_differ(each: config.Difference, one: Experiment, other: Experiment) -> bool:
    path = each.path
    if any(_is_within(path, name) for name in OUTSIDE):
        return not any(_is_within(path, name) for name in INSIDE)
    return type(one.optimizer) in SAME_BITS and any(_is_within(path, name) for name in ARGUMENTS)


def _is_within(path: str, name: str) -> bool:
    return path == name or path.startswith(f'{name}.')


def _shapes(one: Experiment, other: Experiment) -> Iterator[str]:
    """Where the shapes of the batches differ."""
    mine, others = (_batch(each) for each in (one, other))
    for name in dict.fromkeys([*mine, *others]):
        if mine.get(name) != others.get(name):
            yield f'data: {name} of a batch is {mine.get(name, "absent")} -> {others.get(name, "absent")}'


def _batch(experiment: Experiment) -> dict[str, Any]:
    fields = batches.batch_fields(experiment.data.fields).items()
    return {name: f'{field.dtype}{[experiment.data.batch, *field.shape]}' for name, field in fields}
