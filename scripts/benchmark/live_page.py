"""Whether the live page stays quick with many long runs: 200 runs of 10,000 points each in a real browser.

Synthetic runs are written and served. What is measured: how long the server takes to read all logs; how long it takes
to draw a chart; and in the browser, each task of the page that kept it busy for 50 ms or more (PerformanceObserver,
'longtask') after it was loaded, while the pointer moves, the smoothing changes, runs are taken out, and a run gains
points; and after how long such a point is on the screen.

Example: python scripts/benchmark/live_page.py --runs 200 --points 10000 --picture live.png
"""

import argparse
import json
import pathlib
import platform
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / 'tests'))

from report.live import browser

from bigmodel_jax import config, web_server
from bigmodel_jax.report.live import server
from bigmodel_jax.run_directory import event_log
from runs import run_maker

LONGEST_MS, LATEST_S = 200.0, 3.0  # What is promised.
WATCH = """
window.tasks = [];
const note = (each) => window.tasks.push([each.startTime, each.duration]);
new PerformanceObserver((list) => list.getEntries().forEach(note)).observe({type: 'longtask', buffered: true});
"""
CHANGED = 'controls.elements.smoothing.dispatchEvent(new Event("change", {bubbles: true}))'
DRAWN = 'document.querySelectorAll(".plot svg").length >= 3 && ![...charts.children].some((e) => e.stale && e.inView)'


def write_run(path: pathlib.Path, number: int, points: int) -> None:
    """A run with a falling loss, a gradient norm and a speed, a hundred times as many steps, and its own width."""
    random = np.random.default_rng(number)
    steps = 100 * np.arange(1, points + 1)
    loss = 2 + 3 * np.exp(-steps / (2e5 + 3e3 * number)) + 0.05 * random.normal(size=points)
    speed = 1e5 * (1 + 0.05 * random.normal(size=points))
    history = [{'kind': 'start', 'step': 0, 'time': run_maker.START_S}]
    for step, value, per_s in zip(steps.tolist(), loss.tolist(), speed.tolist()):
        when = run_maker.START_S + step
        metrics = {'loss': value, 'grad_norm': 0.3 * value, 'tokens_per_s': per_s}
        history.append({'kind': 'train', 'step': step, 'time': when, 'metrics': metrics})
    path.mkdir(parents=True)
    stored = config.to_json(run_maker.example(100 * points))
    stored['model']['width'], stored['seed'] = 64 * (1 + number // 5), number % 5
    (path / 'experiment.json').write_text(json.dumps(stored))
    (path / 'environment.json').write_text(json.dumps([run_maker.session(0, run_maker.START_S)]))
    (path / event_log.FILE).write_text('\n'.join([*map(event_log.encode, history), '']))


def settle(tab: browser.Tab) -> None:
    """Waits until all charts in view are drawn."""
    tab.wait(DRAWN, timeout_s=120)


def interact(tab: browser.Tab, log: pathlib.Path, last: int) -> list[float]:
    """Does what a person does; returns after how many seconds new points of the run in `log` were seen."""
    for x in range(80, 900, 20):
        tab.move(x, 400)
    tab.value(f'controls.elements.smoothing.value = "0.9"; {CHANGED}')
    settle(tab)
    tab.value("""document.querySelectorAll('input[name=pick]')[3].click(); 0""")
    settle(tab)
    tab.value('scrollTo(0, document.body.scrollHeight); 0')
    tab.value('scrollTo(0, 0); 0')
    settle(tab)
    delays = []
    for number in range(1, 6):
        step = last + 1_000_000 * number  # So far beyond the others that the axis ends there.
        began = time.monotonic()
        event_log.append(log, {'kind': 'train', 'step': step, 'metrics': {'loss': 2.0}})
        tab.wait(f'[...document.querySelectorAll("[data-chart=loss] .plot")].some((e) => e.dataset.xHigh == {step})')
        delays.append(time.monotonic() - began)
        settle(tab)
    return delays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runs', type=int, default=200, help='how many')
    parser.add_argument('--points', type=int, default=10_000, help='of each')
    parser.add_argument('--folder', type=pathlib.Path, help='where the runs are written, or are from a call before')
    parser.add_argument('--picture', type=pathlib.Path, help='where a screenshot is written')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or pathlib.Path(made) / 'runs'
        paths = [folder / f'w{number // 5:02d}' / f'seed{number % 5}' for number in range(options.runs)]
        for number, path in enumerate(paths):
            if not path.exists():
                write_run(path, number, options.points)
        last = max(record['step'] for record in event_log.read(paths[0] / event_log.FILE))
        began = time.monotonic()
        with (
            server.LivePage(folder, address=web_server.Address(port=0)) as page,
            browser.tab(pathlib.Path(made) / 'browser') as tab,
        ):
            tab.size(1_400, 900)
            tab.open(page.url, before=WATCH)
            settle(tab)
            print(f'{time.monotonic() - began:7.1f} s until the first charts were drawn, of what was read so far')
            tab.wait('document.querySelector(".counts") && !document.querySelector(".counts b")', timeout_s=1_200)
            print(f'{time.monotonic() - began:7.1f} s until all {options.runs:,} logs were read')
            settle(tab)
            began = time.monotonic()
            tab.value(
                "fetch('/chart?chart=loss&width=800').then((answer) => answer.text()).then((text) => text.length)"
            )
            print(f'{time.monotonic() - began:7.2f} s for a chart of all runs')
            loaded = tab.value('performance.getEntriesByType("navigation")[0].loadEventEnd')
            reading = [duration for start, duration in tab.value('window.tasks.splice(0)') if start > loaded]
            delays = interact(tab, paths[0] / event_log.FILE, last)
            busy = [duration for _, duration in tab.value('window.tasks')]
            if options.picture:
                tab.picture(options.picture)
            own = {address for address in tab.requested if not address.startswith((page.url, 'data:'))}
    longest = max(busy, default=0.0)
    first = max(reading, default=0.0)
    print(f'{first:7.0f} ms: the longest of {len(reading)} long tasks after it was loaded, while logs were being read')
    print(f'{longest:7.0f} ms: the longest of {len(busy)} long tasks after that, while a person did things')
    print(f'{max(delays):7.2f} s until a new point was on the screen, at most, of {len(delays)}')
    print(f'{len(own):7d} requests to elsewhere; Python {platform.python_version()}, {platform.machine()}')
    if max(longest, first) > LONGEST_MS or max(delays) > LATEST_S or own or tab.errors:
        raise SystemExit(f'promised: {LONGEST_MS} ms, {LATEST_S} s, no other origin, no error: {own} {tab.errors}')


if __name__ == '__main__':
    main()
