"""The geometry of a matrix drawn as shades, as numbers that templates/artifacts.html draws. Pure Python."""

from collections.abc import Sequence
from typing import NamedTuple

from bigmodel_jax.evaluate import artifacts

CELL, MARGIN = 26.0, 6.0  # SVG units: a value, and the space around the matrix.
LABEL_CHARACTERS, CHARACTER = 24, 7.0  # Of the longest label, and the width of one in SVG units.


class Label(NamedTuple):
    """What stands beside a row or above a column."""

    at: float
    text: str


class Cell(NamedTuple):
    """A value. `shade` is between 0 and 1."""

    x: float
    y: float
    shade: float
    title: str


class HeatmapDrawing(NamedTuple):
    """All that a template needs to draw a matrix. Lengths are in SVG units."""

    title: str
    width: float
    height: float
    label: float
    size: float
    rows: list[Label]
    columns: list[Label]
    cells: list[Cell]


def draw(heatmap: artifacts.Heatmap) -> HeatmapDrawing:
    """The drawing of a matrix: a row for each of its rows, from the top."""
    longest = max((len(_short(each)) for each in (*heatmap.rows, *heatmap.columns)), default=0)
    label = 2 * MARGIN + longest * CHARACTER
    rows, columns = _labels(heatmap.rows, label), _labels(heatmap.columns, label)
    cells = [
        Cell(label + x * CELL, label + y * CELL, _shade(value), f'{_at(rows, y)}, {_at(columns, x)}: {value:.3f}')
        for y, row in enumerate(heatmap.values)
        for x, value in enumerate(row)
    ]
    width = label + max(map(len, heatmap.values), default=0) * CELL + MARGIN
    return HeatmapDrawing(
        heatmap.title, width, label + len(heatmap.values) * CELL + MARGIN, label, CELL, rows, columns, cells
    )


def _shade(value: float) -> float:
    """A value as a shade; what is no number is white."""
    return round(min(max(value, 0.0), 1.0), 3) if value == value else 0.0


def _labels(texts: Sequence[str], start: float) -> list[Label]:
    return [Label(start + i * CELL, _short(text)) for i, text in enumerate(texts)]


def _at(labels: Sequence[Label], number: int) -> str:
    return labels[number].text if number < len(labels) else str(number)


def _short(text: str) -> str:
    return text if len(text) <= LABEL_CHARACTERS else f'{text[: LABEL_CHARACTERS - 1]}\N{HORIZONTAL ELLIPSIS}'
