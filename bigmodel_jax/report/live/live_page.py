"""The live page and its parts as HTML: what the server sends, and what --write puts into one file. No JAX."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from etils import epath

from bigmodel_jax import config, tree
from bigmodel_jax.evaluate import artifacts
from bigmodel_jax.report import artifact_views, figures, pages, sections
from bigmodel_jax.report.live import choice as choices
from bigmodel_jax.report.live import overview
from bigmodel_jax.report.live.choice import LiveChoice
from bigmodel_jax.report.live.live_run import LiveRun
from bigmodel_jax.report.live.live_runs import LiveRuns
from bigmodel_jax.runs import directory

TEMPLATES = pathlib.Path(__file__).parent / 'templates'


@functools.cache
def environment() -> jinja2.Environment:
    """The templates, which share those of the report, its style and its escaping."""
    shared = pages.environment()
    assert shared.loader is not None
    return shared.overlay(loader=jinja2.ChoiceLoader([jinja2.FileSystemLoader(TEMPLATES), shared.loader]))


def _render(template: str, **values: Any) -> str:
    return environment().get_template(template).render(**values)


def style() -> str:
    """The style sheet."""
    return _render('report.css') + _render('live.css')


def script() -> str:
    return (TEMPLATES / 'live.js').read_text()


# ---- many runs ------------------------------------------------------------------------------------------------------


def overview_page(runs: LiveRuns, choice: LiveChoice) -> str:
    """The page on many runs, whose charts and table a script fetches."""
    known = overview.metric_names(runs.runs)
    return _render(
        'live.html',
        title=_title(runs),
        run=None,
        choice=choice,
        smoothings=list(choices.SMOOTHINGS),
        metrics=known,
        shown=set(overview.shown_metrics(runs.runs, choice)),
        revision=runs.revision,
    )


def _title(runs: LiveRuns) -> str:
    return ', '.join(runs.roots)


def table(runs: LiveRuns, choice: LiveChoice) -> str:
    """The table of the runs, their differences, and their warnings."""
    return _render('live_table.html', choice=choice, **overview.table(runs, overview.chosen(runs, choice)))


def charts(runs: LiveRuns, choice: LiveChoice) -> list[str]:
    """The names of the charts that are shown: metrics in full."""
    return overview.shown_metrics(overview.chosen(runs, choice), choice)


def chart(runs: LiveRuns, choice: LiveChoice, metric: str) -> str:
    """A metric of every chosen run."""
    compared = overview.compared(overview.chosen(runs, choice))
    return _chart(metric, figures.compared(compared, metric, choice.view))


def _chart(name: str, found: figures.TitledChart | None) -> str:
    return _render('live_chart.html', name=name, figure=found)


def values(runs: LiveRuns, choice: LiveChoice, metric: str, at: overview.PointerPlace) -> str:
    """The values of many runs near the pointer."""
    return _values(overview.pointed(overview.chosen(runs, choice), metric, at))


def run_values(run: LiveRun, name: str, at: overview.PointerPlace) -> str:
    """The values of one run at the pointer."""
    return _values(overview.pointed_of_run(run, name, at))


def _values(found: Sequence[overview.PointedValue]) -> str:
    return _render('live_values.html', values=found, nearest=min(found, key=lambda each: each.distance, default=None))


def written(runs: LiveRuns, choice: LiveChoice) -> str:
    """The page on many runs as one file without a script or a server."""
    picked = overview.compared(overview.chosen(runs, choice))
    names = overview.shown_metrics([run for run in runs.runs if any(run.key == each.key for each in picked)], choice)
    large = figures.ChartView(figures.LARGE, choice.axes, choices.SMOOTHINGS[choice.smoothing])
    drawn = [figures.compared(picked, name, large) for name in names]
    return _render(
        'live_written.html',
        title=_title(runs),
        figures=[each for each in drawn if each is not None],
        choice=choice,
        **overview.table(runs, overview.chosen(runs, choice)),
    )


# ---- one run --------------------------------------------------------------------------------------------------------


def run_page(runs: LiveRuns, run: LiveRun, choice: LiveChoice) -> str:
    """The page on one run."""
    return _render(
        'live.html',
        title=run.name,
        run=run,
        alone=runs.is_one_run,
        choice=choice,
        smoothings=list(choices.SMOOTHINGS),
        revision=runs.revision,
    )


def run_charts(run: LiveRun) -> list[str]:
    """The names of the charts of a run: metrics without the evaluation, and the shares of the time."""
    first = ['loss'] if any(name.rpartition('/')[2] == 'loss' for name in run.metric_names) else []
    return [*first, *figures.names(run), *([figures.TIME_SHARES] if run.tail.shares else [])]


def run_chart(run: LiveRun, choice: LiveChoice, name: str) -> str:
    """A metric of training and of evaluations, or where the time went."""
    if name == figures.TIME_SHARES:
        return _chart(name, figures.time_shares(run, choice.view))
    return _chart(name, figures.of_run(run, name, choice.view))


def run_header(path: epath.Path) -> str:
    """Where a run stands."""
    return _render('run_header.html', **sections.header(directory.Run(path)))


def run_details(run: LiveRun) -> str:
    """Everything else that the report says of a run, without the claims of its paper, which need its own code."""

    def address(entry: Mapping[str, Any], _: artifacts.Image | artifacts.Audio) -> str:
        return f'/artifacts/{run.key}/{pathlib.PurePosixPath(entry["file"]).name}'

    opened = directory.Run(run.path)
    rows = list(tree.stored_rows(opened.stored))
    return _render('run_details.html', **sections.details(opened, rows, address))


def artifact(run: LiveRun, name: str) -> tuple[bytes, str]:
    """The content of an artifact's file, and its media type.

    Raises:
      InputError: no record names such a file, or it is not as it was written.
    """
    for group in reversed(directory.Run(run.path).artifacts):
        for entry in group.entries:
            if entry.get('file') == f'artifacts/{name}':
                found = directory.Run(run.path).load(entry)
                return _content(found)
    raise config.InputError(f'The run has no artifact {name!r}.')


def _content(found: artifacts.Artifact) -> tuple[bytes, str]:
    if not isinstance(found, artifacts.Image | artifacts.Audio):
        raise config.InputError('This artifact has no file.')
    return found.content, artifact_views.MEDIA[found.suffix]
