#!/usr/bin/env python
"""What making a model smaller costs: a trained run in few bits, with zeros, and with fewer heads and units.

python scripts/benchmark/smaller.py RUN OUT            each method on one run; a table, and OUT/smaller.json
python scripts/benchmark/smaller.py RUN OUT --students 3 --steps 100
                                                       also a student of a quarter of the layers, taught by RUN and
                                                       alone, with the same seeds: the paired difference

Started again after it was interrupted, it goes on.
"""

import argparse
import json
import pathlib
import platform
import shutil
import sys
import time

import jax
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.compression import compressing, methods
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.objectives import distillation, language
from bigmodel_jax.quantization import formats, quantization
from bigmodel_jax.runs import directory
from bigmodel_jax.sweeps.statistics import estimates
from bigmodel_jax.train import loop
from bigmodel_jax.train.weights import teacher

POST = quantization.PostTraining


def quantize(**how: object) -> methods.CompressionMethod:
    return methods.Quantize(quantization=POST(**how))


def methods_of(model: object) -> dict[str, methods.CompressionMethod]:
    hidden, heads = model.block.ffn.hidden, model.block.mixer.heads
    return {
        'int8': quantize(),
        'int8, activations too': quantize(activations=formats.Int8()),
        'float8': quantize(weights=formats.Float8()),
        'int4': quantize(weights=formats.Int4()),
        'int4, groups of 32': quantize(weights=formats.Int4(), group=32),
        'zeros 30%': methods.PruneMagnitude(sparsity=0.3),
        'zeros 50%': methods.PruneMagnitude(sparsity=0.5),
        'zeros 70%': methods.PruneMagnitude(sparsity=0.7),
        'zeros 2:4': methods.PruneBlocks(kept=2, block=4),
        'half the units': methods.PruneStructures(hidden=hidden // 2),
        'a head less': methods.PruneStructures(heads=heads - 1),
    }


def line(name: str, found: compressing.CompressionReport) -> dict[str, object]:
    (quality,) = found.quality
    before, after = found.before, found.after
    row = {
        'method': name,
        'weights_bytes': after.weights_bytes,
        'stored_bytes': after.stored_bytes,
        'bytes_before': [before.weights_bytes, before.stored_bytes],
        'speed': after.examples_per_s / before.examples_per_s,
        'loss': quality.after,
        'change_percent': 100 * quality.change / quality.before,
        'interval_percent': [100 * quality.low / quality.before, 100 * quality.high / quality.before],
        'examples': quality.examples,
    }
    low, high = row['interval_percent']
    sys.stdout.write(
        f'{name:24} {after.weights_bytes / before.weights_bytes:6.3f} of the bytes, '
        f'{after.stored_bytes / before.stored_bytes:6.3f} on disk, speed x {row["speed"]:.2f}, '
        f'loss {row["change_percent"]:+.3f}% ({low:+.3f} to {high:+.3f})\n'
    )
    sys.stdout.flush()
    return row


def student(taught_by: str, of: Experiment, *, steps: int, seed: int) -> Experiment:
    sizes = {'model.layers': max(of.model.layers // 4, 1), 'steps': steps, 'seed': seed, 'name': 'student'}
    warmup = {'optimizer.schedule.warmup_steps': max(steps // 10, 1), 'checkpoints.every_steps': steps}
    chosen = tuple(each for each in of.evaluations if each.name == 'validation')
    base = config.vary(of, {**sizes, **warmup, 'evaluations': chosen})
    how = distillation.Distillation(teacher=teacher.TrainedTeacher(run=taught_by), temperature=2.0, soft=0.5)
    return config.vary(base, {'objective': how if taught_by else language.LanguageModel()})


def students(run: str, out: pathlib.Path, *, seeds: int, steps: int) -> dict[str, object]:
    of = directory.open_run(run).experiment
    losses = {'taught': [], 'alone': []}
    seconds = {'taught': 0.0, 'alone': 0.0}
    for seed in range(seeds):
        for arm, by in (('taught', run), ('alone', '')):
            path, began = out / f'{arm}{seed}', time.perf_counter()
            if loop.train(student(by, of, steps=steps, seed=seed), path).step < steps:
                raise SystemExit(f'{path} was stopped; the same command goes on.')
            seconds[arm] += time.perf_counter() - began
            losses[arm].append(float(directory.open_run(path).metrics('validation/loss')[1][-1]))
    estimate = estimates.paired(np.array(losses['taught']), np.array(losses['alone']))
    low, high = estimate.interval(0.95)
    sys.stdout.write(f'taught - alone: {float(estimate.difference):+.4f} ({low:+.4f} to {high:+.4f}), {losses}\n')
    difference = {'difference': float(estimate.difference), 'interval': [float(low), float(high)]}
    return {'losses': losses, **difference, 'seconds': seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run')
    parser.add_argument('out', type=pathlib.Path)
    parser.add_argument('--only', nargs='*', help='names of methods')
    parser.add_argument('--students', type=int, default=0)
    parser.add_argument('--steps', type=int, default=100)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = directory.open_run(options.run).experiment.model
    path = options.out / 'smaller.json'
    found = json.loads(path.read_text()) if path.exists() else {'methods': []}
    found |= {'machine': platform.processor() or platform.machine(), 'jax': jax.__version__}
    done = {row['method'] for row in found['methods']}
    for name, method in methods_of(model).items():
        if name in done or (options.only is not None and name not in options.only):
            continue
        destination = options.out / name.replace(' ', '_').replace(',', '')
        for left in (destination, destination.with_name(f'{destination.name}.partial')):
            shutil.rmtree(left, ignore_errors=True)  # Of an attempt that was interrupted.
        found['methods'].append(line(name, compressing.compress(options.run, destination, method)))
        path.write_text(json.dumps(found, indent=1) + '\n')
    if options.students:
        found['students'] = students(options.run, options.out, seeds=options.students, steps=options.steps)
        path.write_text(json.dumps(found, indent=1) + '\n')


if __name__ == '__main__':
    main()
