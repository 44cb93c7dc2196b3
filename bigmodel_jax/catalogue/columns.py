"""The columns of a catalogue: what a name means for a run, and which ones are shown.

state, seed, devices, versions.jax        a fact; see catalogued_run.FACTS
model.layers, model.block.ffn.class       a field of the experiment
model.block.ffn                           a part of it, as text: 'Gated(hidden=256)'
loss, validation/loss                     the last value of a metric
best(validation/loss)                     its best value; best_step(...): the step of that
last(seed)                                the metric, where a field has the same name
"""

import functools
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from bigmodel_jax import config
from bigmodel_jax.catalogue import fields
from bigmodel_jax.catalogue.catalogued_run import FACTS, CataloguedRun, MetricSummary

OF_METRIC = re.compile(r'(last|best|best_step)\((.+)\)', re.DOTALL)
SHOWN_METRICS = 3  # By default.


def value(run: CataloguedRun, name: str) -> Any:
    """A number, text, bool, or None where the run has no such column."""
    if name in run.facts:
        found = run.facts[name]
        return '; '.join(map(str, found)) or None if name == 'damage' else found
    if name in run.fields:
        return _scalar(name, run.fields[name])
    if name in run.metrics:
        return run.metrics[name].last
    called = OF_METRIC.fullmatch(name)
    if called:
        summary = run.metrics.get(called[2])
        return None if summary is None else getattr(summary, called[1])
    found = fields.part(run.fields, name)
    return None if found is fields.MISSING else fields.brief(found)


def _scalar(name: str, stored: Any) -> Any:
    if name.endswith(f'.{fields.CLASS}'):
        return fields.class_name(stored)
    if isinstance(stored, (list, dict)):
        return fields.brief(stored)
    if not isinstance(stored, str):
        return stored
    shown = fields.brief(stored, name.rpartition('.')[2])
    return stored if shown == repr(stored) else shown  # Of a secret, only that it is one.


class Names:
    """The names of all columns that some runs have."""

    def __init__(self, runs: Sequence[CataloguedRun]):
        self._runs = runs

    @functools.cached_property
    def _known(self) -> set[str]:
        found = set(FACTS)
        for run in self._runs:
            found.update(run.facts, run.fields, run.metrics)
        metrics = {name for run in self._runs for name in run.metrics}
        found.update(f'{what}({name})' for name in metrics for what in ('last', 'best', 'best_step'))
        parts = {name.rpartition('.')[0] for run in self._runs for name in run.fields}
        while parts := {each for each in parts if each and each not in found}:
            found |= parts
            parts = {each.rpartition('.')[0] for each in parts}
        return found

    def check(self, name: str) -> None:
        """Raises InputError if no run has the column; with no runs at all, any will do."""
        if self._runs and name not in self._known:
            last = name.rpartition('.')[2]
            near = config.nearest(name, self._known)
            # A field that is named without the parts around it.
            inside = sorted(each for each in self._known if each.endswith(f'.{last}') and each != name)
            if inside and not near:
                near = f' Did you mean {" or ".join(inside[:3])}?'
            raise config.InputError(f'No run has a column {name!r}.{near or " --format json shows all of them."}')


# ---- metrics --------------------------------------------------------------------------------------------------------


def metric_name(runs: Iterable[CataloguedRun], name: str) -> str:
    """The metric that a person named; raises InputError if no run has it."""
    known = dict.fromkeys(each for run in runs for each in run.metrics)
    if known and name not in known:
        raise config.InputError(f'No run has a metric {name!r}.{config.nearest(name, known)}')
    return name


def main_metrics(runs: Sequence[CataloguedRun]) -> list[str]:
    """The metrics by which runs are judged, the most important one first.

    Those of which a direction is known; of evaluations before those of training, unless few runs have them; and losses
    before others.
    """
    counts: dict[str, int] = {}
    for run in runs:
        for name, summary in run.metrics.items():
            if summary.direction is not None:
                counts[name] = counts.get(name, 0) + 1
    most = max(counts.values(), default=0)
    evaluated = {name for name in counts if '/' in name}

    def rank(name: str) -> tuple[bool, bool, bool, int]:
        is_loss = name.rpartition('/')[2] == 'loss'
        return 2 * counts[name] < most, name not in evaluated, not is_loss, -counts[name]

    return sorted(counts, key=rank)


def summary_of(run: CataloguedRun, name: str) -> MetricSummary | None:
    """The metric that a column shows; None for another column."""
    called = OF_METRIC.fullmatch(name)
    if name in run.facts or name in run.fields or (called and called[1] == 'best_step'):
        return None
    return run.metrics.get(called[2] if called else name)


# ---- order and choice -----------------------------------------------------------------------------------------------


def in_order(runs: Sequence[CataloguedRun], names: Sequence[str], *, reverse: bool = False) -> list[CataloguedRun]:
    """Runs by the values of columns, the first being the most important; without a value, or with nan, last.

    Numbers and text rise, and of a metric the best comes first; `reverse` turns that round.
    """
    found = list(runs)
    for name in reversed(names):
        summaries = (summary_of(run, name) for run in found)
        higher = any(each is not None and each.direction == 'higher' for each in summaries)
        pairs = [(value(run, name), run) for run in found]
        there = [pair for pair in pairs if not is_missing(pair[0])]
        there.sort(key=lambda pair: order(pair[0]), reverse=higher != reverse)
        found = [run for _, run in there] + [run for each, run in pairs if is_missing(each)]
    return found


def is_missing(each: Any) -> bool:
    """Whether a value has no place in an order."""
    return each is None or (isinstance(each, float) and math.isnan(each))


def order(each: Any) -> tuple[int, Any]:
    """A key that sorts values of any kind: truth values, numbers, text."""
    return (0, each) if isinstance(each, bool) else (1, each) if isinstance(each, int | float) else (2, str(each))


def defaults(runs: Sequence[CataloguedRun]) -> list[str]:
    """Path, state and step; the fields in which the runs differ; and the metrics they are judged by."""
    stored = [run.fields for run in runs if run.fields]
    # The column of the step shows how many there are to be.
    differing = [name for name in fields.differing(stored) if name != 'steps'] if stored else []
    metrics = main_metrics(runs)
    evaluated = [name for name in metrics if '/' in name] or metrics
    required = ['requirements'] if any(run.facts.get('requirements') for run in runs) else []
    shown = [*differing, *required, *evaluated[:SHOWN_METRICS]]
    return list(dict.fromkeys(['path', 'state', 'step', *shown]))


def every(runs: Sequence[CataloguedRun]) -> list[str]:
    """Every column that a run has: facts, fields, and of metrics the last and the best value."""
    facts = dict.fromkeys([*FACTS, *(name for run in runs for name in run.facts)])
    stored = dict.fromkeys(name for run in runs for name in run.fields if name not in facts)
    metrics = dict.fromkeys(name for run in runs for name in run.metrics)
    shown = [
        each
        for name in metrics
        for each in (name if name not in facts and name not in stored else f'last({name})', f'best({name})')
    ]
    return [*facts, *stored, *shown]
