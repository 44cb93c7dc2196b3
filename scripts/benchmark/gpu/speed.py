"""How fast the framework trains, decodes and saves on this device."""

import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import jax_side
import sizes

from bigmodel_jax.evaluate.text import decoding
from bigmodel_jax.hosts import chips
from bigmodel_jax.kernels import paths
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import step
from bigmodel_jax.train.flops import one_device, utilization

STEPS, WARM = 20, 3
SCRIPTS = pathlib.Path(__file__).parents[1]


def training(name: str, dry: bool) -> dict[str, Any]:
    """Tokens per second of a training step, its MFU and memory, the attention it uses, and the seconds to its end."""
    size = sizes.SIZES[name].toy if dry else sizes.SIZES[name]
    asked = jax_side.experiment(size)
    began = time.perf_counter()
    made = jax_side.training(asked, sizes.tokens(size))
    current, times = made.state, []
    with sharding.use(made.place), paths.noted() as used:
        for number in range(1 + WARM + STEPS):
            start = time.perf_counter()
            current, seen = made.update(current, made.batch)
            jax.block_until_ready((current, seen))
            times.append(time.perf_counter() - start)
            if number == 0:
                first = time.perf_counter() - began
    median = statistics.median(times[1 + WARM :])
    found = {'ms': 1e3 * median, 'least_ms': 1e3 * min(times[1 + WARM :]), 'tokens_per_s': size.tokens / median}
    found |= {'first_s': first, 'parameters': sum(each.size for each in jax.tree.leaves(current.params))}
    return found | _rates(asked, median) | memory() | {'attention': sorted(set(used.values()))}


def _rates(asked: Any, seconds: float) -> dict[str, Any]:
    """TFLOP/s of the model, and the MFU where the peak of the device is known."""
    flops = one_device.trace(asked).work.model / seconds
    chip = chips.of_kind(jax.devices()[0].device_kind)
    known = {} if chip is None else {'mfu': flops / chip.flops, 'peak_tflops': chip.flops / 1e12}
    return {'model_tflops': flops / 1e12, **known, 'counted': utilization.SIGNATURE}


def memory() -> dict[str, float]:
    stats = jax.local_devices()[0].memory_stats()
    return {} if stats is None else {'peak_gib': stats['peak_bytes_in_use'] / 2**30}


def decoding_rates(size: sizes.Size, rows: int, new: int) -> dict[str, float]:
    """New tokens per second of `rows` texts at once, and the bytes of weights that they read per second."""
    model = jax_side.experiment(size).model
    made = jax_side.training(jax_side.experiment(size), sizes.tokens(size))
    prompts = list(sizes.tokens(size)[:1, :16].repeat(rows, axis=0))

    def write() -> None:
        with sharding.use(made.place):
            # No random weights end every text: the end token is drawn once in a vocabulary of tokens.
            decoding.decode(
                model, made.state.params, prompts, tokens=new, decoding=decoding.Sampling(), end=size.vocab - 1
            )

    write()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        write()
        times.append(time.perf_counter() - start)
    seconds = min(times)
    weights = sum(each.nbytes for each in jax.tree.leaves(made.state.params))
    return {
        'tokens_per_s': rows * new / seconds,
        'ms_per_token': 1e3 * seconds / new,
        'gb_per_s': weights * new / seconds / 1e9,
    }


def decode(dry: bool) -> dict[str, Any]:
    """Decoding with the cache, of one text and of 32; the prompt of 16 tokens is read in the time too."""
    size = sizes.SIZES['gpt2_124m'].toy if dry else sizes.SIZES['gpt2_124m']
    return {f'{rows} texts': decoding_rates(size, rows, 8 if dry else 128) for rows in (1, 32)}


def checkpoint(dry: bool) -> dict[str, Any]:
    """How long a save blocks the step, and the speed of writing and reading beside dd: what checkpoints.py prints."""
    with tempfile.TemporaryDirectory() as directory:
        gigabytes = '0.01' if dry else '2'
        options = ['--directory', directory, '--gigabytes', gigabytes, '--rounds', '1']
        command = [sys.executable, str(SCRIPTS / 'checkpoints.py'), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):  # 1: slower than it promises, which is a result.
        raise SystemExit(f'checkpoints.py: status {done.returncode}: {done.stderr[-1_000:]}')
    return {'output': done.stdout.splitlines()[-8:]}


def seeds(dry: bool) -> dict[str, Any]:
    """Eight trainings of the char model in one vmapped program against one; ms of a step of all."""
    size = sizes.SIZES['char'].toy if dry else sizes.SIZES['char']
    asked = jax_side.experiment(size)
    made = jax_side.training(asked, sizes.tokens(size))

    def update(state: Any, batch: Any) -> Any:
        return step.train_step(state, batch, spec=made.spec, experiment=asked)[0]

    with sharding.use(made.place):
        one = _least(jax.jit(update), made.state, made.batch)
        eight = jax.tree.map(lambda x: jnp.stack([x] * 8), made.state)
        together = _least(jax.jit(jax.vmap(update, in_axes=(0, None))), eight, made.batch)
    return {'one_ms': 1e3 * one, 'eight_ms': 1e3 * together, 'ratio': together / one}


def _least(update: Any, state: Any, batch: Any) -> float:
    """The least seconds of a step."""
    times = []
    for _ in range(1 + STEPS):
        start = time.perf_counter()
        state = jax.block_until_ready(update(state, batch))
        times.append(time.perf_counter() - start)
    return min(times[1:])
