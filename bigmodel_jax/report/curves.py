"""The geometry of a chart: thinned curves, ticks and marks, as numbers that a template draws; NumPy alone."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bigmodel_jax.report import thinning

POINTS = 24_000  # Of all curves of a chart together, so that hundreds of them stay quick to draw.
FEWEST_BUCKETS = 30
HOVERS = 48
COLORS = 10  # In the style sheet.
FAINT = 6  # Curves; among more, what was measured is not drawn beneath what is smoothed.
LOG_RATIO = 10.0  # Positive values whose highest is this many times their median are drawn on a logarithmic axis.


class Series(NamedTuple):
    """One metric of a run. Arrays are [n]."""

    name: str
    steps: np.ndarray
    values: np.ndarray
    sparse: bool = False  # Drawn with a dot at each value, as an evaluation.
    color: int | None = None  # One of COLORS, where each curve is of another run; None: by whether it is sparse.
    key: str = ''  # What a script finds the curve by.


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
    look: str  # The classes of the style sheet.
    key: str


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
    x_axis: 'Axis'
    y_axis: 'Axis'
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Curve]
    marks: list[Tick]
    level: Tick | None
    hovers: list[Hover]

    @property
    def left(self) -> float:
        return self.x_axis.start

    @property
    def right(self) -> float:
        return self.x_axis.end

    @property
    def top(self) -> float:
        return self.y_axis.end

    @property
    def bottom(self) -> float:
        return self.y_axis.start


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


class Span(NamedTuple):
    """Where an axis starts and ends, in SVG units."""

    start: float
    end: float


class Fineness(NamedTuple):
    """How finely curves are drawn: parts of each, how it is smoothed, and whether what was measured is shown too."""

    buckets: int
    smoother: thinning.Smoother
    faint: bool


@dataclasses.dataclass(frozen=True)
class Axes:
    """What a person chose of the axes.

    Attributes:
      log_y: None: where most of the positive values would lie at the bottom otherwise.
      first: the steps from here ...
      last: ... to here; None: all.
    """

    log_x: bool = False
    log_y: bool | None = None
    first: float | None = None
    last: float | None = None

    @property
    def zoomed(self) -> bool:
        return self.first is not None or self.last is not None


def draw(
    series: Sequence[Series],
    *,
    width: float,
    height: float,
    marks: Sequence[Tick] = (),
    level: Tick | None = None,
    axes: Axes = Axes(),
    smoother: thinning.Smoother | None = None,
    hovers: int = HOVERS,
) -> ChartDrawing | None:
    """The chart of some series over the steps; None if nothing of them can be drawn, as no value is finite.

    Args:
      marks: steps to mark by a vertical line.
      level: a value to mark by a horizontal line.
      smoother: of the series that are not sparse; by default thinning.medians().
      hovers: columns that tell the values; 0 for none.
    """
    drawn = [each for each in (_drawable(each, axes) for each in series) if each is not None]
    if not drawn:
        return None
    steps = np.array([end for each in drawn for end in (each.steps.min(), each.steps.max())])
    first = float(steps.min()) if axes.log_x or axes.zoomed else 0.0
    x_axis = Axis(first, max(float(steps.max()), first + 1), 48.0, width - 16.0, log=axes.log_x)
    y_axis = _y_axis(drawn, level, axes, Span(height - 24.0, 10.0))

    def tick(axis: Axis, value: float, label: str) -> Tick:
        return Tick(round(float(axis.place(np.array(value))), 1), label)

    def inside(value: float, axis: Axis) -> bool:
        return axis.low <= value <= axis.high

    buckets = max(min(thinning.BUCKETS, POINTS // (2 * len(drawn))), FEWEST_BUCKETS)
    smooth_by = (
        functools.partial(thinning.medians, points=2 * buckets if len(drawn) <= FAINT else buckets)
        if smoother is None
        else smoother
    )
    return ChartDrawing(
        width=width, height=height, x_axis=x_axis, y_axis=y_axis,
        x_ticks=[tick(x_axis, value, short_label(value)) for value in ticks(x_axis, 8 if width > 600 else 5)],
        y_ticks=[tick(y_axis, value, short_label(value)) for value in ticks(y_axis, 5)],
        lines=[_line(each, x_axis, y_axis, Fineness(buckets, smooth_by, len(drawn) <= FAINT)) for each in drawn],
        marks=[tick(x_axis, mark.at, mark.label) for mark in marks if inside(mark.at, x_axis)],
        level=level and tick(y_axis, level.at, level.label) if level and inside(level.at, y_axis) else None,
        hovers=_hovers(drawn, x_axis, hovers) if hovers else [],
    )  # fmt: skip


def _drawable(series: Series, axes: Axes) -> Series | None:
    """What the axes can show of a series: within the zoom, and above zero on a logarithmic axis; None if nothing is."""
    steps, values = series.steps, np.asarray(series.values, np.float64)
    kept = np.isfinite(steps)
    if axes.log_x:
        kept &= steps > 0
    if axes.first is not None:
        kept &= steps >= axes.first
    if axes.last is not None:
        kept &= steps <= axes.last
    if axes.log_y:
        values = np.where(values > 0, values, np.nan)
    if not kept.all():
        steps, values = steps[kept], values[kept]
    return series._replace(steps=steps, values=values) if np.isfinite(values).any() else None


def _y_axis(series: Sequence[Series], level: Tick | None, axes: Axes, place: Span) -> Axis:
    values = np.concatenate([each.values[np.isfinite(each.values)] for each in series])
    log = axes.log_y
    if level and (log is not True or level.at > 0):
        values = np.append(values, level.at)
    if log is None:
        log = bool(values.min() > 0 and values.max() > LOG_RATIO * np.median(values))
    return Axis(*value_range(values, log), place.start, place.end, log=log)


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
    if axis.log and axis.high > 10 * axis.low:
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


def _line(series: Series, x_axis: Axis, y_axis: Axis, fineness: Fineness) -> Curve:
    def path(steps: np.ndarray, values: np.ndarray) -> str:
        thinned = thinning.thin(steps, values, fineness.buckets)
        return svg_path(x_axis.place(thinned[0].astype(float)), y_axis.place(thinned[1]))

    name, key = series.name, series.key
    look = f'color{series.color}' if series.color is not None else 'evaluation' if series.sparse else 'training'
    if series.sparse:
        steps, values = thinning.thin(series.steps, series.values, fineness.buckets)
        pairs = zip(x_axis.place(steps.astype(float)).tolist(), y_axis.place(values).tolist())
        dots = [(round(column, 1), round(row, 1)) for column, row in pairs if math.isfinite(row)]
        return Curve(name, path(series.steps, series.values), '', dots, look, key)
    smoothed = fineness.smoother(series.values)
    if smoothed is None:
        return Curve(name, path(series.steps, series.values), '', [], look, key)
    faint = path(series.steps, series.values) if fineness.faint else ''
    return Curve(name, path(series.steps[smoothed[0]], smoothed[1]), faint, [], look, key)


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


def _hovers(series: Sequence[Series], x_axis: Axis, count: int) -> list[Hover]:
    """Columns over the chart that tell the value of each series nearest to their middle."""
    densest = max(series, key=lambda each: len(each.steps))
    middles = densest.steps[np.unique(np.linspace(0, len(densest.steps) - 1, count).round().astype(int))]
    places = x_axis.place(middles.astype(float))
    edges = np.concatenate([places[:1], (places[1:] + places[:-1]) / 2, places[-1:]])
    hovers = []
    for index, step in enumerate(middles):
        near = [(each, int(np.abs(each.steps - step).argmin())) for each in series]
        texts = [f'{each.name} {each.values[i]:.4g} at step {each.steps[i]:,}' for each, i in near]
        width = round(max(edges[index + 1] - edges[index], 1.0), 1)
        hovers.append(Hover(round(float(edges[index]), 1), width, '\n'.join(texts)))
    return hovers
