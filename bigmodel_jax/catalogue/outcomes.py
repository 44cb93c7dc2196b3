"""What came of runs that have a value in common: how many there are, and the mean, spread and best of a metric.

Only runs that finished are counted in a metric, since the last value of another one is of an earlier step.
"""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from bigmodel_jax.catalogue import columns, fields
from bigmodel_jax.catalogue.catalogued_run import FINISHED, CataloguedRun
from bigmodel_jax.evaluate import metric


class Spread(NamedTuple):
    """The last values of a metric in some finished runs.

    Attributes:
      measured: of the runs, how many have a value.
      not_finite: of these, how many have nan or an infinity, which are left out of the rest.
      mean: None where there is no number.
      sd: standard deviation with one degree of freedom less than there are numbers; None for fewer than two.
      best: by the metric's direction; None where that is not known.
      best_run: the path of that run.
    """

    measured: int
    not_finite: int
    mean: float | None
    sd: float | None
    best: float | None
    best_run: str | None
    direction: metric.Direction | None


class RunGroup(NamedTuple):
    """Runs with equal values in some columns."""

    values: dict[str, Any]  # Column -> value.
    runs: int
    finished: int
    metrics: dict[str, Spread]


class TriedValue(NamedTuple):
    """A value that a field, or a part, of the experiments had in some runs.

    Attributes:
      value: as JSON; a part has its class, and is compared as a whole.
      text: the value on one line.
      names: of the experiments of these runs.
      metric: the name of what `outcome` is of; None if nothing was measured.
    """

    value: Any
    text: str
    runs: int
    finished: int
    names: tuple[str, ...]
    metric: str | None
    outcome: Spread


def group(runs: Sequence[CataloguedRun], names: Sequence[str], metrics: Sequence[str]) -> list[RunGroup]:
    """The groups of runs with equal values in the columns `names`, in the order of these values."""
    found: dict[str, list[CataloguedRun]] = {}
    values: dict[str, dict[str, Any]] = {}
    for run in runs:
        own = {name: columns.value(run, name) for name in names}
        key = json.dumps(own, sort_keys=True)
        found.setdefault(key, []).append(run)
        values[key] = own
    groups = [
        RunGroup(values[key], len(each), _finished(each), {name: spread(each, name) for name in metrics})
        for key, each in found.items()
    ]
    return sorted(groups, key=lambda each: [_order(value) for value in each.values.values()])


def tried(runs: Sequence[CataloguedRun], field: str, name: str | None) -> list[TriedValue]:
    """The values that a field of the experiments had, in order, with what came of each.

    Args:
      field: its path; of a part, as model.block.ffn, the whole part is compared, its class included.
      name: of the metric.
    """
    found: dict[str, list[CataloguedRun]] = {}
    values: dict[str, Any] = {}
    for run in runs:
        stored = fields.part(run.fields, field)
        if stored is fields.MISSING:
            continue  # It has no such field, or cannot be read.
        key = json.dumps(stored, sort_keys=True)
        found.setdefault(key, []).append(run)
        values[key] = stored
    shown = [
        TriedValue(
            values[key],
            fields.brief(values[key], field.rpartition('.')[2]),
            len(each),
            _finished(each),
            tuple(sorted({str(run.facts.get('name')) for run in each})),
            name,
            spread(each, name),
        )
        for key, each in found.items()
    ]
    return sorted(shown, key=lambda each: _order(each.text if isinstance(each.value, dict | list) else each.value))


def spread(runs: Iterable[CataloguedRun], name: str | None) -> Spread:
    """The last values of a metric in those of the runs that finished."""
    measured = [run for run in runs if run.facts.get('state') == FINISHED and name in run.metrics]
    values = {run.facts['path']: run.metrics[name].last for run in measured if name is not None}
    finite = {path: each for path, each in values.items() if math.isfinite(each)}
    direction = next((run.metrics[name].direction for run in measured if name is not None), None)
    best = None if direction is None else metric.best(finite, direction)
    return Spread(
        measured=len(values),
        not_finite=len(values) - len(finite),
        mean=statistics.fmean(finite.values()) if finite else None,
        sd=statistics.stdev(finite.values()) if len(finite) > 1 else None,
        best=None if best is None else finite[best],
        best_run=best,
        direction=direction,
    )


def _finished(runs: Iterable[CataloguedRun]) -> int:
    return sum(run.facts.get('state') == FINISHED for run in runs)


def _order(value: Any) -> tuple[bool, tuple[int, Any]]:
    return columns.is_missing(value), (0, 0) if columns.is_missing(value) else columns.order(value)
