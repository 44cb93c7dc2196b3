"""Whether an experiment fits the machines of a target: its mesh, its batch, and the memory of a chip."""

import importlib.util
import math
from collections.abc import Iterator

from bigmodel_jax import config
from bigmodel_jax.console import quantities
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.launch.doctor import results
from bigmodel_jax.launch.targets import target
from bigmodel_jax.parallel import torus
from bigmodel_jax.plan import plan as planning
from bigmodel_jax.plan import request
from bigmodel_jax.plan.hardware import slices

MESH, BATCH, MEMORY = 'mesh', 'batch', 'memory'


def check(
    experiment: Experiment, machines: target.Machines, *, fast: bool, say: planning.Say
) -> Iterator[results.CheckResult]:
    """The results of the mesh, the batch and the memory.

    Args:
      fast: the memory by formula, although the compiler is installed.
    """
    if machines.devices is None:
        because = 'only the hosts know how many devices they have; train checks it before the first compile'
        yield results.not_checked(f'{MESH}, {BATCH}, {MEMORY}', because)
        return
    if machines.chips is None:
        yield from _on_devices(experiment, machines.devices)
        because = f'the target does not say which chip its {machines.devices} devices are'
        yield results.not_checked(MEMORY, because, '`plan EXPERIMENT --topology h100:8` says it for eight H100.')
        return
    yield from _on_chips(experiment, machines.chips, fast=fast, say=say)


def _on_devices(experiment: Experiment, devices: int) -> Iterator[results.CheckResult]:
    try:
        sizes = experiment.mesh.sizes(devices)
    except config.InputError as error:
        yield results.fault(MESH, str(error))
        yield results.not_checked(BATCH, 'there is no mesh')
        return
    used, text = math.prod(sizes.values()), torus.shape_text(sizes)
    if used < devices:
        yield results.fault(
            MESH,
            f'mesh {text} uses {used} of the {devices} devices of the target.',
            f'Use all, as with --set mesh.data=-1, or a target with {used}.',
        )
    else:
        yield results.ok(MESH, f'{text} on {devices} devices')
    parts = experiment.mesh.abstract(used, 'cpu').shards('batch') * experiment.gradients.microbatches
    yield _batch(experiment, parts)


def _batch(experiment: Experiment, parts: int) -> results.CheckResult:
    """Whether the batch divides over shards x microbatches."""
    rows = experiment.data.batch
    if rows % parts:
        return results.fault(
            BATCH,
            f'data.batch={rows} does not divide over {parts} parts, the shards of the batch x the microbatches.',
            f'Use a multiple of {parts}: --set data.batch={-(-rows // parts) * parts}',
        )
    return results.ok(BATCH, f'{rows} rows, {rows // parts} in each part')


def _on_chips(
    experiment: Experiment, on: slices.Slice, *, fast: bool, say: planning.Say
) -> Iterator[results.CheckResult]:
    try:
        laid = request.with_mesh(experiment, on)
    except config.InputError as error:
        yield results.fault(MESH, str(error))
        for name in (BATCH, MEMORY):
            yield results.not_checked(name, 'there is no mesh')
        return
    yield results.ok(MESH, f'{torus.shape_text(laid.mesh.sizes(on.size))} on {on}')

    def divides() -> str:
        request.check_shapes(laid, on)
        return f'{laid.data.batch} rows on {on.size} devices'

    batch = results.attempt(BATCH, divides)
    yield batch
    if batch.level is results.Level.FAULT:
        yield results.not_checked(MEMORY, 'the batch does not divide')
    else:
        yield _memory(experiment, on, fast=fast, say=say)


def _memory(experiment: Experiment, on: slices.Slice, *, fast: bool, say: planning.Say) -> results.CheckResult:
    """Whether a training step fits, as `plan` says it."""
    compiles = not fast and on.chip.platform == 'tpu' and importlib.util.find_spec('libtpu') is not None
    try:
        made = planning.make(experiment, on, fast=not compiles, say=say)
    except config.InputError as error:
        return results.not_checked(MEMORY, f'it cannot be planned: {error}')
    needed, limit = made.program.memory.peak, made.program.memory.limit
    how = 'by the TPU compiler' if compiles else 'by formula'
    text = f'{quantities.size(needed)} of the {quantities.size(limit)} of a chip, {how}'
    if not made.fits:
        advice = '\n'.join(made.advice[:3]) or 'Use a smaller batch, or more or larger chips.'
        return results.fault(MEMORY, f'does not fit: {text}.', advice)
    if made.uncertain:
        compiler = '`pip install libtpu` (200 MB) lets the TPU compiler say it' if on.chip.platform == 'tpu' else ''
        advice = f'{compiler or "Try a step on one such machine"}; or use a smaller batch, or more chips.'
        return results.warning(MEMORY, f'may not fit: {text}, which may be too low by up to 24%.', advice)
    return results.ok(MEMORY, text)
