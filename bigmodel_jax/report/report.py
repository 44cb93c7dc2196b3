"""report.html: one self-contained page on a run; no script, nothing loaded from elsewhere, light and dark."""

import functools
import pathlib
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
from etils import epath

from bigmodel_jax import config, tree
from bigmodel_jax.console import quantities
from bigmodel_jax.evaluate import metric as metrics
from bigmodel_jax.evaluate.text import unigram as unigram_lib
from bigmodel_jax.papers import claims_screen, judge
from bigmodel_jax.report import artifact_views, curves, next_commands
from bigmodel_jax.runs import directory, goodput
from bigmodel_jax.storage import durable_files
from bigmodel_jax.train.monitoring import progress

FILE = 'report.html'
LARGE_CHART, SMALL_CHART = (920.0, 330.0), (450.0, 190.0)
# What follows from another metric, or from the clock alone, gets no chart.
WITHOUT_CHART = ('loss', 'perplexity', 'seconds_per_step')
TITLES = {'grad_norm': 'Gradient norm', 'nll': 'Negative log-likelihood', 'bleu': 'BLEU'}
ARROWS = {'lower': '\N{DOWNWARDS ARROW}', 'higher': '\N{UPWARDS ARROW}'}  # In which direction a metric is better.
# Bounds that keep the page small, whatever the run.
DIFF_CHARACTERS, TABLE_ROWS = 60_000, 60


class Tile(NamedTuple):
    """A key number: its name, its value, and a short note."""

    label: str
    value: str
    note: str = ''


class TitledChart(NamedTuple):
    """A chart with its title; a legend entry is (name, last value, whether it is an evaluation)."""

    title: str
    chart: curves.ChartDrawing
    legend: list[tuple[str, str, bool]]


def write_report(
    workdir: epath.PathLike,
    experiment_file: epath.PathLike | None = None,
    seeds: Sequence[epath.PathLike] = (),
) -> epath.Path:
    """Writes report.html into a run's directory, and returns its path.

    Args:
      experiment_file: as of open_run().
      seeds: the directories of runs that differ in the seed alone, by which the paper's numbers are judged too.

    Raises:
      InputError: as open_run() and judge.judge(); or the page cannot be written.
    """
    run = directory.open_run(workdir, experiment_file)
    path = run.path / FILE
    durable_files.check_no_link(path)
    text = render(run, [directory.open_run(other) for other in seeds])
    try:
        durable_files.write(path, text.encode())
    except OSError as error:
        raise config.InputError(
            f'{path} cannot be written: {error.strerror}. The run itself is as it was. Make room or the directory '
            'writable, or copy the run (without its checkpoints/) and report on the copy.'
        ) from error
    return path


@functools.cache
def environment() -> jinja2.Environment:
    """The templates of the page."""
    # Samples, prompts, diffs and names may hold HTML: everything is escaped.
    loader = jinja2.FileSystemLoader(pathlib.Path(__file__).parent / 'templates')
    made = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {
        'whole': quantities.whole, 'duration': progress.duration, 'moment': quantities.moment,
        'number': quantities.number,
    }  # fmt: skip
    return made


def render(run: directory.Run, seeds: Sequence[directory.Run] = ()) -> str:
    """The page on a run; `seeds` are others that differ in the seed alone."""
    rows = list(tree.stored_rows(run.stored)) if run.unloaded else tree.rows(run.experiment)
    page = environment().get_template('report.html')
    return page.render(
        run=run,
        now_s=time.time(),
        last_record_s=max((record['time'] for record in run.records), default=None),
        tiles=list(tiles(run)),
        claims=judge.judge(run, seeds),
        claims_text=judge.summary,
        look=claims_screen.LOOKS,
        loss=_figure(run, 'loss', LARGE_CHART),
        narrow_loss=_figure(run, 'loss', SMALL_CHART),
        figures=list(figures(run)),
        evaluations=evaluation_table(run),
        shown=artifact_views.by_evaluation(run),
        heading=title,
        changed=[row for row in rows if row.origin is not None],
        rows=rows,
        facts=facts(run),
        git=run.environment[-1].get('git') if run.environment else None,
        diff_characters=DIFF_CHARACTERS,
        fingerprint=fingerprint(run),
        time_spent=run.time_spent,
        time_bar=goodput.bar(run.time_spent or [], LARGE_CHART[0]),
        commands=next_commands.next_commands(run),
    )


# ---- key numbers ------------------------------------------------------------------------------------------------


def metric_names(run: directory.Run) -> list[str]:
    """The run's metrics, without an nll that is the loss once more, as it is without smoothing and the like."""

    def repeats_loss(name: str) -> bool:
        evaluation, slash, metric = name.rpartition('/')
        loss = f'{evaluation}{slash}loss'
        known = metric == 'nll' and loss in run.metric_names
        return known and np.array_equal(run.metrics(name)[1], run.metrics(loss)[1], equal_nan=True)

    return [name for name in run.metric_names if not repeats_loss(name)]


def evaluation_names(run: directory.Run) -> list[str]:
    """The names of the evaluations that have given numbers on the model."""
    names = dict.fromkeys(name.rpartition('/')[0] for name in run.metric_names if '/' in name)
    return [name for name in names if name not in baselines(run)]


def last(run: directory.Run, name: str) -> float:
    return run.metrics(name)[1][-1].item()


def tiles(run: directory.Run) -> Iterator[Tile]:
    """The key numbers, as far as the run has them."""
    names = run.metric_names
    if 'loss' in names:
        yield Tile('Training loss', quantities.number(last(run, 'loss')), f'step {run.metrics("loss")[0][-1]:,}')
    for evaluation in evaluation_names(run)[:2]:
        yield from _evaluation_tiles(run, evaluation)
    baseline = unigram(run, 'loss')
    if baseline is not None:
        yield Tile('Unigram loss', quantities.number(baseline), 'token counts alone')
    for speed in names:
        if speed.endswith('_per_s') and '/' not in speed:
            median = statistics.median(run.metrics(speed)[1])
            yield Tile(title(speed), quantities.count(median), 'median')
    if run.parameters:
        yield Tile('Parameters', quantities.count(run.parameters), quantities.whole(run.parameters))


def _evaluation_tiles(run: directory.Run, evaluation: str) -> Iterator[Tile]:
    if f'{evaluation}/loss' in run.metric_names:
        yield Tile(f'{evaluation.capitalize()} loss', *_last_and_best(run, f'{evaluation}/loss'))
    for metric in ('perplexity', 'bits_per_byte', 'accuracy', 'bleu'):
        if f'{evaluation}/{metric}' in run.metric_names:
            value, note = _last_and_best(run, f'{evaluation}/{metric}')
            yield Tile(title(metric), value, f'{evaluation}, {note}')


def _last_and_best(run: directory.Run, name: str) -> tuple[str, str]:
    """The last value of a metric of an evaluation; and its step, or an earlier value that is better."""
    steps, values = run.metrics(name)
    measured, note = run.measured(name), f'step {steps[-1]:,}'
    if measured.direction is not None:
        best = metrics.best(dict(enumerate(values.tolist())), measured.direction)
        if best is not None and metrics.is_better(values[best], values[-1], measured.direction):
            note = f'best {quantities.number(values[best])} at {steps[best]:,}'
    return quantities.number(values[-1]), note


def baselines(run: directory.Run) -> list[str]:
    """The names of the evaluations that do not look at the model: what it has to beat."""
    kind = config.class_name(unigram_lib.Unigram)
    evaluations = [each for each in run.stored.get('evaluations', []) if isinstance(each, dict)]
    return [str(each.get('name')) for each in evaluations if each.get(config.CLASS_KEY) == kind]


def unigram(run: directory.Run, metric: str) -> float | None:
    """The metric of a model that knows only how often each token occurs, if the run has measured it."""
    names = [f'{baseline}/{metric}' for baseline in baselines(run)]
    return next((last(run, name) for name in names if name in run.metric_names), None)


def title(name: str) -> str:
    """A metric's name as a heading: 'learning_rate' -> 'Learning rate'."""
    return TITLES.get(name) or name.replace('_per_s', ' per second').replace('_', ' ').capitalize()


# ---- curves -----------------------------------------------------------------------------------------------------


def figures(run: directory.Run) -> Iterator[TitledChart]:
    """The other curves: each metric of training and of evaluations, on the same axes where the name is the same."""
    for name in dict.fromkeys(name.rpartition('/')[2] for name in metric_names(run)):
        figure = None if name in WITHOUT_CHART else _figure(run, name, SMALL_CHART)
        if figure is not None:
            yield figure


def _figure(run: directory.Run, metric: str, size: tuple[float, float]) -> TitledChart | None:
    """The metric in training and in each evaluation, with the unigram model's as a level."""
    baseline = unigram(run, metric)
    level = None if baseline is None else curves.Tick(baseline, f'unigram {quantities.number(baseline)}')
    series = []
    for name in [metric, *(f'{evaluation}/{metric}' for evaluation in evaluation_names(run))]:
        if name in run.metric_names:
            sparse = '/' in name
            series.append(curves.Series(name.rpartition('/')[0] or 'training', *run.metrics(name), sparse))
    marks = [curves.Tick(session.first_step, 'resumed') for session in run.sessions[1:]]
    chart = curves.draw(series, width=size[0], height=size[1], marks=marks, level=level) if series else None
    if chart is None:
        return None
    legend = [(each.name, quantities.number(each.values[-1]), each.sparse) for each in series]
    return TitledChart(title(metric), chart, legend)


# ---- tables and texts ---------------------------------------------------------------------------------------------


def evaluation_table(run: directory.Run) -> dict[str, tuple[list[str], list[tuple[int, list[str]]]]]:
    """Evaluation -> names of its metrics, and its rows (step, values), newest first; long ones thinned."""
    tables = {}
    for evaluation in evaluation_names(run):
        names = [name for name in metric_names(run) if name.startswith(f'{evaluation}/')]
        columns = {name: dict(zip(*(array.tolist() for array in run.metrics(name)))) for name in names}
        steps = sorted({step for column in columns.values() for step in column}, reverse=True)
        rows = [
            (step, [quantities.number(column[step]) if step in column else '' for column in columns.values()])
            for step in artifact_views.spaced(steps, TABLE_ROWS)
        ]
        tables[evaluation] = ([_heading(run, name) for name in names], rows)
    return tables


def _heading(run: directory.Run, name: str) -> str:
    """The metric of an evaluation as a heading, with its unit and the direction in which it is better."""
    measured, found = run.measured(name), title(name.rpartition('/')[2])
    unit = '' if measured.unit.lower() == found.lower() else measured.unit
    return ' '.join(filter(None, [found, unit and f'({unit})', ARROWS.get(measured.direction or '')]))


def facts(run: directory.Run) -> list[tuple[str, str]]:
    """What the last session ran on."""
    if not run.environment:
        return []
    entry = run.environment[-1]
    devices = ', '.join(f'{device["count"]} x {device["kind"]}' for device in entry.get('devices', []))
    mesh = ' x '.join(f'{axis}={size}' for axis, size in (entry.get('mesh') or {}).items())
    versions = ', '.join(f'{package} {version}' for package, version in (entry.get('versions') or {}).items())
    found = [
        ('Devices', f'{devices} ({entry.get("backend", "")})'),
        ('Processes', str(entry.get('processes', ''))),
        ('Mesh', mesh),
        ('Python', f'{entry.get("python", "")} on {entry.get("platform", "")}'),
        ('Packages', versions),
        ('XLA flags', str(entry.get('xla_flags') or 'none')),
    ]
    return [(name, value) for name, value in found if value]


def fingerprint(run: directory.Run) -> list[tuple[str, str]]:
    """What identifies the data, one dotted path a line."""
    data = (run.environment[-1].get('data') or {}) if run.environment else {}
    return [(path, str(value)) for path, value in flatten(data)][:TABLE_ROWS]


def flatten(data: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """The leaves of JSON data, each with its dotted path."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else None
    if items is None:
        yield path, data
        return
    for key, value in items:
        yield from flatten(value, config.join(path, key))
