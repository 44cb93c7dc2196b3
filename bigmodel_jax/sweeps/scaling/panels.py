"""Panels of lines and points on logarithmic axes, as one SVG file."""

import html
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bigmodel_jax.report import curves

WIDTH, HEIGHT, GAP = 380, 300, 16  # Of a panel, in SVG units.
MARGINS = (56, 14, 30, 40)  # Left, right, top and bottom, within a panel.
COLOURS = ('#4269d0', '#ff725c', '#3ca951', '#a463f2', '#efb118', '#6cc5b0', '#9c6b4e', '#97bbf5', '#ff8ab7', '#9498a0')
LEGEND_LINE = 15
LEGEND_SHARE = 0.075  # Of the axis, for each line of the legend: it stands above the curves.


class LogLine(NamedTuple):
    """Points [n] that belong together. `name` stands in the legend; '' for none."""

    name: str
    x: np.ndarray
    y: np.ndarray
    colour: int = 0  # Of COLOURS.
    joined: bool = True  # By a line; otherwise the points alone are drawn.
    dotted: bool = True  # With a dot at each point.


class LogPanel(NamedTuple):
    """One chart. Values that are not positive and finite are left out."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[LogLine]
    level_x: float | None = None  # A vertical dashed line.


def svg(panels: Sequence[LogPanel], *, columns: int = 2) -> str:
    """The panels in rows of `columns`, as the text of an SVG file."""
    rows = -(-len(panels) // columns)
    columns = min(columns, len(panels))
    width, height = columns * (WIDTH + GAP), rows * (HEIGHT + GAP)
    drawn = [
        f'<g transform="translate({index % columns * (WIDTH + GAP)} {index // columns * (HEIGHT + GAP)})">'
        f'{_panel(panel)}</g>'
        for index, panel in enumerate(panels)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="11" fill="#222">'
        f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(drawn)}</svg>\n'
    )


def _panel(panel: LogPanel) -> str:
    left, right, top, bottom = MARGINS[0], WIDTH - MARGINS[1], MARGINS[2], HEIGHT - MARGINS[3]
    lines = [_positive(line) for line in panel.lines]
    level = [] if panel.level_x is None else [np.array([panel.level_x])]
    x_axis = _axis(np.concatenate([*(line.x for line in lines), *level]), left, right)
    named = [line for line in lines if line.name]
    y_axis = _axis(np.concatenate([line.y for line in lines]), bottom, top, above=LEGEND_SHARE * len(named))
    parts = [
        f'<text x="{left}" y="18" font-weight="600" font-size="12">{html.escape(panel.title)}</text>',
        *(_x_tick(x_axis, value, top, bottom) for value in _ticks(x_axis)),
        *(_y_tick(y_axis, value, left, right) for value in _ticks(y_axis)),
        f'<text x="{(left + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(panel.x_label)}</text>',
        f'<text transform="translate(12 {(top + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        f'{html.escape(panel.y_label)}</text>',
    ]
    if panel.level_x is not None:
        place = float(x_axis.place(np.array(panel.level_x)))
        parts.append(f'<path d="M{place:.1f} {top}V{bottom}" stroke="#555" stroke-dasharray="4 3"/>')
    parts += [_line(line, x_axis, y_axis) for line in lines]
    parts += [_legend(line, left + 8, top + 12 + LEGEND_LINE * index) for index, line in enumerate(named)]
    return ''.join(parts)


def _positive(line: LogLine) -> LogLine:
    kept = np.isfinite(line.x) & np.isfinite(line.y) & (line.x > 0) & (line.y > 0)
    return line._replace(x=line.x[kept], y=line.y[kept])


def _axis(values: np.ndarray, start: float, end: float, *, above: float = 0.0) -> curves.Axis:
    """A logarithmic axis a little longer than the values, and longer by a share `above` of itself at its end."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (1.0, 10.0)
    margin = max((high / low) ** 0.06, 1.02)
    low, high = low / margin, high * margin
    return curves.Axis(low, high * (high / low) ** (above / (1 - above)), start, end, log=True)


def _ticks(axis: curves.Axis) -> list[float]:
    """Round values on a logarithmic axis, which may be shorter than a decade."""
    found = curves.ticks(axis, 5)
    if len(found) >= 3:
        # Twenty decades have as many ticks; every second, third ... is written.
        return found[:: -(-len(found) // 8)]
    return curves.ticks(axis._replace(log=False), 4)


def _label(value: float) -> str:
    if 1e-3 <= value < 1e12:
        return curves.short_label(value)
    mantissa, exponent = f'{value:.0e}'.split('e')
    return f'{mantissa}e{int(exponent)}'


def _x_tick(axis: curves.Axis, value: float, top: float, bottom: float) -> str:
    place = float(axis.place(np.array(value)))
    return (
        f'<path d="M{place:.1f} {top}V{bottom}" stroke="#e4e4e4"/>'
        f'<text x="{place:.1f}" y="{bottom + 14}" text-anchor="middle">{_label(value)}</text>'
    )


def _y_tick(axis: curves.Axis, value: float, left: float, right: float) -> str:
    place = float(axis.place(np.array(value)))
    return (
        f'<path d="M{left} {place:.1f}H{right}" stroke="#e4e4e4"/>'
        f'<text x="{left - 5}" y="{place + 4:.1f}" text-anchor="end">{_label(value)}</text>'
    )


def _line(line: LogLine, x_axis: curves.Axis, y_axis: curves.Axis) -> str:
    colour = COLOURS[line.colour % len(COLOURS)]
    x, y = x_axis.place(line.x), y_axis.place(line.y)
    dots = [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.6" fill="{colour}"/>' for a, b in zip(x, y)]
    path = f'<path d="{curves.svg_path(x, y)}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
    return path * line.joined + ''.join(dots) * line.dotted


def _legend(line: LogLine, x: float, y: float) -> str:
    colour = COLOURS[line.colour % len(COLOURS)]
    return (
        f'<rect x="{x}" y="{y - 5}" width="14" height="3" fill="{colour}"/>'
        f'<text x="{x + 19}" y="{y}">{html.escape(line.name)}</text>'
    )
