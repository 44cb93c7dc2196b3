"""The charts of one run, and of many runs over each other; the report and the live page draw the same ones. No JAX."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigmodel_jax.console import quantities
from bigmodel_jax.report import curves, key_numbers, thinning
from bigmodel_jax.runs import goodput

LARGE, SMALL = (920.0, 330.0), (450.0, 190.0)
# What follows from another metric, or from the clock alone, gets no chart.
WITHOUT_CHART = ('loss', 'perplexity', 'seconds_per_step')
TIME_SHARES = 'Share of the time'
LONGEST_LEGEND = 12  # Of a chart with a curve for each run; beyond it the table of runs is the legend.


@dataclasses.dataclass(frozen=True)
class ChartView:
    """How a person wants to see a chart.

    Attributes:
      size: width and height in SVG units.
      smoother: see curves.draw().
      hovers: see curves.draw().
    """

    size: tuple[float, float] = SMALL
    axes: curves.Axes = curves.Axes()
    smoother: thinning.Smoother | None = None
    hovers: int = curves.HOVERS

    def draw(self, series: Sequence[curves.Series], **more: Any) -> curves.ChartDrawing | None:
        """The chart of some series; see curves.draw()."""
        width, height = self.size
        how: dict[str, Any] = {'axes': self.axes, 'smoother': self.smoother, 'hovers': self.hovers}
        return curves.draw(series, width=width, height=height, **how, **more)


class CurveLabel(NamedTuple):
    """A curve as it is named above the chart; `look` is that of the curve, see curves.Curve."""

    name: str
    value: str
    look: str


class TitledChart(NamedTuple):
    """A chart with its title and legend."""

    title: str
    chart: curves.ChartDrawing
    legend: list[CurveLabel]


class ComparedRun(NamedTuple):
    """A run among others, with the name, color and key of its curve."""

    run: key_numbers.RunCurves
    name: str
    color: int
    key: str


# ---- one run --------------------------------------------------------------------------------------------------------


def names(run: key_numbers.RunCurves) -> list[str]:
    """The metrics that get a small chart each, without the evaluation before the name."""
    found = dict.fromkeys(name.rpartition('/')[2] for name in key_numbers.metric_names(run))
    return [name for name in found if name not in WITHOUT_CHART]


def all_of(run: key_numbers.RunCurves, view: ChartView = ChartView()) -> Iterator[TitledChart]:
    """The small charts: each metric of training and of evaluations, on the same axes where the name is the same."""
    for name in names(run):
        figure = of_run(run, name, view)
        if figure is not None:
            yield figure
    figure = time_shares(run, view)
    if figure is not None:
        yield figure


def of_run(run: key_numbers.RunCurves, metric: str, view: ChartView) -> TitledChart | None:
    """The metric in training and in each evaluation, with the unigram model's as a level; None if nothing is finite."""
    baseline = key_numbers.unigram(run, metric)
    level = None if baseline is None else curves.Tick(baseline, f'unigram {quantities.number(baseline)}')
    series = []
    for name in [metric, *(f'{evaluation}/{metric}' for evaluation in key_numbers.evaluation_names(run))]:
        if name in run.metric_names:
            sparse = '/' in name
            series.append(curves.Series(name.rpartition('/')[0] or 'training', *run.metrics(name), sparse))
    return _titled(key_numbers.title(metric), series, view, marks=_resumed(run), level=level)


def time_shares(run: key_numbers.RunCurves, view: ChartView) -> TitledChart | None:
    """What the time between reports went to; None if the run did not record it."""
    series = [curves.Series(name, *run.time_shares[name], color=number) for number, name in shown_parts(run)]
    return _titled(TIME_SHARES, series, view, marks=_resumed(run))


def shown_parts(run: key_numbers.RunCurves) -> Iterator[tuple[int, str]]:
    """The parts of the time that took any, each with the number of its color."""
    for number, name in enumerate(goodput.ORDER):
        if name in run.time_shares and run.time_shares[name][1].any():
            yield number, name


def _resumed(run: key_numbers.RunCurves) -> list[curves.Tick]:
    return [curves.Tick(step, 'resumed') for step in run.resumptions]


# ---- many runs ------------------------------------------------------------------------------------------------------


def compared(runs: Sequence[ComparedRun], metric: str, view: ChartView) -> TitledChart | None:
    """A metric of each run, in its color; None if none of them has a finite value.

    Args:
      metric: in full, such as 'validation/loss'; or TIME_SHARES and a part, as time_share_name() gives it.
    """
    series = []
    for each in runs:
        found = values(each.run, metric)
        if found is not None:
            sparse = '/' in metric and len(found[0]) <= curves.HOVERS and len(runs) <= curves.FAINT
            series.append(curves.Series(each.name, *found, sparse, each.color, each.key))
    evaluation, _, name = metric.rpartition('/')
    title = metric if metric.startswith(f'{TIME_SHARES}: ') else key_numbers.title(name)
    return _titled(f'{title}, {evaluation}' if evaluation else title, series, view)


def time_share_name(part: str) -> str:
    """The metric that is the share of the time that went to a part, such as goodput.TRAINING."""
    return f'{TIME_SHARES}: {part}'


def values(run: key_numbers.RunCurves, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The steps and values of a metric, also of a share of the time; None if the run has none."""
    part = metric.removeprefix(f'{TIME_SHARES}: ')
    if part != metric:
        return run.time_shares.get(part)
    return run.metrics(metric) if metric in run.metric_names else None


# ---- both -----------------------------------------------------------------------------------------------------------


def _titled(title: str, series: Sequence[curves.Series], view: ChartView, **more: Any) -> TitledChart | None:
    chart = view.draw(series, **more) if series else None
    if chart is None:
        return None
    look = {(each.name, each.key): each.look for each in chart.lines}
    legend = [
        CurveLabel(each.name, quantities.number(each.values[-1]), look.get((each.name, each.key), ''))
        for each in series
    ]
    return TitledChart(title, chart, legend if len(legend) <= LONGEST_LEGEND else [])
