"""The numbers by which a run is known: tiles, and the table of each evaluation. No JAX."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.console import quantities
from bigmodel_jax.evaluate import metric as metrics
from bigmodel_jax.report import artifact_views
from bigmodel_jax.runs import directory

UNIGRAM = 'bigmodel_jax.evaluate.text.unigram:Unigram'  # Its class, as experiments are stored; not imported.
TITLES = {
    'grad_norm': 'Gradient norm', 'nll': 'Negative log-likelihood', 'bleu': 'BLEU', 'mfu': 'MFU',
    'model_tflops_per_device': 'Model TFLOP/s per device',
    'device_memory_gib': 'Device memory (GiB)', 'device_memory_peak_gib': 'Device memory, peak (GiB)',
}  # fmt: skip
ARROWS = {'lower': '\N{DOWNWARDS ARROW}', 'higher': '\N{UPWARDS ARROW}'}  # In which direction a metric is better.
TABLE_ROWS = 60  # Keeps the page small, whatever the run.


class RunCurves(Protocol):
    """What has curves: directory.Run, and live_run.LiveRun, which follows one that trains."""

    @property
    def stored(self) -> dict[str, Any]: ...
    @property
    def metric_names(self) -> list[str]: ...
    def metrics(self, name: str) -> tuple[np.ndarray, np.ndarray]: ...
    @property
    def resumptions(self) -> Sequence[int]: ...
    @property
    def time_shares(self) -> Mapping[str, tuple[np.ndarray, np.ndarray]]: ...


class Tile(NamedTuple):
    """A key number: its name, its value, and a short note."""

    label: str
    value: str
    note: str = ''


def metric_names(run: RunCurves) -> list[str]:
    """The run's metrics, without an nll that is the loss once more, as it is without smoothing and the like."""

    def repeats_loss(name: str) -> bool:
        evaluation, slash, metric = name.rpartition('/')
        loss = f'{evaluation}{slash}loss'
        known = metric == 'nll' and loss in run.metric_names
        return known and np.array_equal(run.metrics(name)[1], run.metrics(loss)[1], equal_nan=True)

    return [name for name in run.metric_names if not repeats_loss(name)]


def evaluation_names(run: RunCurves) -> list[str]:
    """The names of the evaluations that have given numbers on the model."""
    names = dict.fromkeys(name.rpartition('/')[0] for name in run.metric_names if '/' in name)
    return [name for name in names if name not in baselines(run)]


def last(run: RunCurves, name: str) -> float:
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


def baselines(run: RunCurves) -> list[str]:
    """The names of the evaluations that do not look at the model: what it has to beat."""
    evaluations = [each for each in run.stored.get('evaluations', []) if isinstance(each, dict)]
    return [str(each.get('name')) for each in evaluations if each.get(config.CLASS_KEY) == UNIGRAM]


def unigram(run: RunCurves, metric: str) -> float | None:
    """The metric of a model that knows only how often each token occurs, if the run has measured it."""
    names = [f'{baseline}/{metric}' for baseline in baselines(run)]
    return next((last(run, name) for name in names if name in run.metric_names), None)


def title(name: str) -> str:
    """A metric's name as a heading: 'learning_rate' -> 'Learning rate'."""
    return TITLES.get(name) or name.replace('_per_s', ' per second').replace('_', ' ').capitalize()


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
