"""The geometry of a chart: thinned curves, ticks and marks, as numbers that a template draws; NumPy alone."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BUCKETS = 240  # A curve keeps the lowest and highest value in each: spikes survive, and a long run stays small.
HOVERS = 48
LOG_RATIO = 10.0  # Positive values whose highest is this many times their median are drawn on a logarithmic axis.


class Series(NamedTuple):
    """One metric of a run. Arrays are [n]."""

    name: str
    steps: np.ndarray
    values: np.ndarray
    sparse: bool = False  # Drawn with a dot at each value, as an evaluation.


class Tick(NamedTuple):
    """A place on an axis, and what is written there."""

    at: float
    label: str


class Curve(NamedTuple):
    """A drawn series. Paths are of SVG; `faint` is what was measured where `path` is smoothed."""

    name: str
    path: str
    faint: str
    dots: list[tuple[float, float]]
    sparse: bool


class Hover(NamedTuple):
    """A column of the chart that shows its values under the pointer."""

    x: float
    width: float
    title: str


@dataclasses.dataclass(frozen=True)
class ChartDrawing:
    """All that a template needs to draw a chart. Lengths are in SVG units; y grows downwards."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Curve]
    marks: list[Tick]
    level: Tick | None
    hovers: list[Hover]


class Axis(NamedTuple):
    """A map from values low .. high to places start .. end."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def place(self, values: np.ndarray) -> np.ndarray:
        """Where values lie, in SVG units; any shape."""
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        scaled = np.log10(values) if self.log else values
        return self.start + (scaled - low) / (high - low) * (self.end - self.start)


def draw(
    series: Sequence[Series], *, width: float, height: float, marks: Sequence[Tick] = (), level: Tick | None = None
) -> ChartDrawing | None:
    """The chart of some series over the steps; None if no value is finite.

    Args:
      marks: steps to mark by a vertical line.
      level: a value to mark by a horizontal line.
    """
    finite = [each.values[np.isfinite(each.values)] for each in series]
    values = np.concatenate([*finite, [level.at] if level else []])
    if not any(map(len, finite)):
        return None
    left, right, top, bottom = 48.0, width - 10.0, 10.0, height - 24.0
    last_step = max(each.steps.max() for each in series)
    x_axis = Axis(0.0, float(max(last_step, 1)), left, right, log=False)
    log = values.min() > 0 and values.max() > LOG_RATIO * np.median(values)
    y_axis = Axis(*value_range(values, log), bottom, top, log=bool(log))

    def tick(axis: Axis, value: float, label: str) -> Tick:
        return Tick(round(float(axis.place(np.array(value))), 1), label)

    x_ticks = ticks(x_axis, 8 if width > 600 else 5)
    return ChartDrawing(
        width=width, height=height, left=left, right=right, top=top, bottom=bottom,
        x_ticks=[tick(x_axis, value, short_label(value)) for value in x_ticks],
        y_ticks=[tick(y_axis, value, short_label(value)) for value in ticks(y_axis, 5)],
        lines=[_line(each, x_axis, y_axis) for each in series],
        marks=[tick(x_axis, mark.at, mark.label) for mark in marks],
        level=level and tick(y_axis, level.at, level.label),
        hovers=_hovers(series, x_axis),
    )  # fmt: skip


def value_range(values: np.ndarray, log: bool) -> tuple[float, float]:
    """The ends of the axis of some values, a little beyond them; never of length zero."""
    low, high = float(values.min()), float(values.max())
    if log:
        return low / 1.15, high * 1.15
    margin = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
    # Values that come near zero are seen against zero.
    return (0.0 if 0 <= low < 0.25 * high else low - margin), high + margin


def ticks(axis: Axis, wanted: int) -> list[float]:
    """About `wanted` round values (1, 2 or 5 times a power of ten) on the axis."""
    if axis.log:
        decades = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
        factors = (1,) if len(decades) > 4 else (1, 3)
        values = [factor * 10.0**decade for decade in decades for factor in factors]
        return [value for value in values if axis.low <= value <= axis.high]
    rough = (axis.high - axis.low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    interval = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(axis.low / interval - 1e-9), math.floor(axis.high / interval + 1e-9)
    return [index * interval for index in range(first, last + 1)]


def short_label(value: float) -> str:
    """A round value on an axis: 0.002, 500, 1.5k, 20k, 1M."""
    for limit, unit in ((1e9, 'B'), (1e6, 'M'), (1e3, 'k')):
        if abs(value) >= limit:
            return f'{value / limit:.4g}{unit}'
    return f'{value:.4g}'


def thin(steps: np.ndarray, values: np.ndarray, buckets: int = BUCKETS) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and highest value of each of `buckets` parts, and the ends; all, if there are few. [n] -> [m] each."""
    if len(steps) <= 2 * buckets:
        return steps, values
    kept = {0, len(steps) - 1}
    for part in np.array_split(np.arange(len(steps)), buckets):
        inside = part[np.isfinite(values[part])]
        # A part without any finite value leaves a gap in the curve.
        kept.update((inside[values[inside].argmin()], inside[values[inside].argmax()]) if len(inside) else (part[0],))
    indices = np.array(sorted(kept))
    return steps[indices], values[indices]


def smooth(values: np.ndarray, *, window: int, points: int = 2 * BUCKETS) -> tuple[np.ndarray, np.ndarray]:
    """Medians in windows, which a spike does not move, at up to `points` places: their indices and values, [m] each.

    Args:
      values: [n]; what is not finite is left out.
      window: shrinks towards the ends, so that these are not pulled inwards.
    """
    indices = np.unique(np.linspace(0, len(values) - 1, points).round().astype(int))
    halves = np.minimum(np.minimum(indices, len(values) - 1 - indices), window // 2)
    parts = [values[index - half : index + half + 1] for index, half in zip(indices, halves)]
    finite = [part[np.isfinite(part)] for part in parts]
    return indices, np.array([np.median(part) if len(part) else np.nan for part in finite])


def _line(series: Series, x_axis: Axis, y_axis: Axis) -> Curve:
    steps, values = thin(series.steps, series.values)
    x, y = x_axis.place(steps.astype(float)), y_axis.place(values)
    measured = svg_path(x, y)
    if series.sparse:
        dots = [(round(column, 1), round(row, 1)) for column, row in zip(x.tolist(), y.tolist()) if math.isfinite(row)]
        return Curve(series.name, measured, '', dots, True)
    window = len(series.values) // 30
    if window < 3:
        return Curve(series.name, measured, '', [], False)
    indices, medians = smooth(series.values, window=window)
    smoothed = svg_path(x_axis.place(series.steps[indices].astype(float)), y_axis.place(medians))
    return Curve(series.name, smoothed, measured, [], False)


def svg_path(x: np.ndarray, y: np.ndarray) -> str:
    """The path through the points, [n] each; broken where y is not finite. A lone point becomes a short dash."""
    parts, pen_down = [], False
    for column, row in zip(x, y):
        if not math.isfinite(row):
            pen_down = False
            continue
        parts.append(f'{"L" if pen_down else "M"}{column:.1f} {row:.1f}')
        pen_down = True
    return ''.join(parts) + ('h1' if len(parts) == 1 else '')


def _hovers(series: Sequence[Series], x_axis: Axis) -> list[Hover]:
    """Columns over the chart that tell the value of each series nearest to their middle."""
    densest = max(series, key=lambda each: len(each.steps))
    middles = densest.steps[np.unique(np.linspace(0, len(densest.steps) - 1, HOVERS).round().astype(int))]
    places = x_axis.place(middles.astype(float))
    edges = np.concatenate([places[:1], (places[1:] + places[:-1]) / 2, places[-1:]])
    hovers = []
    for index, step in enumerate(middles):
        near = [(each, int(np.abs(each.steps - step).argmin())) for each in series]
        texts = [f'{each.name} {each.values[i]:.4g} at step {each.steps[i]:,}' for each, i in near]
        width = round(max(edges[index + 1] - edges[index], 1.0), 1)
        hovers.append(Hover(round(float(edges[index]), 1), width, '\n'.join(texts)))
    return hovers
