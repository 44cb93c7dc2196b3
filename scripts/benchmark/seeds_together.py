"""What eight seeds of a small model cost in one process, against one seed and against a process for each.

The cost of a seed is what a person waits for: the start of Python, the compilation, the steps, the evaluation and the
checkpoint. Every process begins with an empty cache of compiled programs. Seconds of the processors are printed beside
those of the clock, as they depend less on what else the machine does. The numbers of the runs are compared: the losses
of every report and of the evaluation.

Figures with --steps 60, on two cores of an x86-64 machine with jax 0.10.2 and a load of 12 to 22 from other work, in
seconds of the processors, as those of the clock said more of the other work: one seed 23.7; eight seeds in one process
49.4, which is 2.1 times one seed; eight processes 193.5, which is 3.9 times the one process. All losses and
the digests of the last states were equal.

Run: .venv/bin/python scripts/benchmark/seeds_together.py [--seeds 8] [--steps 200] [--at-a-time 1 2] [--workdir DIR]
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
TRAIN = """
import sys
from bigmodel_jax import config, experiment_file
from bigmodel_jax.train import loop
from bigmodel_jax.train.together import training
steps, folder, *seeds = sys.argv[1:]
base = config.vary(
    experiment_file.load('experiments/digits.py'),
    {'steps': int(steps), 'evaluations.0.every_steps': int(steps), 'checkpoints.every_steps': int(steps)},
)
runs = [config.vary(base, {'seed': int(seed)}) for seed in seeds]
if len(runs) == 1:
    loop.train(runs[0], f'{folder}/{seeds[0]}')
else:
    ended = training.train_together(runs, [f'{folder}/{seed}' for seed in seeds])
    sys.exit(not all(isinstance(each, loop.TrainingResult) and each.step == int(steps) for each in ended))
"""


def start(folder: pathlib.Path, steps: int, seeds: Sequence[int]) -> subprocess.Popen:
    """Begins to train some seeds in one process, with a cache of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, 'BIGMODEL_JAX_CACHE': tempfile.mkdtemp(dir=folder)}
    command = [sys.executable, '-c', TRAIN, str(steps), str(folder), *map(str, seeds)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)


class Cost(NamedTuple):
    """Of one or several processes, in seconds."""

    clock: float
    processors: float

    def beside(self, other: 'Cost') -> str:
        ratios = self.clock / other.clock, self.processors / other.processors
        return f'{self} = {ratios[0]:.2f} x ({ratios[1]:.2f} x)'

    def __str__(self) -> str:
        return f'{self.clock:6.1f} s ({self.processors:6.1f} s of the processors)'


def processors() -> float:
    """Seconds of the processors that the processes took that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cost(folder: pathlib.Path, steps: int, groups: Sequence[Sequence[int]], at_a_time: int = 1) -> Cost:
    """What processes cost, of which each trains a group of seeds, so many at a time."""
    before = processors()
    began, waiting, running = time.perf_counter(), list(groups), list[subprocess.Popen]()
    while waiting or running:
        while waiting and len(running) < at_a_time:
            running.append(start(folder, steps, waiting.pop(0)))
        for process in [each for each in running if each.poll() is not None]:
            if process.returncode:
                raise SystemExit(f'{folder}: a process ended with status {process.returncode}.')
            running.remove(process)
        time.sleep(0.02)
    return Cost(time.perf_counter() - began, processors() - before)


def losses(run: pathlib.Path) -> list[float]:
    """Every loss that a run reported."""
    records = map(json.loads, (run / 'metrics.jsonl').read_text().splitlines())
    return [each['metrics']['loss'] for each in records if each['kind'] in ('train', 'evaluation')]


def difference(left: pathlib.Path, right: pathlib.Path, seeds: Sequence[int]) -> float:
    """The largest relative difference of a loss."""
    pairs = [pair for seed in seeds for pair in zip(losses(left / str(seed)), losses(right / str(seed)), strict=True)]
    return max(abs(one - other) / abs(other) for one, other in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, default=8)
    parser.add_argument('--steps', type=int, default=200)
    parser.add_argument('--at-a-time', type=int, nargs='+', default=[1, 2])
    parser.add_argument('--workdir', type=pathlib.Path)
    options = parser.parse_args()
    root = options.workdir or pathlib.Path(tempfile.mkdtemp())
    seeds = range(options.seeds)
    versions = ', '.join(f'{name} {importlib.metadata.version(name)}' for name in ('jax', 'flax'))
    print(f'{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {versions}')
    one = cost(root / 'one', options.steps, [[0]])
    print(f'one seed in one process: {one}', flush=True)
    together = cost(root / 'together', options.steps, [list(seeds)])
    print(f'{len(seeds)} seeds in one process: {together.beside(one)} one seed', flush=True)
    for at_a_time in options.at_a_time:
        folder = root / f'apart{at_a_time}'
        apart = cost(folder, options.steps, [[seed] for seed in seeds], at_a_time)
        print(f'{len(seeds)} processes, {at_a_time} at a time: {apart.beside(together)} one process', flush=True)
        largest = difference(root / 'together', folder, seeds)
        print(f'largest relative difference of a loss: {largest:.1e}', flush=True)
    print(f'load at the end {os.getloadavg()[0]:.1f}')


if __name__ == '__main__':
    main()
