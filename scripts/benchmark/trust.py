"""What checksums, fingerprints and certificates cost, as a share of the step.

    python scripts/benchmark/trust.py [--models char 20m] [--rounds 30]

The bare step has neither certificate nor norms of the pieces nor a guard; the whole one is what `train` runs. They take
turns, and processor time of all cores is taken, which other work on the machine troubles less than the clock. Timed
alone: a fingerprint, every 100 steps by default; the hashes of the examples' ids, by the thread that reads the batch;
the checksums of a checkpoint, every 1,000 steps.
"""

import argparse
import functools
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from bigmodel_jax.config import vary
from bigmodel_jax.data import batches
from bigmodel_jax.experiment import Experiment, Watch
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.objectives.objective import Apply
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.run_directory import digest, fingerprints
from bigmodel_jax.train import device_memory, gradients, prefetch, state, step

SIZES = {  # vocab, width, layers, heads, length, rows
    'char': (65, 128, 4, 4, 64, 12),
    '20m': (8_192, 384, 8, 6, 256, 8),
}
EXAMPLES = 100_000


class Random(batches.Data):
    """Rows of random tokens."""

    def __init__(self, vocab: int, length: int, rows: int):
        self.vocab, self.length, self.batch = vocab, length, rows

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        tokens = batches.Field((self.length,), np.dtype(np.int32), ('length',), self.vocab)
        return {'inputs': tokens, 'targets': tokens}

    def build(self, seed: int) -> batches.Batches:
        tokens = np.random.default_rng(seed).integers(0, self.vocab, (1, self.length)).astype(np.int32)
        arrays = {name: np.broadcast_to(tokens, (EXAMPLES, self.length)) for name in ('inputs', 'targets')}
        examples = batches.ArrayExamples(arrays, self.fields, fingerprint={'name': 'random'})
        return batches.Batches(examples, rows=self.batch, seed=seed)


def experiment(name: str) -> Experiment:
    vocab, width, layers, heads, length, rows = SIZES[name]
    return Experiment(
        name=name,
        steps=1_000,
        data=Random(vocab, length, rows),  # type: ignore[arg-type]  # Only ever asked to build.
        model=vary(decoder.gpt(vocab=vocab, width=width, layers=layers, heads=heads, length=length), {}),
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(schedule=schedules.Constant(peak=1e-3), weight_decay=0.1, clip_norm=1.0),
        mesh=sharding.MeshShape(data=1),
    )


def bare_step(current: Any, batch: Any, *, spec: state.StateSpec, of: Experiment) -> Any:
    """The update without anything that says what it was."""
    apply = Apply(spec.module, current.params, current.model_state)
    key = step.key(of.seed, current.step)
    grads, outcome = gradients.compute(of.gradients, of.objective, apply, current.params, batch=batch, key=key)
    updates, opt_state = spec.optimizer.update(grads, current.opt_state, current.params)
    params = optax.apply_updates(current.params, updates)
    metrics = outcome.metrics | {'grad_norm': optax.global_norm(grads)}
    return current._replace(step=current.step + 1, params=params, opt_state=opt_state), metrics


def seconds(action: Callable[[], Any]) -> float:
    began = time.process_time()
    jax.block_until_ready(action())
    return time.process_time() - began


class Side:
    """A step and the state that it goes on from."""

    def __init__(self, update: Callable[..., Any], current: Any, batch: Any):
        self.update, self.current, self.batch = update, current, batch

    def run(self) -> Any:
        self.current, said = self.update(self.current, self.batch)
        return self.current, said


def measure(name: str, rounds: int) -> None:
    """Prints the table of one model."""
    of = experiment(name)
    place, data = of.mesh.build(), of.data.build(0)
    with sharding.use(place):
        spec = state.specify(of, place)
        batch = place.put_batch(prefetch.read(data, 0, slice(None)), data.rows)
        bare = functools.partial(bare_step, spec=spec, of=of)
        plain = {key: value for key, value in batch.items() if key != batches.ROW_HASH}
        sides = {
            'bare': Side(jax.jit(bare, donate_argnums=0), spec.init(), plain),
            'whole': Side(step.compile_step(of, spec, place), spec.init(), batch),
        }
        take = jax.jit(functools.partial(fingerprints.take, stacked=fingerprints.stacked(spec.axes)))
        current = spec.init()
        jobs = {name: side.run for name, side in sides.items()}
        jobs['fingerprint'] = lambda: take(current.params, current.opt_state)
        sums = jax.jit(digest.checksums)
        jobs['checksums'] = lambda: sums((current.params, current.opt_state))
        ids = data.ids(0)
        jobs['row hashes'] = lambda: data.row_hashes(ids)
        for action in jobs.values():
            seconds(action)  # Compiles.
        turns = [{job: seconds(action) for job, action in jobs.items()} for _ in range(rounds)]
    times = {job: [turn[job] for turn in turns] for job in jobs}
    show(name, spec.parameters, {job: statistics.median(found) for job, found in times.items()}, times)


def show(name: str, parameters: int, median: Mapping[str, float], times: Mapping[str, list[float]]) -> None:
    watch = Watch()
    parts = {
        'certificate and norms, each step': median['whole'] - median['bare'],
        f'fingerprint, every {watch.fingerprints_every} steps': median['fingerprint'] / watch.fingerprints_every,
        'checksums, every 1,000 steps': median['checksums'] / 1_000,
        'row hashes, in the reading thread': median['row hashes'],
    }
    print(f'{name}: {parameters:,} parameters; processor time in ms, median and least of {len(times["bare"])}')
    for job in ('bare', 'whole'):
        print(f'  {job + " step":36} {median[job] * 1e3:8.3f} {min(times[job]) * 1e3:8.3f}')
    for part, cost in parts.items():
        print(f'  {part:36} {cost * 1e3:8.3f} ms  {cost / median["bare"]:7.2%}')
    total = sum(parts.values())
    print(f'  {"together":36} {total * 1e3:8.3f} ms  {total / median["bare"]:7.2%}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', choices=SIZES, default=list(SIZES))
    parser.add_argument('--rounds', type=int, default=30)
    options = parser.parse_args()
    device_memory.keep_freed()
    versions = ', '.join(f'{name} {importlib.metadata.version(name)}' for name in ('jax', 'numpy'))
    print(f'{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {versions}')
    for name in options.models:
        measure(name, options.rounds)


if __name__ == '__main__':
    main()
