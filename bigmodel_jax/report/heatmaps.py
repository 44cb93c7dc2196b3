"""The geometry of attention maps, as numbers that templates/maps.html draws. Pure NumPy.

A label shows the piece of text and the id of the token, and each character its code point: where the reader's machine
has no font for the writing, these can still be read.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

CELL, MARGIN, LABEL = 26.0, 6.0, 96.0  # SVG units: a weight, the space around the map, the room for labels.
END = '(end)'
SPACE = '\N{OPEN BOX}'  # What a space at the edge of a piece is shown as.


class Label(NamedTuple):
    """A token beside its row or above its column."""

    at: float
    piece: str
    token: int


class Cell(NamedTuple):
    """A weight. `shade` is between 0 and 1."""

    x: float
    y: float
    shade: float
    title: str


class Heatmap(NamedTuple):
    """All that a template needs to draw how a target looked at its source. Lengths are in SVG units."""

    title: str
    width: float
    height: float
    label: float
    size: float
    rows: list[Label]
    columns: list[Label]
    cells: list[Cell]


class Followed(NamedTuple):
    """One sentence on its way: characters, tokens, attention, text."""

    prompt: str
    characters: list[tuple[str, str]]  # Each with its code point: ('\u6211', 'U+6211').
    text: str
    source: list[Label]
    target: list[Label]
    layers: list[Heatmap]  # The mean of the heads of each layer.
    heads: list[Heatmap]  # Each head of each layer.


def followed(records: Sequence[Mapping[str, Any]]) -> Iterator[Followed]:
    """The sentences of one record 'maps'; see evaluate/text/maps.py."""
    for record in records:
        weights_LHTS = np.array(record['weights'])
        source, target = record['source'], record['target']
        layers = [
            draw(weights_TS, source, target, title=f'layer {layer}, mean of {weights_LHTS.shape[1]} heads')
            for layer, weights_TS in enumerate(weights_LHTS.mean(axis=1), 1)
        ]
        heads = [
            draw(weights_TS, source, target, title=f'layer {layer}, head {head}')
            for layer, weights_HTS in enumerate(weights_LHTS, 1)
            for head, weights_TS in enumerate(weights_HTS, 1)
        ]
        characters = [(character, f'U+{ord(character):04X}') for character in record['prompt']]
        yield Followed(record['prompt'], characters, record['text'], _labels(source), _labels(target), layers, heads)


def draw(
    weights_TS: np.ndarray, source: Sequence[Mapping[str, Any]], target: Sequence[Mapping[str, Any]], *, title: str
) -> Heatmap:
    """The map of one layer or head: a row for each token of the target, a column for each of the source.

    Args:
      weights_TS: between 0 and 1.
      source, target: of each token 'id' and 'piece'.
    """
    columns, rows = _labels(source), _labels(target)
    cells = [
        Cell(column.at, row.at, round(float(weight), 3), f'{row.piece} looks at {column.piece}: {weight:.3f}')
        for row, weights_S in zip(rows, weights_TS)
        for column, weight in zip(columns, weights_S)
    ]
    T, S = weights_TS.shape
    return Heatmap(title, LABEL + S * CELL + MARGIN, LABEL + T * CELL + MARGIN, LABEL, CELL, rows, columns, cells)


def _labels(tokens: Sequence[Mapping[str, Any]]) -> list[Label]:
    return [Label(LABEL + i * CELL, shown(token['piece']), token['id']) for i, token in enumerate(tokens)]


def shown(piece: str) -> str:
    """A piece of text with the spaces at its edges made visible; the end token stands for no text."""
    inside = piece.strip(' ')
    before = len(piece) - len(piece.lstrip(' '))
    return SPACE * before + inside + SPACE * (len(piece) - before - len(inside)) if piece else END
