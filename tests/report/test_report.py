import html.parser
import math
import shlex

import numpy as np
import pytest
from etils import epath

from bigmodel_jax import __main__
from bigmodel_jax.console import quantities
from bigmodel_jax.evaluate import artifacts, evaluation
from bigmodel_jax.report import artifact_views, curves, next_commands, report, thinning
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.runs import directory
from bigmodel_jax.train import metrics
from runs import run_maker

VOID = {'meta', 'path', 'circle', 'br', 'img', 'link'}


class Page(html.parser.HTMLParser):
    """Checks that elements close in order, and gathers tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], set(), [], ''
        self.feed(text)
        assert self.open == [], 'not closed'

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page(path):
    return Page(report.write_report(path).read_text())


def test_finished_run_shows_its_numbers(tmp_path):
    path = run_maker.finished(tmp_path / 'a')
    shown = page(path)
    run = directory.open_run(path)
    for name in ('loss', 'validation/loss', 'validation/perplexity'):
        assert quantities.number(run.metrics(name)[1][-1]) in shown.text
    for words in (
        'Finished at step 2,000',
        run.digest,
        'uncommitted',
        'resumed',
        'warmup_steps = 100',
        'unigram 3.317',
    ):
        assert words in shown.text
    assert (path / 'report.html').stat().st_size < 150_000


def test_page_needs_nothing_from_elsewhere(tmp_path):
    shown = page(run_maker.finished(tmp_path / 'a'))
    assert 'script' not in shown.tags
    assert not shown.tags & {'link', 'img', 'iframe', 'object'}
    assert not [name for name, _ in shown.attributes if name in ('src', 'href') or name.startswith('on')]


def test_texts_are_escaped(tmp_path):
    path = run_maker.finished(tmp_path / 'a')
    evil = '<script>alert(1)</script>'
    sample = {'kind': 'samples', 'name': evil, 'step': 2_000, 'samples': [{'prompt': evil, 'text': evil}]}
    measured = {'kind': 'evaluation', 'name': evil, 'step': 2_000, 'metrics': {evil: 1.0, 'loss': 1.0}}
    for record in (sample, measured):
        event_log.append(path / event_log.FILE, record)
    text = report.write_report(path).read_text()
    assert '<script' not in text
    assert '<b>wide</b>' not in text  # Of the diff.
    assert evil in Page(text).text


def test_artifacts_are_shown_without_running_anything_of_them(tmp_path):
    path = run_maker.finished(tmp_path / 'a')
    evil = '"><svg onload=alert(1)><script>alert(1)</script>'
    pixels = np.zeros((8, 8))
    chart = artifacts.Chart(title=evil, lines=(artifacts.Line(name=evil, x=(0.0, 1.0), y=(0.0, 1.0)),))
    heatmap = artifacts.Heatmap(title=evil, values=((0.5,),), rows=(evil,), columns=(evil,))
    found = (
        artifacts.Text(title=evil, prompt=evil, text=evil, reference=evil),
        artifacts.Table(title=evil, columns=(evil,), rows=((evil,),)),
        artifacts.Image.of(pixels, title=evil),
        artifacts.Audio.of(np.zeros(10), 8_000, title=evil),
        artifacts.Figure(title=evil, panels=(chart, heatmap), details=(heatmap,)),
    )
    with metrics.MetricsWriter(epath.Path(path), start=None, wandb=None, details={}) as writer:
        writer.evaluation(2_000, 'shown', evaluation.EvaluationResult(artifacts=found))
    later = {'kind': 'artifacts', 'name': 'new', 'step': 2_000, 'artifacts': [{'type': evil}]}
    event_log.append(path / event_log.FILE, later)
    shown = page(path)
    assert 'script' not in shown.tags
    assert not [name for name, _ in shown.attributes if name.startswith('on')]
    sources = [value for name, value in shown.attributes if name in ('src', 'href')]
    assert len(sources) == 2
    assert all(value.startswith(('data:image/png;base64,', 'data:audio/wav;base64,')) for value in sources)
    assert shown.text.count(evil) >= 8
    assert 'cannot show an artifact of the type' in shown.text


def test_large_and_lost_artifacts_are_links_and_sentences(tmp_path, monkeypatch):
    path = run_maker.finished(tmp_path / 'a')
    found = [artifacts.Image.of(np.random.default_rng(i).random((8, 8))) for i in range(3)]
    with metrics.MetricsWriter(epath.Path(path), start=None, wandb=None, details={}) as writer:
        writer.evaluation(2_000, 'shown', evaluation.EvaluationResult(artifacts=found))
    monkeypatch.setattr(artifact_views, 'EMBEDDED_BYTES', len(found[0].content))
    files = [entry['file'] for entry in directory.open_run(path).artifacts[-1].entries]
    (path / files[2]).unlink()
    shown = page(path)
    sources = [value for name, value in shown.attributes if name == 'src']
    assert sources[0].startswith('data:')
    assert sources[1:] == files[1:2]
    assert f'{files[2]} is missing' in shown.text


@pytest.mark.parametrize('last', [0, 10, 20])
def test_run_of_few_records(tmp_path, last):
    shown = page(run_maker.unfinished(tmp_path / 'a', last))
    assert f'Running or interrupted at step {last} of 2,000' in shown.text
    assert ('figure' in shown.tags) == (last > 0)
    assert 'Validation' not in shown.text


def test_run_without_anything(tmp_path):
    assert 'Not started' in page(run_maker.write(tmp_path / 'a', [], sessions=[])).text


def test_numbers_that_are_not_finite(tmp_path):
    path = run_maker.unfinished(tmp_path / 'a', 100)
    broken = {'loss': math.nan, 'grad_norm': math.inf}
    for record in ({'kind': 'train', 'metrics': broken}, {'kind': 'evaluation', 'name': 'test', 'metrics': broken}):
        event_log.append(path / event_log.FILE, record | {'step': 110})
    shown = page(path)
    assert 'nan' in shown.text
    paths = ''.join(value for name, value in shown.attributes if name == 'd')
    assert 'nan' not in paths
    assert 'inf' not in paths


def test_long_run_gives_a_small_page(tmp_path):
    path = run_maker.finished(tmp_path / 'a', steps=40_000)
    assert report.write_report(path).stat().length < 300_000


@pytest.mark.parametrize(
    ('command', 'start', 'rest'),
    [
        (
            '/lib/bigmodel_jax/__main__.py train a.py --workdir w --set x=1 --stop-after 8',
            '-m bigmodel_jax',
            ('a.py --workdir {}', '{} --experiment a.py', '--set x=1'),
        ),
        (
            'm train --wandb p --workdir=w --set=x=1 a.py:smoke',
            '-m bigmodel_jax',
            ('a.py:smoke --workdir {}', '{} --experiment a.py:smoke', '--set=x=1'),
        ),
        (
            'experiments/a.py train :smoke --workdir w --arg "path=b c"',
            'experiments/a.py',
            (':smoke --workdir {}', ':smoke {}', "--arg 'path=b c'"),
        ),
    ],
)
def test_commands_keep_the_experiment_and_drop_the_session(tmp_path, command, start, rest):
    entry = run_maker.session(0, run_maker.START_S) | {'command': shlex.split(command)}
    run = directory.open_run(run_maker.unfinished(tmp_path / 'a', 10, sessions=[entry]))
    training, of_run, given = (each.format(run.path) for each in rest)
    verbs = {'train': training, 'evaluate': of_run, 'report': of_run}  # Without a tokenizer it generates no text.
    expected = [f'python {start} {verb} {words} {given}' for verb, words in verbs.items()]
    assert [text for _, text in next_commands.next_commands(run)] == expected
    for text in expected:
        words = shlex.split(text)[1:]
        own = words[0] if words[0].endswith('.py') else None
        words = words[1:] if own else words[2:]
        __main__.parser().parse_args(words if own is None else __main__.with_file(words, own))


# ---- curves -----------------------------------------------------------------------------------------------------


def test_thinning_keeps_the_extremes_and_the_ends():
    steps = np.arange(1, 50_001)
    values = np.random.default_rng(0).normal(size=len(steps))
    values[31_234], values[7] = 50.0, -50.0
    thin_steps, thin_values = thinning.thin(steps, values)
    assert len(thin_steps) <= 2 * thinning.BUCKETS + 2
    assert (thin_values.max(), thin_values.min()) == (50.0, -50.0)
    assert (thin_steps[0], thin_steps[-1]) == (1, 50_000)
    assert (np.diff(thin_steps) > 0).all()


def test_smoothing_keeps_a_straight_line_and_ignores_a_spike():
    line = np.linspace(3.0, 1.0, 301)
    indices, medians = thinning.smooth(line, window=21)
    np.testing.assert_allclose(medians, line[indices], rtol=1e-12)  # Rounding of the mean of two.
    spiked = line.copy()
    spiked[150] = 1e6
    assert thinning.smooth(spiked, window=21)[1].max() <= 3.0


@pytest.mark.parametrize(('low', 'high'), [(0, 1), (1.62, 4.5), (0, 3e-4), (-7, 12), (0, 200_000), (5, 5.001)])
def test_ticks_are_round_and_on_the_axis(low, high):
    found = curves.ticks(curves.Axis(low, high, 0.0, 1.0, log=False), 5)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)
    interval = found[1] - found[0]
    assert round(interval / 10 ** math.floor(math.log10(interval) + 1e-6), 6) in (1, 2, 5)


def test_path_breaks_where_nothing_is_known():
    x, y = np.arange(4.0), np.array([1.0, math.nan, 2.0, 3.0])
    assert curves.svg_path(x, y) == 'M0.0 1.0M2.0 2.0L3.0 3.0'


def test_everything_lies_inside_the_chart():
    steps = np.arange(10, 5_001, 10)
    series = [
        curves.Series('training', steps, np.exp(-steps / 500.0)),
        curves.Series('x', steps[::50], steps[::50] / 1e3, True),
    ]
    chart = curves.draw(series, width=450.0, height=190.0)
    for line in chart.lines:
        for x, y in line.dots:
            assert chart.left <= x <= chart.right
            assert chart.top <= y <= chart.bottom


@pytest.mark.parametrize(
    ('value', 'text'), [(950, '950'), (12_345, '12.3k'), (124e6, '124M'), (999_999, '1M'), (7e9, '7B'), (0.5, '0.5')]
)
def test_counts(value, text):
    assert quantities.count(value) == text


@pytest.mark.parametrize(
    ('value', 'text'),
    [(1.88, '1.880'), (0, '0'), (12_700, '12,700'), (1234.0, '1234'), (math.nan, 'nan'), (math.inf, 'inf')],
)
def test_numbers(value, text):
    assert quantities.number(value) == text


@pytest.mark.parametrize(('size_bytes', 'text'), [(0, '0 B'), (1023, '1023 B'), (1536, '1.5 KiB'), (2**30, '1 GiB')])
def test_sizes(size_bytes, text):
    assert quantities.size(size_bytes) == text
