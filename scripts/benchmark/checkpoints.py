"""How long a save blocks the step, and how fast checkpoints are written and read, beside dd on the same disk.

The state is of random float32 numbers, which no compression makes smaller. Each round measures everything once, one
after the other, so that a load that comes and goes meets all alike; the medians are compared. dd reads and writes a
file of the same numbers, with fsync. Before anything is read, it is dropped from the memory of the system.

Example: python scripts/benchmark/checkpoints.py --directory /mnt/disk --gigabytes 1 --rounds 5
"""

import argparse
import importlib.metadata
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from bigmodel_jax import experiment
from bigmodel_jax.checkpoints import checkpoints
from bigmodel_jax.parallel import sharding
from bigmodel_jax.run_directory import digest
from bigmodel_jax.train import device_memory, state

ARRAYS = 32
SHARE = 0.7  # Of what dd reaches; less is reported as missed.


def make_state(size_bytes: int) -> state.TrainState:
    """A state of so many bytes, in ARRAYS arrays; a third is parameters, the rest is of the optimizer."""
    shape = (size_bytes // ARRAYS // 4 // 1_024, 1_024)
    arrays = {f'array{i}': jax.random.normal(jax.random.key(i), shape) for i in range(ARRAYS)}
    params = {name: arrays.pop(name) for name in list(arrays)[: ARRAYS // 3]}
    return jax.block_until_ready(
        state.TrainState(step=jnp.int32(0), params=params, opt_state=arrays, model_state={}, levels={})
    )


def seconds(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def drop(path: pathlib.Path) -> None:
    """Makes the system forget what it has of the file, or of the files in the directory."""
    for file in path.rglob('*') if path.is_dir() else [path]:
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def dd(*arguments: str) -> None:
    subprocess.run(['dd', 'bs=8M', *arguments], check=True, stderr=subprocess.DEVNULL)


def one_round(folder: pathlib.Path, current: state.TrainState, number: int) -> Iterator[tuple[str, float]]:
    """What is measured, with the seconds it took."""
    source, copy, run = folder / 'source', folder / 'copy', folder / 'run'
    if not source.exists():
        with source.open('wb') as file:
            for leaf in jax.tree.leaves(current):
                file.write(np.asarray(leaf).tobytes())
    source.read_bytes()  # From memory it is read at no cost, as the arrays are.
    yield 'dd, write and fsync', seconds(lambda: dd(f'if={source}', f'of={copy}', 'conv=fsync'))
    drop(copy)
    yield 'dd, read', seconds(lambda: dd(f'if={copy}', 'of=/dev/null'))
    copy.unlink()
    yield 'copy to host memory', seconds(lambda: [np.array(leaf) for leaf in jax.tree.leaves(current)])
    yield 'checksums', seconds(lambda: jax.block_until_ready(digest.sums(current)))
    shardings = jax.tree.map(lambda x: x.sharding, current)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), current)
    with checkpoints.Checkpointer(epath.Path(run), experiment.Checkpoints(keep_last=1)) as store:
        began = time.perf_counter()
        store.save(current, {'step': number}, {})
        yield 'save, blocks the step', time.perf_counter() - began
        problem = store.finish()
        yield 'save', time.perf_counter() - began
    if problem is not None:
        raise SystemExit(problem)
    with checkpoints.Checkpointer(epath.Path(run), None) as store:
        drop(run)
        yield 'restore', seconds(lambda: jax.block_until_ready(store.restore(abstract, shardings, number)))
    shutil.rmtree(run)


def table(times: dict[str, list[float]], size_bytes: int) -> Iterator[str]:
    """The lines of the report."""
    medians = {name: statistics.median(each) for name, each in times.items()}
    yield f'{"":24s} {"median":>9s} {"least":>9s} {"most":>9s}'
    for name, each in times.items():
        speed = f'{size_bytes / medians[name] / 1e9:6.2f} GB/s' if name != 'save, blocks the step' else ''
        yield f'{name:24s} {medians[name]:7.3f} s {min(each):7.3f} s {max(each):7.3f} s  {speed}'
    for ours, theirs in (('save', 'dd, write and fsync'), ('restore', 'dd, read')):
        # Round by round, since the disk is many times as fast in one minute as in another.
        share = statistics.median(other / own for own, other in zip(times[ours], times[theirs]))
        yield f'{ours} reaches {share:.0%} of {theirs}{"" if share >= SHARE else f", less than {SHARE:.0%}"}'
    pairs = zip(times['save, blocks the step'], times['copy to host memory'])
    blocked = statistics.median(own / other for own, other in pairs)
    yield f'a save blocks the step for {blocked:.0%} of a copy to host memory'
    yield f'checksums take {medians["checksums"] / size_bytes * 1e9:.3f} s for each GB'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0], allow_abbrev=False)
    parser.add_argument('--directory', type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()))
    parser.add_argument('--gigabytes', type=float, default=1.0, help='of the state (default: 1)')
    parser.add_argument('--rounds', type=int, default=5, help='default: 5')
    options = parser.parse_args()
    device_memory.keep_freed()  # As a run does.
    packages = ', '.join(f'{name} {importlib.metadata.version(name)}' for name in ('jax', 'orbax-checkpoint'))
    print(f'{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}, {packages}')
    current = make_state(int(options.gigabytes * 1e9))
    size_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(current))
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=options.directory) as folder, sharding.use(sharding.MeshShape().build()):
        for number in range(options.rounds + 1):
            for name, spent in one_round(pathlib.Path(folder), current, number):
                times.setdefault(name, []).append(spent)
    print(f'{size_bytes / 1e9:.2f} GB in {ARRAYS} arrays, {options.rounds} rounds after one to warm up')
    print(f'load of the machine at the end: {os.getloadavg()[0]:.1f}')
    print('\n'.join(table({name: each[1:] for name, each in times.items()}, size_bytes)))


if __name__ == '__main__':
    main()
