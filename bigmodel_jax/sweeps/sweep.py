"""Sweep: the experiments that are compared, the seeds they are trained with, and the metric that is compared."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bigmodel_jax import compatibility, config, experiment_file
from bigmodel_jax.evaluate import loss
from bigmodel_jax.evaluate import metric as metrics
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.sweeps import summaries
from bigmodel_jax.sweeps.statistics import halving as rule

SEEDS = (0, 1, 2, 3, 4)
FUNCTION = 'sweep'  # Of an experiment file.
BASELINES = ('baseline', 'base')  # Names by which an arm says that it is the baseline.
# A name is part of the name of a directory, of a Slurm job and of a Kubernetes workload, and stands in tables.
NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._=,+-]{0,79}')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(Mapping[str, Experiment]):
    """Arms that are compared with a baseline; each is trained with every seed.

    As a mapping it gives the experiment of each arm. All arms share the seeds, so that differences are paired: arms
    with the same data and the same seed see the same batches in the same order, and weights of equal name and shape
    begin with equal values.

    Attributes:
      arms: by name, in the order of the tables.
      baseline: the arm with which the others are compared; '' for the arm named 'baseline' or 'base'.
      metric: what is compared, as 'validation/loss'; '' for the one metric that every arm names in
        checkpoints.keep_best, or else the loss of the one evaluation that every arm has.
      seeds: replace the seed of each experiment.
      summary: which value of the metric stands for a trial.
      factors: paths of fields whose values make up a grid, of which main effects and interactions are reported.
      columns: headings of the paper's table -> arm -> what the paper prints there, shown beside what was measured.
      halving: when arms that cannot win are stopped before their end; None: every arm is trained to its end.
      continued: arms that halving does not stop; the baseline never is.
    """

    arms: Mapping[str, Experiment]
    baseline: str = ''
    metric: str = ''
    seeds: tuple[int, ...] = SEEDS
    summary: summaries.Summary = summaries.Final()
    factors: tuple[str, ...] = ()
    columns: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    halving: rule.SuccessiveHalving | None = None
    continued: tuple[str, ...] = ()

    def __getitem__(self, arm: str) -> Experiment:
        return self.arms[arm]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arms)

    def __len__(self) -> int:
        return len(self.arms)

    @property
    def direction(self) -> metrics.Direction:
        """In which the metric is better."""
        return compatibility.direction(self.metric, self.arms[self.baseline], field='metric')


def load(
    name: str, changes: Sequence[str] = (), arguments: Sequence[str] = (), *, halves: bool | None = None, **given: Any
) -> Sweep:
    """The sweep `file.py:function`, by default sweep(); `/arm,arm` chooses arms, to which the baseline is added.

    Args:
      changes: 'path=value' each, applied to every arm.
      arguments: 'name=value' each, for the function.
      halves: whether arms are stopped early, by the rule of the Sweep if it has one; None: if it has one.
      given: fields of the Sweep, instead of what the function says: seeds, baseline, metric, continued.

    Raises:
      InputError: there is no such file, function or arm, or an experiment or the sweep is wrong.
    """
    path, function, chosen = experiment_file.parse(name)
    made = experiment_file.call(path, function or FUNCTION, arguments)
    if not isinstance(made, Mapping):
        raise config.InputError(
            f'{path}: {function or FUNCTION}() returned a {type(made).__name__}. A sweep is a dict of experiments by '
            'the names of the arms, or a sweeps.sweep.Sweep.'
        )
    described = made if isinstance(made, Sweep) else Sweep(arms=made)
    arms = {arm: experiment_file.finish(each, f'{path}: {arm}', path, changes) for arm, each in described.items()}
    if halves is not None:
        given['halving'] = (described.halving or rule.SuccessiveHalving()) if halves else None
    found = complete(dataclasses.replace(described, arms=arms, **given))
    return restrict(found, [arm for arm in chosen.split(',') if arm])


def restrict(sweep: Sweep, chosen: Sequence[str]) -> Sweep:
    """The sweep of some arms and the baseline; of all arms if none is chosen.

    Raises:
      InputError: there is no such arm.
    """
    for arm in chosen:
        if arm not in sweep.arms:
            raise config.InputError(f'The sweep has no arm {arm!r}.{config.nearest(arm, sweep.arms)}')
    kept = {*chosen, sweep.baseline} if chosen else set(sweep.arms)
    return dataclasses.replace(sweep, arms={arm: each for arm, each in sweep.arms.items() if arm in kept})


def complete(sweep: Sweep) -> Sweep:
    """The sweep with its baseline and metric named, checked.

    Raises:
      InputError: the arms, the baseline, the metric or the seeds are wrong, or it is not clear which they are.
    """
    if len(sweep.arms) < 1:
        raise config.InputError('The sweep has no arms. Return a dict of experiments by name.')
    for arm in sweep.arms:
        if not isinstance(arm, str) or not NAME.fullmatch(arm):
            raise config.InputError(
                f'{arm!r} cannot be the name of an arm. Use at most 80 letters, digits and the characters . _ = , + - '
                'and begin with a letter or a digit.'
            )
    _check_distinct('names of arms that differ in upper and lower case alone', [arm.lower() for arm in sweep.arms])
    _check_distinct('seeds', sweep.seeds)
    if not sweep.seeds:
        raise config.InputError('The sweep has no seeds. Use seeds=(0, 1, 2, 3, 4).')
    found = dataclasses.replace(sweep, baseline=_baseline(sweep), metric=sweep.metric or _metric(sweep.arms))
    _check_metric(found)
    _check_arms_named(found)
    return found


def _check_distinct(what: str, values: Sequence[object]) -> None:
    twice = [value for value in dict.fromkeys(values) if values.count(value) > 1]
    if twice:
        raise config.InputError(f'The sweep has {what}: {twice[0]!r} is there {values.count(twice[0])} times.')


def _baseline(sweep: Sweep) -> str:
    if not sweep.baseline:
        named = [arm for arm in sweep.arms if arm in BASELINES]
        if len(named) == 1:
            return named[0]
        raise config.InputError(
            f'The sweep does not say which arm is the baseline, with which the others are compared. It has '
            f'{", ".join(sweep.arms)}. Return Sweep(arms=..., baseline=ARM), name one arm "baseline", or give '
            '--baseline ARM.'
        )
    if sweep.baseline not in sweep.arms:
        raise config.InputError(
            f'The sweep has no arm {sweep.baseline!r}, which is to be the baseline.'
            f'{config.nearest(sweep.baseline, sweep.arms)}'
        )
    return sweep.baseline


def _metric(arms: Mapping[str, Experiment]) -> str:
    best = {each.checkpoints.keep_best for each in arms.values()}
    if len(best) == 1 and (only := best.pop()) is not None:
        return only
    first, *others = arms.values()
    shared = [each for each in first.evaluations if all(each.name in _evaluations(other) for other in others)]
    losses = [f'{each.name}/loss' for each in shared if isinstance(each, loss.Loss)]
    if len(losses) == 1:
        return losses[0]
    names = ', '.join(each.name for each in shared) or '(none)'
    raise config.InputError(
        f'The sweep does not say which metric is compared, and the arms share the evaluations {names}. Return '
        'Sweep(arms=..., metric="EVALUATION/METRIC"), or give --metric.'
    )


def _evaluations(experiment: Experiment) -> list[str]:
    return [each.name for each in experiment.evaluations]


def _check_metric(sweep: Sweep) -> None:
    """Raises InputError for an arm that does not measure the metric, or where no one direction is known."""
    directions = {
        arm: compatibility.direction(sweep.metric, each, field=f'arm {arm}: metric') for arm, each in sweep.items()
    }
    if len(set(directions.values())) > 1:
        raise config.InputError(f'{sweep.metric!r} is better in different directions: {directions}.')


def _check_arms_named(sweep: Sweep) -> None:
    """Raises InputError where factors, columns or continued arms speak of what is not there."""
    for heading, cells in sweep.columns.items():
        for arm in cells:
            if arm not in sweep.arms:
                raise config.InputError(f'columns[{heading!r}] names an arm {arm!r}.{config.nearest(arm, sweep.arms)}')
    for arm in sweep.continued:
        if sweep.halving is None:
            raise config.InputError(
                f'--continue {arm}: without halving every arm is trained to its end. Leave it out, or give --halving.'
            )
        if arm not in sweep.arms:
            raise config.InputError(f'--continue {arm}: there is no such arm.{config.nearest(arm, sweep.arms)}')
    for path in sweep.factors:
        for each in sweep.arms.values():
            value_at(each, path)


def value_at(experiment: Experiment, path: str) -> object:
    """The value of an experiment at a dotted path.

    Raises:
      InputError: there is no such field.
    """
    node: object = experiment
    for count, part in enumerate(parts := path.split('.')):
        children = dict(config.walk(node))
        if part not in children:
            where = '.'.join(parts[: count + 1])
            raise config.InputError(f'{where}: there is no such field.{config.nearest(part, children)}')
        node = children[part]
    return node
