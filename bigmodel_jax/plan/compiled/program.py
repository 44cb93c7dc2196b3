"""The train step of an experiment compiled for a slice that need not exist, and what can be read from it.

Nothing is allocated and no data are read: the shapes follow from the experiment.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from bigmodel_jax import config, experiment
from bigmodel_jax.data import batches, cache
from bigmodel_jax.parallel import sharding, torus
from bigmodel_jax.plan import estimates
from bigmodel_jax.plan.compiled import collectives, hlo, memory_estimate, traffic
from bigmodel_jax.plan.hardware import slices
from bigmodel_jax.train import state, step
from bigmodel_jax.train.flops import count

Say = Callable[[str], None]

TEXT, NUMBERS = 'program.hlo.gz', 'program.json'
SAY_EVERY_S = 15.0
FLAGS = ('XLA_FLAGS', 'LIBTPU_INIT_ARGS')  # Environment variables that the compiler reads.
# 'the total memory required for HLO temporaries (17.35G) exceeds available HBM (15.75G)'; 'Used 17.35G of 15.75G hbm'.
TOO_LARGE = re.compile(r'\(([\d.]+)([KMGTP]?)\) exceeds available HBM|Used ([\d.]+)([KMGTP]?) of [\d.]+[KMGTP]? hbm')
UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40, 'P': 2**50}


class DoesNotFit(config.InputError):
    """The step needs more memory than a chip has: `needed` and `limit`, in bytes."""

    def __init__(self, where: str, *, needed: int, limit: int) -> None:
        super().__init__(
            f'{where}: the step needs {needed / 2**30:,.1f} GiB of {limit / 2**30:,.1f} GiB on each chip. Keep less '
            'for the backward pass (model.stack.remat), use more microbatches, a smaller batch, or a larger slice.'
        )
        self.needed, self.limit = needed, limit


class TracedProgram(NamedTuple):
    """The step of an experiment before it is compiled."""

    program: Any  # jax.stages.Traced
    spec: state.StateSpec
    batch: dict[str, jax.ShapeDtypeStruct]
    place: sharding.ShardingContext
    mesh: sharding.MeshShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """What is kept of a compiled program. JSON-ready but for the text."""

    text: str  # The program, as the compiler prints it.
    peak: int  # Bytes of one chip's memory.
    seconds: float  # That the compiler took, by the clock.
    cpu_seconds: float  # On all cores together.


def program(
    of: experiment.Experiment, on: slices.Slice, *, say: Say | None = None, options: Mapping[str, str] | None = None
) -> estimates.Program:
    """The step of an experiment as the compiler makes it for a slice: minutes the first time, then from the cache.

    Args:
      say: is told from time to time what is going on.
      options: of the compiler, as `lowered.compile(compiler_options=...)` takes them.

    Raises:
      InputError: the experiment cannot run on the slice, or the compiler is missing; DoesNotFit, if the step needs more
        memory than there is.
    """
    say = say or (lambda message: None)
    if of.mesh.slices != on.count:
        raise config.InputError(
            f'{on}: number of slices {on.count}, but mesh.slices={of.mesh.slices}; set mesh.slices={on.count}.'
        )
    say(f'{on}: tracing the step')
    traced = trace(of, on.devices())
    compiled = compile_step(traced, on, say=say, options=options)
    counts, waterfall = measure(traced, compiled, limit=on.chip.hbm_bytes)
    return estimates.Program(
        chip=on.chip.name,
        slice=str(on),
        mesh=traced.place.sizes,
        memory=waterfall,
        counts=counts,
        compile_seconds=compiled.seconds,
        compile_cpu_seconds=compiled.cpu_seconds,
        versions=versions(),
        source='compiled',
    )


def trace(of: experiment.Experiment, devices: Sequence[jax.Device]) -> TracedProgram:
    """The step of an experiment on `devices`, which may be those of Slice.devices().

    Raises:
      InputError: the experiment cannot run on so many devices, or leaves some of them idle.
    """
    place = of.mesh.build(devices)
    if place.mesh.size != len(devices):
        raise config.InputError(
            f'mesh {torus.shape_text(place.sizes)} leaves {len(devices) - place.mesh.size} of {len(devices)} '
            'devices idle; set mesh.data=-1, which takes what the other axes leave, or choose a smaller slice.'
        )
    spec = state.specify(of, place)
    batch = {}
    for name, field in batches.batch_fields(of.data.fields).items():
        where = place.batch_sharding(1 + len(field.shape))
        batch[name] = jax.ShapeDtypeStruct((of.data.batch, *field.shape), field.dtype, sharding=where)
    abstract = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        spec.abstract,
        spec.shardings,
    )
    with sharding.use(place):
        jitted: Any = step.compile_step(of, spec, place)
        traced = jitted.trace(abstract, batch)
    return TracedProgram(traced, spec, batch, place, of.mesh)


def compile_step(
    traced: TracedProgram, on: slices.Slice, *, say: Say, options: Mapping[str, str] | None = None
) -> Compiled:
    """The compiled step, from the cache if the same program was compiled before for the same slice.

    Raises:
      DoesNotFit: the step needs more memory than there is.
    """
    lowered = traced.program.lower()
    key = {
        'program': hashlib.sha256(lowered.as_text().encode()).hexdigest(),
        'slice': str(on),
        'options': dict(options or {}),
        'versions': versions(),
        'flags': {name: os.environ.get(name, '') for name in FLAGS},
    }

    def make(directory: pathlib.Path, _: pathlib.Path) -> None:
        with _saying_so(f'{on}: compiling for {on.size} devices', say):
            compiled = _compile(lowered, options)
        numbers: dict[str, Any] = compiled if isinstance(compiled, dict) else dataclasses.asdict(compiled)
        text: str = numbers.pop('text', '')
        (directory / TEXT).write_bytes(gzip.compress(text.encode(), mtime=0))
        (directory / NUMBERS).write_text(json.dumps(numbers), encoding='utf-8')

    entry = cache.prepared('programs', key, make)
    numbers = json.loads((entry / NUMBERS).read_text(encoding='utf-8'))
    if 'needed' in numbers:
        raise DoesNotFit(str(on), needed=numbers['needed'], limit=on.chip.hbm_bytes)
    return Compiled(text=gzip.decompress((entry / TEXT).read_bytes()).decode(), **numbers)


def _compile(lowered: Any, options: Mapping[str, str] | None) -> Compiled | dict[str, int]:
    """The compiled program; {'needed': bytes} if it is too large for the chip."""
    start, cpu_start = time.perf_counter(), time.process_time()
    try:
        compiled = lowered.compile(compiler_options=dict(options) if options else None)
    except jax.errors.JaxRuntimeError as error:
        found = TOO_LARGE.search(str(error))
        if found is None:
            raise
        return {'needed': int(float(found[1] or found[3]) * UNITS[found[2] or found[4] or ''])}
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return read(compiled, seconds=seconds, cpu_seconds=cpu_seconds)


def read(compiled: Any, *, seconds: float, cpu_seconds: float) -> Compiled:
    """What is kept of a jax.stages.Compiled that took so long to make."""
    peak = compiled.memory_analysis().peak_memory_in_bytes
    return Compiled(text=compiled.as_text(), peak=peak, seconds=seconds, cpu_seconds=cpu_seconds)


def measure(traced: TracedProgram, compiled: Compiled, *, limit: int) -> tuple[estimates.Counts, estimates.Memory]:
    """What a compiled step computes, moves and keeps, on each chip.

    Args:
      limit: bytes of memory that a program may use.
    """
    module = hlo.parse(compiled.text)
    times = hlo.executions(module)
    layout = collectives.DeviceLayout(tuple(traced.place.sizes.items()), traced.mesh.slices, traced.mesh.across)
    work = count.work(traced.program.jaxpr).scaled(1 / traced.place.mesh.size)
    counts = estimates.Counts(
        flops=work.total,
        matmul_flops=work.matmul,
        model_flops=work.model,
        hbm_bytes=traffic.hbm_bytes(module, times),
        collectives=collectives.collectives(module, times, layout),
    )
    waterfall = memory_estimate.waterfall(module, peak=compiled.peak, spec=traced.spec, batch=traced.batch, limit=limit)
    return counts, waterfall


def versions() -> dict[str, str]:
    """Of what the compiled program depends on."""
    installed = {each.name.lower(): each.version for each in importlib.metadata.distributions()}
    return {name: installed[name] for name in ('jax', 'jaxlib', 'libtpu') if name in installed}


@contextlib.contextmanager
def _saying_so(what: str, say: Say) -> Iterator[None]:
    """Says that something goes on, and for how long, as long as it does."""
    done, start = threading.Event(), time.perf_counter()

    def run() -> None:
        while not done.wait(SAY_EVERY_S):
            say(f'{what}, {time.perf_counter() - start:.0f} s')

    say(what)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
