"""A sweep before it is run: its arms, by how much they are not equal, what they cost, and what was tried before."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import rich.console
import rich.table
import rich.text
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.catalogue import catalogue, tables
from bigmodel_jax.console import quantities
from bigmodel_jax.plan.hardware import prices, slices
from bigmodel_jax.storage import durable_files
from bigmodel_jax.sweeps import sweep_directory
from bigmodel_jax.sweeps.planning import costs
from bigmodel_jax.sweeps.standings import Standings, State
from bigmodel_jax.sweeps.sweep import Sweep
from bigmodel_jax.sweeps.trials import Trial
from bigmodel_jax.train.together import kept_programs

SHOWN_CHANGES = 6
SHOWN_FIELDS = 4
CIRCUMSTANCE = 'name'  # Of an arm, which differs always.


class ArmPreview(NamedTuple):
    """An arm.

    Attributes:
      changes: what differs from the baseline.
      cost: of one trial.
      against: name of a quantity -> by which share the arm has more of it than the baseline, for those that differ.
    """

    changes: tuple[config.Difference, ...]
    cost: costs.TrialCost
    against: Mapping[str, float]


class SweepPreview(NamedTuple):
    """A sweep that was not run by this.

    Attributes:
      on: the slice that a trial runs on; None if none was named.
      states: of the trials that exist already -> how many.
      tried: field -> the lines of a table of the values that it has had in earlier runs.
      groups: the arms whose trials share their compiled programs; see kept_programs.groups().
    """

    sweep: Sweep
    arms: Mapping[str, ArmPreview]
    on: slices.Slice | None
    trials: int
    states: Mapping[State, int]
    tried: Mapping[str, Sequence[str]]
    groups: Sequence[tuple[str, ...]]


def preview(
    sweep: Sweep,
    made: Sequence[Trial],
    workdir: epath.PathLike,
    *,
    on: slices.Slice | None = None,
    table: prices.Prices | None = None,
    roots: Sequence[epath.PathLike] = (),
) -> SweepPreview:
    """What would be run.

    Args:
      made: its trials.
      workdir: the directory of the sweep, which need not be there; nothing is written.
      on: the slice that a trial runs on, for times and prices.
      roots: directories below which earlier runs are looked for.

    Raises:
      InputError: an arm cannot be laid out on the slice.
    """
    baseline = costs.cost(sweep.arms[sweep.baseline], on, table)
    arms = {}
    for arm, each in sweep.arms.items():
        cost = costs.cost(each, on, table)
        changes = config.difference(sweep.arms[sweep.baseline], each)
        changed = tuple(change for change in changes if change.path != CIRCUMSTANCE)
        arms[arm] = ArmPreview(changed, cost, _against(cost, baseline))
    fields = list(dict.fromkeys(change.path for each in arms.values() for change in each.changes))
    states, tried = _states(sweep, made, workdir), _tried(fields, sweep.metric, roots)
    return SweepPreview(sweep, arms, on, len(made), states, tried, kept_programs.groups(sweep.arms))


def _against(cost: costs.TrialCost, baseline: costs.TrialCost) -> dict[str, float]:
    names = {'parameters': 'parameters', 'flops_per_step': 'FLOPs a step', 'flops': 'FLOPs', 'units': baseline.unit}
    shares = {words: getattr(cost, name) / getattr(baseline, name) - 1 for name, words in names.items()}
    return {words: share for words, share in shares.items() if share}


def _states(sweep: Sweep, made: Sequence[Trial], workdir: epath.PathLike) -> dict[State, int]:
    """The states of the trials, as far as the directory is there."""
    root = durable_files.directory(workdir)
    if not durable_files.exists(root / sweep_directory.FILE):
        return {}
    there = Standings(sweep_directory.described(root, sweep, made, sweep_directory.Invocation('')))
    states = [each.state for each in there.all()]
    return {state: states.count(state) for state in State if states.count(state)}


def _tried(fields: Sequence[str], metric: str, roots: Sequence[epath.PathLike]) -> dict[str, list[str]]:
    """What came of earlier values of the fields, of those that any run below the roots has."""
    there = [root for root in roots if durable_files.is_directory(durable_files.directory(root))]
    if not there:
        return {}
    runs = catalogue.find_runs(*there)
    known = metric if any(metric in each.metrics for each in runs) else None
    found = {field: runs.tried(field, known) for field in fields[:SHOWN_FIELDS]}
    return {field: tables.tried(field, each) for field, each in found.items() if each}


def render(found: SweepPreview) -> rich.console.Group:
    """For the terminal."""
    parts: list[rich.console.RenderableType] = [_arms(found), '', *map(rich.text.Text, _sentences(found))]
    for field, lines in found.tried.items():
        parts += ['', rich.text.Text(f'tried before: {field}', style='bold'), *map(rich.text.Text, lines)]
    return rich.console.Group(*parts)


def _arms(found: SweepPreview) -> rich.table.Table:
    unit = next(iter(found.arms.values())).cost.unit
    table = rich.table.Table(box=None, pad_edge=False, header_style='bold')
    table.add_column('arm', overflow='fold')
    for heading in ('parameters', 'FLOPs a step', 'steps', unit):
        table.add_column(heading, justify='right')
    table.add_column('against the baseline')
    for arm, each in found.arms.items():
        is_baseline = arm == found.sweep.baseline
        changes = [str(change) for change in each.changes[:SHOWN_CHANGES]]
        more = len(each.changes) - SHOWN_CHANGES
        changes += [f'and {more} more fields'] if more > 0 else []
        differs = ', '.join(f'{share:+.2%} {words}' for words, share in each.against.items())
        table.add_row(
            rich.text.Text(f'{arm} (baseline)' if is_baseline else arm),
            quantities.whole(each.cost.parameters),
            f'{each.cost.flops_per_step:.3e}',
            quantities.whole(each.cost.steps),
            quantities.count(each.cost.units),
            rich.text.Text('\n'.join([*changes, *filter(None, [differs])])),
        )
    return table


def _sentences(found: SweepPreview) -> list[str]:
    sweep, seeds = found.sweep, len(found.sweep.seeds)
    counts = ', '.join(f'{count} {state.value}' for state, count in found.states.items() if state is not State.WAITING)
    total = sum(each.cost.flops for each in found.arms.values()) * seeds
    lines = [
        f'{found.trials} trials: {len(found.arms)} arms with {seeds} seeds each; {counts or "none exists yet"}.',
        f'Compared is the {sweep.summary} {sweep.metric}, of which {sweep.direction} is better.',
        f'The whole computes {total:.3g} FLOPs, without evaluations.',
        *_sharing(found),
    ]
    if sweep.halving is not None:
        looks = ', '.join(f'{look:.3g}' for look in sweep.halving.looks)
        lines.append(f'Arms that cannot win any more are stopped early, at looks after {looks} of the steps.')
    hours = [each.cost.chip_hours for each in found.arms.values() if each.cost.chip_hours is not None]
    dollars = [each.cost.dollars for each in found.arms.values() if each.cost.dollars is not None]
    if found.on is not None:
        price = f', ${sum(dollars) * seeds:,.2f}' if len(dollars) == len(found.arms) else ', no price is known'
        lines.append(
            f'On {found.on} for each trial that is about {sum(hours) * seeds:,.3g} chip-hours{price}: by formula, '
            'without start-up, evaluations and checkpoints.'
        )
    else:
        lines.append('Name a slice with --topology, such as v5e-4, for its time and price.')
    return lines


def _sharing(found: SweepPreview) -> list[str]:
    """What trials of one process compile once; nothing where each trial needs programs of its own."""
    seeds = len(found.sweep.seeds)
    joined = [group for group in found.groups if len(group) > 1]
    if not any(len(group) * seeds > 1 for group in found.groups):
        return []
    alone = len(found.arms) - sum(map(len, found.groups))
    compiled = len(found.groups) + alone * seeds
    shared = '; '.join(f'{", ".join(group)} share one' for group in joined)
    words = f'A process that trains all of them compiles {compiled} steps, and not {found.trials}: '
    return [words + ('all seeds of an arm share one' if not shared else f'all seeds, and the arms {shared}') + '.']
