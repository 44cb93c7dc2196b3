"""What eight seeds of a small model cost in one process of `sweep`, against one seed and against a process for each.

The cost of a seed is what a person waits for: the start of Python, the compilation, the steps, the evaluation and the
checkpoint, and what the sweep itself takes. Every sweep begins with an empty cache of compiled programs. Seconds of the
processors are printed beside those of the clock, as they depend less on what else the machine does. The numbers of the
runs are compared: the losses of every report and of the evaluation, and the digests of the last states.

On the CPU the order of sums depends on the number of cores of a process, so that the states are compared at one process
at a time alone.

Figures with --steps 60, on two cores of an x86-64 machine with jax 0.10.2 and no other work: one seed 25 s of the clock
and 33 s of the processors; eight seeds in one process 52 s and 70 s, which is 2.0 times and 2.1 times one seed; eight
processes, one at a time, 103 s and 126 s; two at a time, 62 s and 116 s, which is 1.2 times and 1.7 times the one
process. Trials of one process and of processes of their own, with as many cores, ended with the same states.

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
from typing import NamedTuple

from bigmodel_jax.sweeps import sweep_directory

ROOT = pathlib.Path(__file__).resolve().parents[2]
SWEEP = """
'One arm.'
from bigmodel_jax import experiment_file
BASE = experiment_file.load({digits!r})
def sweep():
    return {{'baseline': BASE}}
"""


def start(folder: pathlib.Path, steps: int, seeds: int, *options: str) -> subprocess.Popen:
    """Begins a sweep of one arm with some seeds, with a cache of compiled programs of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / 'one.py'
    file.write_text(SWEEP.format(digits=str(ROOT / 'experiments/digits.py')))
    environment = {**os.environ, 'BIGMODEL_JAX_CACHE': tempfile.mkdtemp(dir=folder)}
    command = [sys.executable, '-m', 'bigmodel_jax', 'sweep', str(file), '--workdir', str(folder / 'sweep')]
    for name in ('steps', 'evaluations.0.every_steps', 'checkpoints.every_steps'):
        command += ['--set', f'{name}={steps}']
    command += ['--seeds', str(seeds), *options]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


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


def cost(folder: pathlib.Path, steps: int, seeds: int, *options: str) -> Cost:
    """What a sweep costs."""
    before, began = processors(), time.perf_counter()
    process = start(folder, steps, seeds, *options)
    if process.wait():
        raise SystemExit(f'{folder}: the sweep ended with status {process.returncode}.')
    return Cost(time.perf_counter() - began, processors() - before)


def losses(run: pathlib.Path) -> list[float]:
    """Every loss that a run reported."""
    records = map(json.loads, (run / 'metrics.jsonl').read_text().splitlines())
    measured = [each['metrics'] for each in records if each['kind'] in ('train', 'evaluation')]
    return [each['loss'] for each in measured if 'loss' in each]


def differences(left: pathlib.Path, right: pathlib.Path) -> tuple[float, bool]:
    """The largest relative difference of a loss, and whether the digests of the last states are equal."""
    sweeps = [sweep_directory.open_sweep(folder / 'sweep') for folder in (left, right)]
    largest, equal = 0.0, True
    for entry in sweeps[0].description.trials:
        one, other = (each.trial(entry) for each in sweeps)
        pairs = zip(losses(pathlib.Path(one)), losses(pathlib.Path(other)), strict=True)
        largest = max(largest, *(abs(x - y) / abs(y) for x, y in pairs))
        first, second = (each.run(entry) for each in sweeps)
        equal = equal and first is not None and second is not None and first.digest == second.digest
    return largest, equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, default=8)
    parser.add_argument('--steps', type=int, default=200)
    parser.add_argument('--at-a-time', type=int, nargs='+', default=[1, 2])
    parser.add_argument('--workdir', type=pathlib.Path)
    options = parser.parse_args()
    root = options.workdir or pathlib.Path(tempfile.mkdtemp())
    versions = ', '.join(f'{name} {importlib.metadata.version(name)}' for name in ('jax', 'flax'))
    print(f'{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {versions}')
    one = cost(root / 'one', options.steps, 1, '--jobs', '1')
    print(f'one seed: {one}', flush=True)
    together = cost(root / 'together', options.steps, options.seeds, '--jobs', '1')
    print(f'{options.seeds} seeds in one process: {together.beside(one)} one seed', flush=True)
    for jobs in options.at_a_time:
        folder = root / f'apart{jobs}'
        apart = cost(folder, options.steps, options.seeds, '--jobs', str(jobs), '--no-together')
        print(f'{options.seeds} processes, {jobs} at a time: {apart.beside(together)} one process', flush=True)
        if jobs > 1:
            continue
        largest, equal = differences(root / 'together', folder)
        print(f'largest relative difference of a loss: {largest:.1e}; the last states are equal: {equal}', flush=True)
    print(f'load at the end {os.getloadavg()[0]:.1f}')


if __name__ == '__main__':
    main()
