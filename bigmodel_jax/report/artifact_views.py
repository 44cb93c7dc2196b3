"""Artifacts as templates/artifacts.html shows them: shortened, with figures as drawings and files as data or links."""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.evaluate import artifacts
from bigmodel_jax.report import curves, heatmaps
from bigmodel_jax.run_directory import artifact_files
from bigmodel_jax.runs import directory

# Bounds that keep the page small, whatever the run.
GROUPS, TEXT_CHARACTERS, TABLE_ROWS = 12, 3_000, 60
EMBEDDED_BYTES = 4 * 2**20  # Of all images and sounds together; those beyond it are links to the run's own files.
PANEL = (450.0, 190.0)  # Of a chart, in SVG units.
MEDIA = {'.png': 'image/png', '.wav': 'audio/wav'}


class Panel(NamedTuple):
    """A chart or a matrix of a figure, as a drawing; the other is None."""

    title: str
    chart: curves.ChartDrawing | None
    heatmap: heatmaps.HeatmapDrawing | None
    legend: tuple[tuple[str, str, str], ...] = ()  # As figures.CurveLabel.


class View(NamedTuple):
    """An artifact, and what a template needs to show it.

    Attributes:
      source: a data URI, or the path of its file within the run's directory; '' if it has no file.
      problem: a sentence in place of the artifact, where it cannot be shown.
    """

    kind: str
    title: str
    artifact: artifacts.Artifact | None
    source: str = ''
    panels: tuple[Panel, ...] = ()
    details: tuple[Panel, ...] = ()
    problem: str = ''


class Shown(NamedTuple):
    """What one evaluation showed at one step."""

    step: int
    views: list[View]


# The address of an artifact's file, given its entry and its content; None: the file is a link relative to the page.
Embed = Callable[[Mapping[str, Any], artifacts.Image | artifacts.Audio], str | None]


def embedding() -> Embed:
    """Makes data URIs of the files, as long as there is room."""
    room = EMBEDDED_BYTES

    def embed(entry: Mapping[str, Any], artifact: artifacts.Image | artifacts.Audio) -> str | None:
        nonlocal room
        if len(artifact.content) > room:
            return None
        room -= len(artifact.content)
        return f'data:{MEDIA[artifact.suffix]};base64,{base64.b64encode(artifact.content).decode()}'

    return embed


def by_evaluation(run: directory.Run, embed: Embed | None = None) -> dict[str, list[Shown]]:
    """Evaluation -> what it showed, newest first and thinned.

    Args:
      embed: gives the addresses of files; by default embedding().
    """
    embed = embedding() if embed is None else embed
    found: dict[str, list[artifact_files.ArtifactGroup]] = {}
    for group in reversed(run.artifacts):
        found.setdefault(group.name, []).append(group)
    return {
        name: [
            Shown(group.step, [_view(run, each, embed) for each in group.entries]) for group in spaced(groups, GROUPS)
        ]
        for name, groups in found.items()
    }


def spaced(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(index)] for index in np.linspace(0, len(items) - 1, most)]


def _view(run: directory.Run, entry: Mapping[str, Any], embed: Embed) -> View:
    """The view of an entry."""
    kind, title = entry['type'], entry.get('title', '')
    try:
        artifact = run.load(entry)
    except config.InputError as error:  # Damaged, missing, a symbolic link, or of another version.
        return View(kind, title, None, problem=str(error))
    if isinstance(artifact, artifacts.Figure):
        panels, details = (tuple(map(_panel, each)) for each in (artifact.panels, artifact.details))
        return View(kind, title, artifact, panels=panels, details=details)
    if isinstance(artifact, artifacts.Image | artifacts.Audio):
        return View(kind, title, artifact, source=embed(entry, artifact) or entry['file'])
    return View(kind, title, _shortened(artifact))


def _shortened(artifact: artifacts.Artifact) -> artifacts.Artifact:
    """A text or a table, cut to what a page holds."""
    if isinstance(artifact, artifacts.Text):
        texts = {name: _cut(getattr(artifact, name)) for name in ('text', 'prompt', 'reference')}
        return artifacts.Text(title=artifact.title, **texts)
    assert isinstance(artifact, artifacts.Table), artifact
    rows = tuple(tuple(_cut(str(cell)) for cell in row) for row in artifact.rows[:TABLE_ROWS])
    return artifacts.Table(title=artifact.title, columns=artifact.columns, rows=rows)


def _cut(text: str) -> str:
    # A prompt may hold halves of surrogates, which no page can.
    whole = text[:TEXT_CHARACTERS].encode(errors='replace').decode()
    return whole + ' ...' * (len(text) > TEXT_CHARACTERS)


def _panel(panel: artifacts.Chart | artifacts.Heatmap) -> Panel:
    if isinstance(panel, artifacts.Heatmap):
        return Panel(panel.title, None, heatmaps.draw(panel))
    series = list(_series(panel))
    chart = curves.draw(series, width=PANEL[0], height=PANEL[1]) if series else None
    looks = {} if chart is None else {each.name: each.look for each in chart.lines}
    return Panel(panel.title, chart, None, tuple((each.name, '', looks.get(each.name, '')) for each in series))


def _series(panel: artifacts.Chart) -> Iterator[curves.Series]:
    several = len(panel.lines) > 2  # Two are told apart by the looks of training and evaluation.
    for number, line in enumerate(panel.lines):
        if line.x and np.isfinite(line.x).all():
            color = number % curves.COLORS if several else None
            x, y = np.array(line.x), np.array(line.y, np.float64)
            yield curves.Series(line.name, x, y, sparse=number > 0, color=color)
