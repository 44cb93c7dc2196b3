"""The live page in a real browser: new points of a run that trains, what it asks for, what it shows, and on a phone."""

import contextlib
import pathlib
import subprocess
import sys
import time

import pytest
from report.live import browser

import style_rules
from bigmodel_jax import __main__, web_server
from bigmodel_jax.report.live import server
from bigmodel_jax.run_directory import event_log
from runs import run_maker

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.program() is None, reason='no Chromium or Chrome is installed'),
]
PROMISED_S = 3.0
TRAINING = """
import sys
from bigmodel_jax import config
from bigmodel_jax.train import loop
from runs import quick
settings = {'steps': 100_000, 'watch.log_every': 50, 'checkpoints.every_steps': 50_000}
loop.train(config.vary(quick.experiment(), settings), sys.argv[1])
"""
EVIL = '<img src=x onerror=window.hit=1><script>window.hit=1</script>"\\'
ADDRESS = web_server.Address(port=0)


DRAWN = '[...charts.children].every((each) => !each.stale || !each.inView)'


def drawn(tab):
    tab.wait(f'document.querySelector(".plot figure svg") && !drawing && {DRAWN}')


@contextlib.contextmanager
def training(path):
    """A process that trains while this is open, and has written a few points."""
    roots = [str(style_rules.ROOT), str(style_rules.ROOT / 'tests')]
    program = f'import sys; sys.path[:0] = {roots!r}\n{TRAINING}'
    with subprocess.Popen([sys.executable, '-c', program, str(path)], stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 120
            while len(event_log.read(path / event_log.FILE)) < 6:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.2)
            yield
            assert process.poll() is None
        finally:
            process.kill()


def test_points_of_a_run_that_trains_are_on_the_screen_within_three_seconds(tmp_path):
    """At any moment, what was written three seconds before is on the screen."""
    path, seen = tmp_path / 'run', []
    with (
        training(path),
        server.LivePage(path, address=ADDRESS) as page,
        browser.tab(tmp_path / 'browser') as tab,
    ):
        tab.open(page.url)
        drawn(tab)
        while len(seen) < 60:
            seen.append((time.time(), tab.value('Number(document.querySelector(".plot").dataset.xHigh)')))
            time.sleep(0.2)
    records = [record for record in event_log.read_all(path / event_log.FILE) if record['kind'] == 'train']
    for moment, last in seen:
        assert last >= max((each['step'] for each in records if each['time'] < moment - PROMISED_S), default=0)
    assert len({last for _, last in seen}) > 3


def test_nothing_runs_that_a_run_wrote_and_nothing_leaves_the_machine(tmp_path):
    root = tmp_path / 'runs'
    run_maker.unfinished(root / 'plain', 100)
    crafted = run_maker.unfinished(root / EVIL.replace('/', ''), 100)
    for record in (
        {'kind': 'train', 'step': 110, 'metrics': {EVIL: 1.0}},
        {'kind': 'evaluation', 'name': EVIL, 'step': 110, 'metrics': {EVIL: 1.0}},
        {'kind': 'warning', 'step': 110, 'text': EVIL},
        {'kind': 'samples', 'name': EVIL, 'step': 110, 'samples': [{'prompt': EVIL, 'text': EVIL}]},
    ):
        event_log.append(crafted / event_log.FILE, record)
    with server.LivePage(root, address=ADDRESS) as page, browser.tab(tmp_path / 'browser') as tab:
        tab.size(1_400, 900)
        tab.open(page.url)
        drawn(tab)
        tab.value('document.querySelectorAll("#metrics input:not(:checked)").forEach((each) => each.click()); 0')
        tab.wait('charts.children.length > 8')
        for y in range(0, 3_000, 400):
            tab.value(f'scrollTo(0, {y}); 0')
            drawn(tab)
        tab.move(200, 300)
        addresses = tab.value('[...document.querySelectorAll("#table a")].map((each) => each.href)')
        for address in addresses:
            tab.open(address)
            tab.wait('document.querySelector("#details section")')
        assert len(addresses) == 2
        assert tab.value('window.hit') is None
        assert tab.errors == []
        assert [each for each in tab.requested if not each.startswith((page.url, 'data:,'))] == []


def test_a_person_chooses_runs_metrics_smoothing_and_a_part_of_the_steps(tmp_path):
    root = tmp_path / 'runs'
    for name in ('a', 'b'):
        run_maker.finished(root / name, steps=400)
    with server.LivePage(root, address=ADDRESS) as page, browser.tab(tmp_path / 'browser') as tab:
        tab.size(1_400, 900)
        tab.open(page.url)
        drawn(tab)
        tab.wait('document.querySelectorAll("#table input").length == 2')
        tab.value('document.querySelector("#table input").click(); 0')
        tab.wait('document.querySelectorAll("[data-chart=loss] path[data-key]:not(.faint)").length == 1')
        tab.value('document.querySelector("#metrics input:checked").click(); 0')
        tab.wait('charts.children.length == 5')
        box = tab.value(
            '(({x, y, width}) => [x, y, width])(document.querySelector(".plot figure svg").getBoundingClientRect())'
        )
        x, y, width = box
        tab.move(x + 0.4 * width, y + 60)
        tab.wait('!tip.hidden && tip.textContent.includes("step")')
        tab.move(x + 0.4 * width, y + 60, 'mousePressed', button='left', clickCount=1)
        tab.move(x + 0.6 * width, y + 60, button='left')
        tab.move(x + 0.6 * width, y + 60, 'mouseReleased', button='left', clickCount=1)
        tab.wait('location.search.includes("first=")')
        tab.wait('Number(document.querySelector(".plot").dataset.xLow) > 50')
        chosen = tab.value('location.search')
        tab.open(page.url + chosen)  # The address alone says what is shown.
        drawn(tab)
        assert tab.value('charts.children.length') == 5
        assert tab.value('[...document.querySelectorAll(".plot")].every((each) => each.dataset.xLow > 50)')
        tab.value('document.getElementById("reset").click(); 0')
        tab.wait('Number(document.querySelector(".plot").dataset.xLow) == 0')
        assert tab.errors == []


@pytest.mark.parametrize(('width', 'columns'), [(400, 1), (1_400, 3)])
def test_the_page_fits_a_phone_and_a_wide_screen(tmp_path, width, columns):
    root = tmp_path / 'runs'
    for name in ('a', 'with_a_long_name_that_goes_on_and_on_and_on/b', 'c'):
        run_maker.finished(root / name, steps=400)
    with server.LivePage(root, address=ADDRESS) as page, browser.tab(tmp_path / 'browser') as tab:
        tab.size(width, 850)
        tab.open(page.url)
        for address in (page.url, tab.wait('(document.querySelector("#table a") || {}).href')):
            tab.open(address)
            drawn(tab)
            tab.wait('document.querySelector("#table table, #details section")')
            assert tab.value('document.documentElement.scrollWidth') <= width
            lefts = tab.value('[...charts.children].map((each) => Math.round(each.getBoundingClientRect().left))')
            assert len(set(lefts)) == columns
            assert tab.value('[...document.querySelectorAll("select, button, input[type=search]")].every((each) => '
                             'each.hidden || each.getBoundingClientRect().height >= 30)')  # fmt: skip


def test_the_report_has_no_requests_and_the_written_page_neither(tmp_path):
    root = tmp_path / 'runs'
    run_maker.finished(root / 'a', steps=400)
    assert __main__.main(argv=['watch', str(root), '--write', str(tmp_path / 'p.html')]) == 0
    with browser.tab(tmp_path / 'browser') as tab:
        address = pathlib.Path(tmp_path / 'p.html').as_uri()
        tab.open(address)
        assert tab.value('document.querySelectorAll("figure svg").length') > 3
        assert set(tab.requested) == {address}
        assert tab.errors == []
