"""Artifacts on a terminal."""

from collections.abc import Sequence

import numpy as np
from rich import text

from bigmodel_jax.evaluate import artifacts, encodings

WIDTH = 64  # Characters of a picture or a chart.
BARS = ' ▁▂▃▄▅▆▇█'
SHADES = ' ░▒▓█'


def render(artifact: artifacts.Artifact) -> text.Text:
    """An artifact for a rich console: text and tables as they are, pictures as coloured blocks, charts as bars."""
    shown = text.Text()
    match artifact:
        case artifacts.Text():
            _title(shown, artifact.title)
            shown.append(artifact.prompt, style='bold')
            shown.append(f'{chr(10) if artifact.reference else ""}{artifact.text}')
            if artifact.reference:
                shown.append(f'\n{artifact.reference}', style='dim')
        case artifacts.Table():
            _title(shown, artifact.title)
            shown.append(_table([artifact.columns, *artifact.rows]))
        case artifacts.Image():
            _title(shown, f'{artifact.title or "image"} ({artifact.width} x {artifact.height} pixels)')
            pixels_YXZ = encodings.pixels_in(artifact.content)
            if pixels_YXZ is not None:
                _blocks(shown, pixels_YXZ)
        case artifacts.Audio():
            shown.append(f'{artifact.title or "audio"}: {artifact.seconds:.1f} s, {artifact.rate_hz:,} Hz')
        case artifacts.Figure():
            _title(shown, artifact.title)
            for panel in artifact.panels:
                _panel(shown, panel)
    return shown


def _title(shown: text.Text, title: str) -> None:
    if title:
        shown.append(f'{title}\n', style='dim')


def _table(rows: Sequence[Sequence[artifacts.Cell]]) -> str:
    cells = [[f'{cell:.4g}' if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return '\n'.join('  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells)


def _blocks(shown: text.Text, pixels_YXZ: np.ndarray) -> None:
    """A picture as shades, in its colours where the terminal has them; thinned to WIDTH columns."""
    every = -(-pixels_YXZ.shape[1] // WIDTH)
    # A character is twice as high as wide, so every second row is left out.
    rgb_YXZ = np.broadcast_to(pixels_YXZ[..., :3], (*pixels_YXZ.shape[:2], 3))[:: 2 * every, ::every]
    for row_XZ in rgb_YXZ.tolist():
        for red, green, blue in row_XZ:
            shade = _at((red + green + blue) / 3, 0, 255, SHADES)
            shown.append(shade, style=f'#{red:02x}{green:02x}{blue:02x}')
        shown.append('\n')


def _panel(shown: text.Text, panel: artifacts.Chart | artifacts.Heatmap) -> None:
    _title(shown, panel.title)
    if isinstance(panel, artifacts.Heatmap):
        labels = [*panel.rows, *[''] * (len(panel.values) - len(panel.rows))]
        longest = max(map(len, labels), default=0)
        for label, row in zip(labels, panel.values):
            shown.append(f'{label.rjust(longest)} {"".join(2 * _at(value, 0.0, 1.0, SHADES) for value in row)}\n')
        return
    for line in panel.lines:
        finite = [value for value in line.y if np.isfinite(value)]
        if finite:
            every = -(-len(line.y) // WIDTH)
            bars = ''.join(_at(value, min(finite), max(finite), BARS) for value in line.y[::every])
            shown.append(f'{line.name} {min(finite):.4g} to {max(finite):.4g}  {bars}\n')


def _at(value: float, low: float, high: float, scale: str) -> str:
    """The character of a scale that stands for a value; what is no number is a blank."""
    if not np.isfinite(value):
        return ' '
    share = (value - low) / (high - low) if high > low else 1.0
    return scale[round(min(max(share, 0.0), 1.0) * (len(scale) - 1))]
