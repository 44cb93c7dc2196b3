"""What the live page shows of many runs: which are chosen, their table, and where they differ. No JAX."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bigmodel_jax.catalogue import columns, expressions, fields, tables
from bigmodel_jax.catalogue.catalogued_run import CataloguedRun
from bigmodel_jax.console import quantities
from bigmodel_jax.report import curves, figures, key_numbers
from bigmodel_jax.report.live.choice import LiveChoice
from bigmodel_jax.report.live.live_run import LiveRun
from bigmodel_jax.report.live.live_runs import LiveRuns
from bigmodel_jax.runs import goodput

DEFAULT_CHARTS = 6
SHOWN_FIELDS, SHOWN_METRICS = 8, 4  # Columns of the table.
SHOWN_MESSAGES = 30
NEAREST = 12  # Runs whose values are told under the pointer.
SHARES = (goodput.TRAINING, goodput.PARTS['data_s'])  # Those that runs are compared by.


class TableRow(NamedTuple):
    """A run in the table; `look` is that of its curve, '' if it is not chosen."""

    run: LiveRun
    look: str
    state: str
    step: str
    share_done: float
    speed: str
    training: str
    cells: list[tuple[str, bool]]  # Text, and whether it is a number.


class PointedValue(NamedTuple):
    """The value of a run near the pointer."""

    name: str
    key: str
    look: str
    step: int
    value: float
    distance: float


class PointerPlace(NamedTuple):
    """Where the pointer is in a chart."""

    step: float
    value: float


def chosen(runs: LiveRuns, choice: LiveChoice) -> list[LiveRun]:
    """The runs whose curves are shown.

    Raises:
      InputError: the expression is none, or names a column that no run has.
    """
    found = [run for run in runs.runs if choice.runs is None or run.key in choice.runs]
    if not choice.where:
        return found
    expression = expressions.parse(choice.where)
    by_path = {run.found.path: run for run in found}
    entries = [run.catalogued() for run in found]
    known = columns.Names([run.catalogued() for run in runs.runs])
    return [by_path[entry.facts['path']] for entry in expression.select(entries, known)]


def compared(runs: Sequence[LiveRun]) -> list[figures.ComparedRun]:
    """The runs as their curves are named; neighbours have different colors."""
    return [
        figures.ComparedRun(run, short_name(run), number % curves.COLORS, run.key) for number, run in enumerate(runs)
    ]


def short_name(run: LiveRun) -> str:
    """The way from the root; of a root that is a run, the name of its directory."""
    return run.path.name if run.found.relative == '.' else run.found.relative


# ---- metrics --------------------------------------------------------------------------------------------------------


def metric_names(runs: Sequence[LiveRun]) -> list[str]:
    """Every metric of the runs, those that matter most first, and the shares of the time last."""
    found = list(dict.fromkeys(name for run in runs for name in run.metric_names))
    baselines = {name for run in runs for name in key_numbers.baselines(run)}

    def rank(name: str) -> tuple[bool, bool, bool, bool]:
        evaluation, _, metric = name.rpartition('/')
        is_side = evaluation in baselines or metric in ('nll', 'learning_rate', 'perplexity', 'seconds_per_step')
        return is_side, metric != 'loss', not evaluation and not metric.endswith('_per_s'), bool(evaluation)

    shares = [part for part in SHARES if any(part in run.tail.shares for run in runs)]
    return [*sorted(found, key=rank), *map(figures.time_share_name, shares)]


def shown_metrics(runs: Sequence[LiveRun], choice: LiveChoice) -> list[str]:
    """The metrics that have a chart."""
    known = metric_names(runs)
    return known[:DEFAULT_CHARTS] if choice.metrics is None else [name for name in choice.metrics if name in known]


# ---- the table ------------------------------------------------------------------------------------------------------


def table(runs: LiveRuns, picked: Sequence[LiveRun]) -> dict[str, Any]:
    """For templates/live_table.html."""
    entries = {run.key: run.catalogued() for run in runs.runs}
    experiments = [entries[run.key].fields for run in picked if entries[run.key].fields]
    differing = [name for name in fields.differing(experiments) if name not in ('steps', 'name')] if experiments else []
    baselines = {name for run in picked for name in key_numbers.baselines(run)}
    losses = [name for name in metric_names(picked) if name.rpartition('/')[2] == 'loss']
    metrics = [name for name in losses if name.rpartition('/')[0] not in baselines][:SHOWN_METRICS]
    looks = {each.key: f'color{each.color}' for each in compared(picked)}
    shown = [*differing[:SHOWN_FIELDS], *metrics]
    numeric = {name: all(_is_number(columns.value(each, name)) for each in entries.values()) for name in shown}
    rows = [_row(run, looks.get(run.key, ''), entries[run.key], shown=numeric) for run in runs.runs]
    states = Counter(row.state for row in rows)
    said = sorted(((each, run) for run in picked for each in run.tail.messages), key=lambda pair: -pair[0].time_s)
    warnings = [(each, run) for each, run in said if each.is_warning]
    return {
        'rows': rows,
        'columns': [(name, numeric[name]) for name in shown],
        'left_out': differing[SHOWN_FIELDS:],
        'picked': len(picked),
        'states': ', '.join(f'{count:,} {state}' for state, count in states.most_common()),
        'unread': len(runs.unread),
        'problems': runs.problems + [run.problem for run in picked if run.problem][:SHOWN_MESSAGES],
        'damaged': [(run, run.tail.damage) for run in picked if run.tail.damage],
        'warnings': warnings[:SHOWN_MESSAGES],
        'warning_count': len(warnings),
        'short_name': short_name,
        'has_shares': any(row.training for row in rows),
        'now_s': time.time(),
    }


def _row(run: LiveRun, look: str, entry: CataloguedRun, *, shown: dict[str, bool]) -> TableRow:
    steps = run.steps or 0
    speeds = [name for name in run.metric_names if name.endswith('_per_s') and '/' not in name]
    speed = ''
    if speeds:
        recent = run.metrics(speeds[0])[1][-1]
        speed = f'{quantities.count(recent)} {speeds[0].removesuffix("_per_s")}/s'
    return TableRow(
        run,
        look,
        run.state,
        f'{run.tail.step:,} of {steps:,}',
        min(run.tail.step / steps, 1.0) if steps else 0.0,
        speed,
        '' if run.training_share is None else f'{100 * run.training_share:.0f}%',
        [(tables.cell(name, columns.value(entry, name), entry), right) for name, right in shown.items()],
    )


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


# ---- the pointer ----------------------------------------------------------------------------------------------------


def pointed(runs: Sequence[LiveRun], metric: str, at: PointerPlace) -> list[PointedValue]:
    """The values of runs nearest to the pointer, the highest first."""
    found = []
    for each in compared(runs):
        known = figures.values(each.run, metric)
        if known is not None and len(known[0]):
            found.append(_near(each.name, each.key, f'color{each.color}', known, at=at))
    return _highest_first(sorted(found, key=lambda each: each.distance)[:NEAREST])


def pointed_of_run(run: LiveRun, chart: str, at: PointerPlace) -> list[PointedValue]:
    """The values of the curves in a chart of one run, the highest first."""
    if chart == figures.TIME_SHARES:
        parts = list(figures.shown_parts(run))
        return _highest_first(
            [_near(name, '', f'color{number}', run.time_shares[name], at=at) for number, name in parts]
        )
    names = [chart, *(f'{evaluation}/{chart}' for evaluation in key_numbers.evaluation_names(run))]
    return _highest_first([
        _near(name.rpartition('/')[0] or 'training', '', 'evaluation' if '/' in name else 'training',
              run.metrics(name), at=at)
        for name in names
        if name in run.metric_names
    ])  # fmt: skip


def _near(name: str, key: str, look: str, known: tuple[np.ndarray, np.ndarray], *, at: PointerPlace) -> PointedValue:
    i = int(np.abs(known[0] - at.step).argmin())
    value = float(known[1][i])
    distance = abs(value - at.value) if math.isfinite(value) else math.inf
    return PointedValue(name, key, look, int(known[0][i]), value, distance)


def _highest_first(found: Sequence[PointedValue]) -> list[PointedValue]:
    return sorted(found, key=lambda each: -each.value if math.isfinite(each.value) else math.inf)
