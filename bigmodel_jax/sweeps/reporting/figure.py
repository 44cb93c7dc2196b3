"""figure.svg: the effects of a sweep and its curves as one picture, for a paper, a README or slides."""

from typing import NamedTuple

from bigmodel_jax.sweeps.reporting import drawings, effects, page
from bigmodel_jax.sweeps.reporting.answer import SweepAnswer

WIDTH, HEIGHT = 920.0, 300.0
HEADING = 34.0  # Above each panel.
MARGIN, ROW = 4.0, 18.0  # Left of a legend, and the height of its rows.
SWATCH = 54.0  # Of a legend's entry, without its name.


class LegendEntry(NamedTuple):
    """A line of the chart, by its style; `x` and `y` say where, from the legend's corner."""

    name: str
    style: int
    x: float
    y: float


class FigurePanel(NamedTuple):
    """A chart in the picture, `y` below its upper edge."""

    title: str
    y: float
    chart: drawings.ForestDrawing | drawings.LinesDrawing
    is_forest: bool
    legend: tuple[LegendEntry, ...] = ()


def render(answer: SweepAnswer) -> str:
    """The picture; of a sweep that has measured nothing, an empty one."""
    about, panels, y = answer.about, [], HEADING
    title = f'difference of {about.metric} from {about.baseline}'
    forest = drawings.forest(effects.of_arms(answer), answer, title=title, width=WIDTH, narrow=False)
    unfinished = '' if answer.complete else f' ({answer.state})'
    if forest is not None:
        panels.append(FigurePanel(f'Effects with 95% intervals{unfinished}', y, forest, is_forest=True))
        y += forest.frame.height + HEADING + 8
    lines = drawings.bands(answer, width=WIDTH, height=HEIGHT)
    if lines is not None:
        legend = _legend(lines)
        y += legend[-1].y + ROW
        panels.append(FigurePanel(f'{about.metric}, mean and 95% band', y, lines, is_forest=False, legend=legend))
        y += HEIGHT
    template = page.environment().get_template('figure.svg')
    return template.render(answer=answer, panels=panels, width=WIDTH, height=y)


def _legend(lines: drawings.LinesDrawing) -> tuple[LegendEntry, ...]:
    """The entries in rows that fit the width."""
    entries, x, row = [], MARGIN, 0
    for line in lines.lines:
        width = SWATCH + drawings.CHARACTER * len(line.name)
        if x + width > WIDTH and x > MARGIN:
            x, row = MARGIN, row + 1
        entries.append(LegendEntry(line.name, line.style, round(x, 1), row * ROW))
        x += width
    return tuple(entries)
