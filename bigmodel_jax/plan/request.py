"""What is asked for, checked before anything is traced or compiled: errors carry the numbers and what would work."""

import dataclasses
import itertools
import math
from collections.abc import Iterator

from bigmodel_jax import config
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.layers import attention
from bigmodel_jax.parallel import sharding, torus
from bigmodel_jax.plan.hardware import links, slices

Sizes = dict[str, int]  # Of each mesh axis.


def on_slice(experiment: Experiment, on: slices.Slice) -> Experiment:
    """with_mesh(), with its shapes checked.

    Raises:
      InputError: the mesh, the batch, the rows or the heads cannot be cut so; names the nearest that can.
    """
    found = with_mesh(experiment, on)
    check_shapes(found, on)
    return found


def with_mesh(experiment: Experiment, on: slices.Slice) -> Experiment:
    """`experiment` with its mesh laid on a slice: `data=-1` is resolved, and several slices are joined.

    Raises:
      InputError: the mesh cannot be laid so; names the nearest that can.
    """
    mesh = experiment.mesh
    if mesh.data < 1 and mesh.data != -1:
        mesh.sizes(on.size)  # Raises.
    sizes = {axis: getattr(mesh, axis) for axis in sharding.AXES}
    inner = math.prod(size for axis, size in sizes.items() if axis != 'data')
    if sizes['data'] == -1:
        sizes['data'] = max(on.size // inner, 1)
    if math.prod(sizes.values()) != on.size:
        raise config.InputError(
            f'mesh {torus.shape_text(sizes)} multiplies to {math.prod(sizes.values())} devices, but {on} has '
            f'{on.size}.{_advice(sizes, experiment, on)}'
        )
    if sizes[mesh.across] % on.count:
        raise config.InputError(
            f'mesh.{mesh.across}={sizes[mesh.across]} joins the {on.count} slices of {on}, so it must be a multiple of '
            f'{on.count}.{_advice(sizes, experiment, on)}'
        )
    try:
        links.dimensions(on, sizes, mesh.across)
    except config.InputError as error:
        raise config.InputError(f'{error}{_advice(sizes, experiment, on)}') from error
    laid = dataclasses.replace(mesh, slices=on.count, **sizes)
    return dataclasses.replace(experiment, mesh=laid)


def check_shapes(experiment: Experiment, on: slices.Slice) -> None:
    """Raises InputError where the batch, the rows or the heads do not divide over the mesh."""
    place = experiment.mesh.abstract(on.size, on.chip.platform)
    rows, parts = experiment.data.batch, place.shards('batch')
    if rows % (parts * experiment.gradients.microbatches):
        unit = parts * experiment.gradients.microbatches
        raise config.InputError(
            f'data.batch={rows} does not divide over {parts} shards of the batch x '
            f'{unit // parts} microbatches; use a multiple of {unit}, such as {-(-rows // unit) * unit}.'
        )
    lengths = {size for field in experiment.data.fields.values() for size in field.sizes('length')}
    for length, (logical, word) in itertools.product(
        lengths, (('length', 'sequence'), ('residual_length', 'sequence x tensor'))
    ):
        shards = place.shards(logical)
        if length > 1 and length % shards:
            raise config.InputError(
                f'Rows of {length} positions do not divide over {word} = {shards} devices; '
                f'use {-(-length // shards) * shards} positions, or a smaller mesh.{_divisors(length, shards)}'
            )
    for path, part in _attentions(experiment.model, 'model'):
        for field, heads in (('heads', part.heads), ('kv_heads', part.kv_heads or part.heads)):
            shards = place.shards(field)
            if heads % shards:
                raise config.InputError(
                    f'{path}.{field}={heads} does not divide over mesh.tensor={shards}.{_divisors(heads, shards)}'
                )


def _divisors(number: int, wanted: int) -> str:
    """The divisors of `number` nearest to what was wanted."""
    known = [part for part in range(1, number + 1) if number % part == 0]
    near = sorted(sorted(known, key=lambda part: abs(math.log(part / wanted)))[:2])
    return f' The nearest that divide {number}: {", ".join(map(str, near))}.'


def _attentions(node: object, path: str) -> Iterator[tuple[str, attention.Attention]]:
    for name, value in config.walk(node):
        if isinstance(value, attention.Attention):
            yield f'{path}.{name}', value
        if config.is_config(value):
            yield from _attentions(value, f'{path}.{name}')


def meshes(on: slices.Slice, axes: tuple[str, ...], across: str = 'data') -> Iterator[Sizes]:
    """Every mesh of `axes` that can be laid on a slice, in a fixed order: smaller tensor first."""
    names = [axis for axis in sharding.AXES if axis in (*axes, across)]
    per_slice = on.size // on.count
    for split in _splits(per_slice, len(names)):
        mesh = dict.fromkeys(sharding.AXES, 1) | dict(zip(names, reversed(split)))
        mesh[across] *= on.count
        try:
            links.dimensions(on, mesh, across)
        except config.InputError:
            continue
        yield mesh


def _splits(number: int, parts: int) -> Iterator[tuple[int, ...]]:
    """The ways to write a number as an ordered product."""
    if parts == 1:
        yield (number,)
        return
    for first in range(1, number + 1):
        if number % first == 0:
            for rest in _splits(number // first, parts - 1):
                yield (first, *rest)


def _advice(wanted: Sizes, experiment: Experiment, on: slices.Slice) -> str:
    """The nearest mesh of the same axes that can be laid on the slice."""
    axes = tuple(axis for axis, size in wanted.items() if size > 1) or ('data',)
    across = experiment.mesh.across
    legal = list(meshes(on, tuple(dict.fromkeys((*axes, 'data'))), across))

    def distance(mesh: Sizes) -> float:
        return sum(abs(math.log(mesh[axis] / wanted[axis])) for axis in sharding.AXES)

    if not legal:
        return f' No mesh of {", ".join(axes)} can be laid on {on}; use other axes, or another slice.'
    near = min(legal, key=distance)
    changes = ' '.join(f'--set mesh.{axis}={near[axis]}' for axis in sharding.AXES if near[axis] != wanted[axis])
    return f' The nearest that can: {torus.shape_text(near)} ({changes}).'
