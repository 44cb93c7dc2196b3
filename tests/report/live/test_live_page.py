"""The live page over HTTP: what it shows, whom it answers, and that it only reads."""

import html.parser
import http.client
import json
import re
import socket
import time
import urllib.parse

import numpy as np
import pytest

from bigmodel_jax import __main__, config, web_server
from bigmodel_jax.evaluate import artifacts, evaluation
from bigmodel_jax.report import curves, figures
from bigmodel_jax.report.live import choice, live_page, live_runs, server
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.runs import directory
from bigmodel_jax.train import metrics
from runs import run_maker

EVIL = '"><script>alert(1)</script><svg onload=alert(1)>'
LATEST_S = 20.0  # Far above the second that it takes, on a busy machine.


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Three runs: one finished, one interrupted, and one whose names are crafted."""
    root = tmp_path_factory.mktemp('root') / 'runs'
    run_maker.finished(root / 'a', steps=400)
    other = run_maker.unfinished(root / 'deep' / 'b', 200)
    stored = json.loads((other / 'experiment.json').read_text())
    (other / 'experiment.json').write_text(json.dumps({**stored, 'seed': 7, 'name': EVIL}))
    crafted = run_maker.unfinished(root / 'x<img src=x onerror=alert(1)>', 100)
    log = crafted / event_log.FILE
    event_log.append(log, {'kind': 'train', 'step': 110, 'metrics': {EVIL: 1.0}})
    event_log.append(log, {'kind': 'evaluation', 'name': EVIL, 'step': 110, 'metrics': {'loss': 1.0}})
    event_log.append(log, {'kind': 'warning', 'step': 110, 'text': EVIL})
    found = [artifacts.Image.of(np.zeros((4, 4)), title=EVIL), artifacts.Text(text=EVIL)]
    with metrics.MetricsWriter(directory.open_run(crafted).path, start=None, wandb=None, details={}) as writer:
        writer.evaluation(110, 'shown', evaluation.EvaluationResult(artifacts=found))
    return root


@pytest.fixture(scope='module')
def page(root):
    with server.LivePage(root, address=web_server.Address(port=0)) as page:
        settle(page)
        yield page


class Markup(html.parser.HTMLParser):
    """The attributes, addresses and scripts of a page."""

    def __init__(self, text):
        super().__init__()
        self.attributes, self.addresses, self.scripts = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.attributes |= {name for name, _ in attrs}
        self.addresses += [value for name, value in attrs if name in ('src', 'href', 'action')]
        if tag == 'script':
            self.scripts += attrs


def ask(page, path, *, method='GET', **headers):
    where = urllib.parse.urlsplit(page.url)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body.decode(errors='replace')


def settle(page):
    """Waits until every log has been read."""
    deadline = time.monotonic() + LATEST_S
    while True:
        found = json.loads(ask(page, '/changes')[1])
        if not found['unread'] and len(found['runs']) > 1:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.05)


def query(**values):
    return urllib.parse.urlencode(values, doseq=True)


def every_address(page):
    """An address of each kind, of each run."""
    keys = json.loads(ask(page, '/changes')[1])['runs']
    charts = [f'/chart?{query(chart=name)}' for name in json.loads(ask(page, '/charts')[1])]
    own = [f'/{what}/{key}' for key in keys for what in ('run', 'header', 'details')]
    of_run = [
        f'/chart?{query(run=key, chart=name)}'
        for key in keys
        for name in json.loads(ask(page, f'/charts?run={key}')[1])
    ]
    evil = [f'/chart?{query(chart=EVIL)}', f'/values?{query(chart=EVIL, step=1, value=1)}']
    return ['/', '/table', '/values?chart=loss&step=5&value=2', '/live.css', '/live.js', *charts, *own, *of_run, *evil]


def test_nothing_of_a_run_becomes_markup_and_nothing_leads_elsewhere(page):
    seen = ''
    for path in every_address(page):
        answer, text = ask(page, path)
        assert answer.status == 200, (path, text)
        assert answer.headers['Content-Security-Policy'] == server.POLICY
        assert answer.headers['X-Content-Type-Options'] == 'nosniff'
        if answer.headers['content-type'].startswith('text/html'):
            found = Markup(text)
            assert found.scripts == [('src', '/live.js'), ('defer', None)] * ('<!doctype' in text), path
            assert not [name for name in found.attributes if name.startswith('on') or name == 'style'], path
            for address in found.addresses:
                assert re.match(r'/(?!/)|data:,$', address), address
        seen += text
    assert seen.count('&lt;script&gt;') > 8
    assert 'http' not in live_page.script().replace('http://www.w3.org/2000/svg', '')


def test_artifacts_come_from_records_alone(page):
    key = next(key for key in settle(page)['runs'] if '/artifacts/' in ask(page, f'/details/{key}')[1])
    address = re.search(r'src="(/artifacts/[^"]+)"', ask(page, f'/details/{key}')[1])[1]
    answer, _ = ask(page, address)
    assert (answer.status, answer.headers['content-type']) == (200, 'image/png')
    for name in ('experiment.json', '..%2Fexperiment.json', '..%2f..%2f..%2fetc%2fpasswd', '%2e%2e', 'x.png'):
        answer, text = ask(page, f'/artifacts/{key}/{name}')
        assert answer.status in (400, 404), text
        assert 'steps' not in text


def test_it_only_reads(root, page):
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    for path in every_address(page):
        assert ask(page, path, method='POST')[0].status == 405
        ask(page, path)
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == before


@pytest.mark.parametrize(
    ('bound', 'names', 'asked', 'allowed'),
    [
        ('127.0.0.1', (), '127.0.0.1:8008', True),
        ('127.0.0.1', (), 'localhost', True),
        ('127.0.0.1', (), '[::1]:80', True),
        ('127.0.0.1', (), 'evil.example', False),
        ('127.0.0.1', (), 'localhost.evil.example', False),
        ('127.0.0.1', (), '10.0.0.5', False),
        ('127.0.0.1', (), '', False),
        ('127.0.0.1', (), '[', False),
        ('0.0.0.0', (), '10.0.0.5:8008', True),
        ('0.0.0.0', (), 'node7', False),
        ('0.0.0.0', ('node7',), 'NODE7:8008', True),
    ],
)
def test_only_own_names_are_answered(bound, names, asked, allowed):
    assert web_server.Address(host=bound, names=names).allows(asked) == allowed


def test_another_name_is_refused(page):
    assert ask(page, '/', Host='evil.example')[0].status == 421
    assert ask(page, '/table', Host='127.0.0.1')[0].status == 200


@pytest.mark.parametrize(
    ('asked', 'said'),
    [
        ('smoothing=2', 'smoothing='),
        ('log_y=x', 'log_y='),
        ('first=nan', 'first='),
        ('where=sede==0', 'sede'),
        ('where=import+os', 'where'),
    ],
)
def test_what_cannot_be_shown_is_a_sentence(page, asked, said):
    answer, text = ask(page, f'/chart?chart=loss&{asked}')
    assert answer.status == 400
    assert said.partition('=')[0] in text or 'expression' in text
    assert 'Traceback' not in text


def test_unknown_runs_are_a_sentence(page):
    for path in ('/run/0', '/header/..%2f', '/details/%00', '/chart?run=none&chart=loss'):
        answer, text = ask(page, path)
        assert answer.status in (400, 404)
        assert 'Traceback' not in text


def test_new_points_and_new_runs_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(live_runs, 'FIND_EVERY_S', 0.2)
    root = tmp_path / 'runs'
    first = run_maker.unfinished(root / 'a', 100)
    run_maker.unfinished(root / 'b', 100)
    with server.LivePage(root, address=web_server.Address(port=0)) as page:
        since = settle(page)['revision']
        event_log.append(first / event_log.FILE, {'kind': 'train', 'step': 110, 'metrics': {'loss': 0.125}})
        run_maker.unfinished(root / 'c', 10)
        deadline = time.monotonic() + LATEST_S
        while True:
            found = json.loads(ask(page, f'/changes?since={since}')[1])
            if len(found['runs']) == 2 and found['listed']:
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert '0.1250' in ask(page, '/chart?chart=loss')[1]
        assert '>c</a>' in ask(page, '/table')[1]


def test_the_report_and_the_live_page_draw_the_same(root):
    runs = live_runs.LiveRuns([root])
    runs.read_all()
    view = figures.ChartView(axes=curves.Axes(log_x=True))
    for run in runs.runs:
        read = directory.open_run(run.path)
        assert list(figures.all_of(run)) == list(figures.all_of(read))
        assert figures.of_run(run, 'loss', view) == figures.of_run(read, 'loss', view)


def test_the_written_page_is_the_same_for_the_same_runs(root, tmp_path, capsys):
    pages = []
    for name in ('a.html', 'b.html'):
        assert __main__.main(argv=['watch', str(root), '--write', str(tmp_path / name), '--query', 'metric=loss']) == 0
        pages.append(re.sub(r'written [^<]*', '', (tmp_path / name).read_text()))
    assert pages[0] == pages[1]
    assert '<script' not in pages[0]
    assert pages[0].count('<figure') == 1
    assert 'seed' in pages[0]


def test_wrong_arguments_are_one_message(root, tmp_path, capsys):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = str(taken.getsockname()[1])
        for words, said in (
            ([str(tmp_path / 'missing')], 'is not there'),
            ([str(root), '--port', port], 'Another program uses it'),
            ([str(root), '--port', '70000'], 'not a port'),
            ([str(root), '--host', '203.0.113.1', '--port', '0'], 'cannot be used'),
            ([str(root), '--query', 'x=1'], '--write'),
            ([str(root), '--write', str(tmp_path / 'missing' / 'x' / 'p.html')], 'cannot be written'),
        ):
            assert __main__.main(argv=['watch', *words]) == 2, words
            error = capsys.readouterr().err
            assert said in error
            assert error.startswith('error: ')
            assert error.count('\n') <= 2


def test_hundreds_of_curves_stay_small():
    steps = np.arange(1, 10_001)
    random = np.random.default_rng(0)
    series = [
        curves.Series(str(i), steps, random.normal(size=len(steps)), color=i % curves.COLORS, key=str(i))
        for i in range(200)
    ]
    chart = curves.draw(series, width=800.0, height=300.0, smoother=choice.SMOOTHINGS[choice.MEASURED], hovers=0)
    points = sum(re.subn('[ML]', '', line.path)[1] for line in chart.lines)
    assert len(chart.lines) == 200
    assert points <= curves.POINTS + 2 * 200


def test_no_smoothing_moves_a_constant_and_all_shorten_noise():
    constant, noise = np.full(500, 2.5), np.random.default_rng(0).normal(size=500)
    for name, smoother in choice.SMOOTHINGS.items():
        if name in (choice.AUTOMATIC, choice.MEASURED):
            continue
        np.testing.assert_allclose(smoother(constant)[1], 2.5, rtol=1e-12)  # Rounding of the weights.
        assert smoother(noise)[1].std() < 0.6 * noise.std()


def test_missing_server_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'uvicorn', None)
    with pytest.raises(config.InputError, match=r'pip install'):
        server.LivePage('.')
