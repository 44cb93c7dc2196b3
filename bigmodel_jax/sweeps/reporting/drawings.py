"""The geometry of a sweep's charts, as numbers that a template draws: bands, effects, levels of fields."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bigmodel_jax.report import curves
from bigmodel_jax.report.curves import Axis, Tick
from bigmodel_jax.sweeps.reporting import formats
from bigmodel_jax.sweeps.reporting.answer import ArmResult, SweepAnswer
from bigmodel_jax.sweeps.reporting.effects import ShownEffect
from bigmodel_jax.sweeps.statistics import estimates, factors

STYLES = 8  # Of lines: colour and dashes together tell arms apart; further arms begin again.
CHARACTER = 6.6  # Width of a letter of a label, in SVG units.


class BandedLine(NamedTuple):
    """A mean over seeds with its interval. Paths are of SVG; `band` is '' of a single seed."""

    name: str
    style: int
    path: str
    band: str
    dots: tuple[tuple[float, float], ...]
    bars: tuple[tuple[float, float, float], ...]  # (x, low, high) of intervals that are drawn as bars.
    titles: tuple[str, ...]  # Of the dots.


class Frame(NamedTuple):
    """The axes of a chart. Lengths are in SVG units; y grows downwards."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


class LinesDrawing(NamedTuple):
    """A chart of lines with bands or bars."""

    title: str
    x_title: str
    frame: Frame
    lines: tuple[BandedLine, ...]


class ForestRow(NamedTuple):
    """An effect in the forest plot; `low` and `high` are nan where it has no interval."""

    effect: ShownEffect
    numbers: str
    y: float
    at: float
    low: float
    high: float


class ForestDrawing(NamedTuple):
    """Effects on one axis; `better` is 'left' or 'right'."""

    frame: Frame
    zero: float
    better: str
    rows: tuple[ForestRow, ...]
    narrow: bool
    x_title: str


class MeanCurve(NamedTuple):
    """Means over seeds and their 95% intervals. Arrays are [n]; low and high are nan of a single seed."""

    name: str
    at: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def mean_curve(arm: ArmResult) -> MeanCurve | None:
    """The curve of an arm: the mean at each step that all of its finished seeds measured; None if there is none."""
    found = [each.curve for each in arm.trials if each.state == 'finished' and each.curve]
    steps = sorted(set.intersection(*map(set, found))) if found else []
    if not steps:
        return None
    return summarised(arm.arm, np.array(steps, float), [[curve[step] for curve in found] for step in steps])


def summarised(name: str, at: np.ndarray, values: Sequence[Sequence[float]]) -> MeanCurve:
    """Mean and Student's 95% interval of the finite values at each place; nan where there are none.

    Args:
      at: [n].
      values: those of the seeds at each of the n places.
    """
    rows = []
    for each in values:
        finite = np.array([value for value in each if math.isfinite(value)])
        n = len(finite)
        mean = finite.mean() if n else math.nan
        half = math.nan
        if n > 1:
            half = float(estimates.critical_value(0.05, n - 1)) * finite.std(ddof=1) / math.sqrt(n)
        rows.append((mean, mean - half, mean + half))
    mean, low, high = np.array(rows, float).reshape(-1, 3).T
    return MeanCurve(name, at, mean, low, high)


def bands(answer: SweepAnswer, *, width: float, height: float) -> LinesDrawing | None:
    """The metric over the steps: the mean of each arm with a band for its 95% interval; None before any is known."""
    found = {index: each for index, arm in enumerate(answer.arms) if (each := mean_curve(arm)) is not None}
    title = f'{answer.about.metric} over the steps'
    return _lines(found, title=title, x_title='step', size=(width, height), bars=False)


def sensitivity(answer: SweepAnswer, path: str, arms: Mapping[float, ArmResult]) -> LinesDrawing | None:
    """The metric over the values of a numeric field, value -> arm."""
    points = factors.sensitivity({value: arm.values for value, arm in arms.items()})
    rows = np.array([(each.value, each.mean, each.interval.low, each.interval.high) for each in points], float)
    title = f'{answer.about.metric} by {path}'
    curve = MeanCurve(path, *rows.T)
    return _lines({0: curve}, title=title, x_title=path, size=(450.0, 240.0), bars=True)


def _lines(
    found: dict[int, MeanCurve], *, title: str, x_title: str, size: tuple[float, float], bars: bool
) -> LinesDrawing | None:
    ends = [np.concatenate([each.mean, each.low, each.high]) for each in found.values()]
    values = np.concatenate([each[np.isfinite(each)] for each in ends]) if ends else np.array([])
    if not len(values):
        return None
    width, height = size
    left, right, top, bottom = 52.0, width - 18.0, 10.0, height - 40.0
    places = np.concatenate([each.at for each in found.values()])
    log_y = bool(values.min() > 0 and values.max() > curves.LOG_RATIO * np.median(values))
    y_axis = Axis(*curves.value_range(values, log_y), bottom, top, log_y)
    x_axis = _x_axis(places, left, right, bars=bars)
    frame = Frame(
        width, height, left, right, top, bottom,
        tuple(_tick(x_axis, value) for value in _x_ticks(x_axis, places, width, bars=bars)),
        tuple(_tick(y_axis, value) for value in curves.ticks(y_axis, 5)),
    )  # fmt: skip
    lines = tuple(_line(each, index % STYLES, x_axis, y_axis, bars=bars) for index, each in found.items())
    return LinesDrawing(title, x_title, frame, lines)


def _x_axis(places: np.ndarray, left: float, right: float, *, bars: bool) -> Axis:
    """From 0 for steps; around the values for those of a field, by their logarithm where they span a factor of 8."""
    if not bars:
        return Axis(0.0, max(float(places.max()), 1.0), left, right, log=False)
    low, high = float(places.min()), float(places.max())
    if low > 0 and high >= 8 * low:
        return Axis(low / 1.3, high * 1.3, left, right, log=True)
    margin = 0.06 * (high - low) or 1.0
    return Axis(low - margin, high + margin, left, right, log=False)


def _x_ticks(axis: Axis, places: np.ndarray, width: float, *, bars: bool) -> list[float]:
    """Round steps; of a field the values themselves, if they are few."""
    values = sorted(set(places.tolist()))
    return values if bars and len(values) <= 6 else curves.ticks(axis, 8 if width > 600 else 4)


def _tick(axis: Axis, value: float) -> Tick:
    return Tick(round(float(axis.place(np.array(value))), 1), curves.short_label(value).replace('-', formats.MINUS))


def _line(each: MeanCurve, style: int, x_axis: Axis, y_axis: Axis, *, bars: bool) -> BandedLine:
    x = x_axis.place(each.at)
    with np.errstate(invalid='ignore', divide='ignore'):
        # The end of an interval below 0 has no place on a logarithmic axis.
        floor = y_axis.low if y_axis.log else -np.inf
        y, low, high = (y_axis.place(np.maximum(ends, floor)) for ends in (each.mean, each.low, each.high))
    shown = [(i, round(float(x[i]), 1), round(float(y[i]), 1)) for i in range(len(x)) if math.isfinite(y[i])]
    known = [i for i, _, _ in shown if math.isfinite(low[i])]
    titles = tuple(f'{each.name} {each.mean[i]:.4g} at {each.at[i]:,.10g}' for i, _, _ in shown)
    return BandedLine(
        name=each.name,
        style=style,
        path=curves.svg_path(x, y),
        band='' if bars or len(known) < 2 else _area(x[known], low[known], high[known]),
        dots=tuple((column, row) for _, column, row in shown),
        bars=tuple((round(float(x[i]), 1), round(float(low[i]), 1), round(float(high[i]), 1)) for i in known)
        if bars
        else (),
        titles=titles,
    )


def _area(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """The closed path between two curves."""
    there = [f'{"L" if i else "M"}{a:.1f} {b:.1f}' for i, (a, b) in enumerate(zip(x, low))]
    back = [f'L{a:.1f} {b:.1f}' for a, b in zip(x[::-1], high[::-1])]
    return ''.join([*there, *back, 'Z'])


def forest(
    shown: Sequence[ShownEffect], answer: SweepAnswer, *, title: str, width: float, narrow: bool
) -> ForestDrawing | None:
    """Effects with their intervals on one axis; None if there are none."""
    if not shown:
        return None
    ends = [end for each in shown for end in (each.difference, *each.interval) if math.isfinite(end)]
    low, high = min(0.0, *ends), max(0.0, *ends)
    margin = 0.05 * (high - low) or 1.0
    places = formats.decimals(answer)
    numbers = [f'{formats.spread(each.difference, each.interval, places)} {each.finding}' for each in shown]
    step, first = (54.0, 34.0) if narrow else (34.0, 22.0)
    left = 12.0 if narrow else min(CHARACTER * max(len(each.label) for each in shown) + 26.0, 0.3 * width)
    right = width - 12.0 if narrow else width - CHARACTER * max(map(len, numbers)) - 20.0
    bottom = first + step * (len(shown) - 1) + 24.0
    axis = Axis(low - margin, high + margin, left, right, log=False)

    def place(value: float) -> float:
        return round(float(axis.place(np.array(value))), 1) if math.isfinite(value) else math.nan

    rows = tuple(
        ForestRow(each, text, first + step * i, place(each.difference), *map(place, each.interval))
        for i, (each, text) in enumerate(zip(shown, numbers))
    )
    ticks = tuple(_tick(axis, value) for value in curves.ticks(axis, 4 if narrow else 6))
    frame = Frame(width, bottom + 44.0, left, right, 8.0, bottom, ticks, ())
    better = 'left' if answer.about.direction == 'lower' else 'right'
    return ForestDrawing(frame, place(0.0), better, rows, narrow, title)
