"""How long `runs` takes for thousands of runs: from its index, and when it reads every directory.

One tiny run is trained. Its directory is copied, with other values in some fields, other numbers in its log and other
times; some copies are interrupted or damaged. Whole commands are timed, each in a process of its own.

Example: python scripts/benchmark/catalogue.py --runs 2000
"""

import argparse
import json
import pathlib
import platform
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

import numpy as np

from bigmodel_jax.run_directory import event_log

EXPERIMENT = """
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.evaluate import loss
from bigmodel_jax.experiment import Checkpoints, Experiment, Watch
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules

def experiment():
    data = text.Text(source=sources.TextFile(path='input.txt'), tokenizer=tokenizers.Bytes(), batch=4, length=16)
    return Experiment(
        name='tiny',
        steps=200,
        data=data,
        model=decoder.gpt(vocab=320, width=16, layers=2, heads=4, length=16),
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(schedule=schedules.WarmupCosine(peak=1e-2, warmup_steps=4)),
        checkpoints=Checkpoints(every_steps=100),
        evaluations=(loss.Loss(data=data, every_steps=50),),
        watch=Watch(log_every=5),
    )
"""
PEAKS, WIDTHS, LAYERS = (1e-4, 3e-4, 1e-3, 3e-3), (64, 128, 256), (2, 4, 8, 12)
ROUNDS = 3
LIST_S, REBUILD_S = 2.0, 60.0  # What is promised.
SETTLE_S = 2.5  # Files that were changed a moment ago are read again each time.


class Taken(NamedTuple):
    """Seconds of a whole command; those of the processor say something on a machine that does other work too."""

    wall: float
    processor: float

    def __str__(self) -> str:
        return f'{self.wall:7.2f} s, {self.processor:6.2f} s of the processor: '


def command(folder: pathlib.Path, *words: str) -> Taken:
    """What a command of this package takes, started as a person starts it."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, '-m', 'bigmodel_jax', *words], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f'{words}: {done.stderr}')
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Taken(time.perf_counter() - began, processor)


def train(folder: pathlib.Path) -> pathlib.Path:
    """Trains the run that is copied."""
    (folder / 'tiny.py').write_text(EXPERIMENT)
    (folder / 'input.txt').write_text('The quick brown fox jumps over the lazy dog. ' * 200)
    command(folder, 'train', 'tiny.py', '--workdir', 'trained')
    return folder / 'trained'


def copy(trained: pathlib.Path, root: pathlib.Path, number: int) -> None:
    """A run like the trained one, with values of its own."""
    random = np.random.default_rng(number)
    to = root / f'study{number % 10}' / f'run{number:05d}'
    to.mkdir(parents=True)
    stored = json.loads((trained / 'experiment.json').read_text())
    stored['name'], stored['seed'] = f'study{number % 10}', number % 5
    stored['model']['width'] = WIDTHS[number // 5 % len(WIDTHS)]
    stored['model']['layers'] = LAYERS[number // 15 % len(LAYERS)]
    stored['optimizer']['schedule']['peak'] = PEAKS[number // 60 % len(PEAKS)]
    (to / 'experiment.json').write_text(json.dumps(stored, indent=1))
    shutil.copy(trained / 'environment.json', to)
    records = event_log.read_all(trained / event_log.FILE)
    shift, later_s = random.normal(scale=0.05), 60.0 * number
    lines = [event_log.encode(changed(record, shift, later_s)) for record in records]
    if number % 50 == 0:
        lines = lines[: len(lines) // 2]  # It was killed.
    if number % 200 == 1:
        lines[3] = lines[3][:40]  # A line was cut.
    (to / event_log.FILE).write_text('\n'.join([*lines, '']))
    if number % 200 == 2:
        (to / 'experiment.json').write_bytes(random.bytes(1_000))
    for name in ('checkpoints', 'tensorboard'):
        (to / name).mkdir()


def changed(record: dict[str, Any], shift: float, later_s: float) -> dict[str, Any]:
    """A record with its losses shifted, of a later time."""
    metrics = {name: value + shift * name.endswith('loss') for name, value in record.get('metrics', {}).items()}
    return {**record, 'time': record['time'] + later_s, **({'metrics': metrics} if metrics else {})}


def least(folder: pathlib.Path, *words: str) -> Taken:
    """The shortest of several."""
    return min(command(folder, 'runs', *words) for _ in range(ROUNDS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runs', type=int, default=2_000, help='how many run directories are made')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = pathlib.Path(made)
        trained, root = train(folder), folder / 'runs'
        for number in range(options.runs):
            copy(trained, root, number)
        time.sleep(SETTLE_S)
        per_run = sum(path.stat().st_size for path in (root / 'study3' / 'run00003').iterdir() if path.is_file())
        print(f'{options.runs:,} runs of {per_run / 1e3:,.0f} kB each, without checkpoints')
        rebuilt, listed = command(folder, 'runs', '--rebuild'), least(folder)
        figures = {
            'reads every directory': rebuilt,
            'lists from the index': listed,
            'with --where and --sort': least(
                folder,
                '--where',
                'model.layers >= 4 and seed == 0 and validation/loss < 9',
                '--sort',
                'validation/loss',
            ),
            '--group': least(folder, '--group', 'optimizer.schedule.peak'),
            '--tried of a part': least(folder, '--tried', 'model.block.ffn'),
            'every column as CSV': least(folder, '--format', 'csv'),
        }
        for what, taken in figures.items():
            print(f'{taken}{what}')
        size = next(root.glob('.runs.*.sqlite')).stat().st_size
        print(f'{size / 1e6:7.1f} MB index; Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}')
        # By the processor's time, which other work on the machine does not lengthen; each command is one process.
        if rebuilt.processor > REBUILD_S or listed.processor > LIST_S:
            raise SystemExit(f'too slow: at most {LIST_S} s from the index, and {REBUILD_S} s from the directories')


if __name__ == '__main__':
    main()
