"""What a fixed order of sums costs: time of a step, and memory of a device, with it and without, on simulated devices.

python scripts/benchmark/fixed_order.py                        a small GPT on 1, 2, 4 and 8 devices
python scripts/benchmark/fixed_order.py --width 256 --steps 50

Simulated devices share one CPU: that each of them computes the whole update shows here in full, that they would do so
at once does not. The last column are the first digits of the digest of the state at the end.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import rich.console
import rich.table

from bigmodel_jax.console import quantities
from bigmodel_jax.data import batches
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import gradients, optimizers, schedules
from bigmodel_jax.parallel import sharding, torus
from bigmodel_jax.run_directory import digest
from bigmodel_jax.train import fixed_order, state, step

PARTS, ROWS, LENGTH, VOCAB = 8, 16, 128, 1_024
MESHES = (
    sharding.MeshShape(data=1),
    sharding.MeshShape(data=2),
    sharding.MeshShape(data=2, fsdp=2),
    sharding.MeshShape(data=2, fsdp=4),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomTokens(batches.Data):
    """Rows of random tokens."""

    batch: int = ROWS

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        tokens = batches.Field((LENGTH,), np.dtype(np.int32), ('length',), VOCAB)
        return {'inputs': tokens, 'targets': tokens}


class Found(NamedTuple):
    seconds: float  # Median of a step.
    peak: int  # Bytes of one device: arguments, results and temporaries of the largest program.
    digest: str


def main() -> None:
    """Prints one line for each mesh, without and with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--width', type=int, default=128)
    parser.add_argument('--layers', type=int, default=4)
    parser.add_argument('--steps', type=int, default=20)
    options = parser.parse_args()
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', PARTS)
    table = rich.table.Table(box=None)
    for name in ('mesh', 'order', 'ms per step', 'peak of a device', 'state'):
        table.add_column(name, justify='left' if name in {'mesh', 'order', 'state'} else 'right')
    for mesh in MESHES:
        for method, order in ((gradients.WholeBatch(), 'any'), (gradients.FixedOrder(parts=PARTS), 'fixed')):
            of = dataclasses.replace(experiment(mesh, options.width, options.layers), gradients=method)
            found = measure(of, options.steps)
            shown = torus.shape_text(mesh.build().sizes)
            table.add_row(shown, order, f'{1e3 * found.seconds:.0f}', quantities.size(found.peak), found.digest[:12])
    rich.console.Console(width=100, highlight=False).print(table)


def experiment(mesh: sharding.MeshShape, width: int, layers: int) -> Experiment:
    rate = schedules.WarmupCosine(peak=1e-3, warmup_steps=4)
    return Experiment(
        name='fixed_order',
        steps=1_000,
        data=RandomTokens(),
        model=decoder.gpt(vocab=VOCAB, width=width, layers=layers, heads=8, length=LENGTH),
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(schedule=rate, weight_decay=0.1, clip_norm=1.0),
        mesh=mesh,
    )


def measure(of: Experiment, steps: int) -> Found:
    """Times `steps` steps after a first one, which compiles."""
    place = of.mesh.build()
    with sharding.use(place):
        spec = state.specify(of, place)
        current, times = spec.init(), []
        update: Any = step.compile_step(of, spec, place)
        batch = place.put_batch(random_batch(), ROWS)
        peak = None if isinstance(update, fixed_order.FixedOrderStep) else size(update.lower(current, batch).compile())
        for _ in range(1 + steps):
            start = time.perf_counter()
            current, trace = update(current, batch)
            jax.block_until_ready((current, trace))
            times.append(time.perf_counter() - start)
        if peak is None:
            # While parts are computed, one sum for each level of the tree waits on the device.
            levels = (PARTS // place.mesh.size).bit_length() - 1
            gradient = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(spec.abstract.params))
            peak = max(size(update.compiled['part']) + levels * gradient, size(update.compiled['finish']))
        return Found(statistics.median(times[1:]), peak, digest.digest(current))


def size(compiled: Any) -> int:
    """The bytes that a program needs on a device."""
    found = compiled.memory_analysis()
    total: int = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return total - found.alias_size_in_bytes


def random_batch() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    tokens = random.integers(0, VOCAB, (ROWS, LENGTH + 1), np.int32)
    weights = np.ones(ROWS, np.float32)
    return {'inputs': tokens[:, :-1], 'targets': tokens[:, 1:], batches.EXAMPLE_WEIGHTS: weights}


if __name__ == '__main__':
    main()
