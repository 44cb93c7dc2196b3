"""Code that runs on each device's own part of the arrays, and the sums between devices that it needs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from bigmodel_jax.parallel import sharding, torus
from bigmodel_jax.parallel.sharding import AXES, LogicalAxes


def shard_map(
    function: Callable[..., Any],
    *,
    inputs: tuple[LogicalAxes | None, ...],
    outputs: Any,
    over: tuple[str, ...] | None = None,
) -> Callable[..., Any]:
    """`function` run by each device on its own part of the arrays, where it may use collectives by the names of mesh
    axes (jax.lax.ppermute ...). For what the compiler cannot partition by itself: custom kernels, sorting, rings.

    Outside `sharding.use`, and where nothing is split, it is `function`.

    Args:
      inputs: the logical axes of each argument; None for an argument that is None.
      outputs: the logical axes of what it returns: one tuple of names, or a tuple of such tuples.
      over: only the mesh axes of these logical axes; the compiler goes on splitting over the others.
    """
    place = sharding.current()
    if place is None:
        return function
    # Custom kernels need all axes to be manual, even those of size 1.
    wanted = AXES if over is None else tuple(axis for logical in over for axis in place.names(logical))
    manual = tuple(axis for axis in AXES if axis in wanted and axis not in place.manual)
    if place.mesh.size == 1 or not manual:
        return function
    within = dataclasses.replace(place, manual=place.manual + manual)

    def spec(axes: Any) -> Any:
        if axes is None or all(name is None or isinstance(name, str) for name in axes):
            return sharding.restricted(place.spec(axes or ()), manual)
        return tuple(spec(each) for each in axes)

    def local(*arguments: Any) -> Any:
        with sharding.use(within):
            return function(*arguments)

    in_specs = tuple(spec(axes) for axes in inputs)
    mesh = place.mesh if not place.manual else None  # Within another shard_map() the mesh is known.
    # Kernels do not say over which axes their results vary, so that check is off.
    return jax.shard_map(
        local, mesh=mesh, in_specs=in_specs, out_specs=spec(outputs), axis_names=set(manual), check_vma=False
    )


def psum_over(x: jax.Array, *axes: str | None, over: tuple[str, ...], done: str = '') -> jax.Array:
    """Within shard_map(): the sum of `x` over the devices that have different parts of the logical axes `over`.

    The result is laid out as the rules say for its logical axes `axes`. Along the outermost torus dimension of the mesh
    axis `done` it is summed already.
    """
    place = sharding.current()
    if place is None or not place.manual:
        return x
    whole = dataclasses.replace(place, manual=())
    summed = [axis for each in over for axis in whole.names(each) if axis in place.manual]
    scattered = [
        (dimension, axis)
        for dimension, entry in enumerate(whole.spec(axes))
        for axis in ((entry,) if isinstance(entry, str) else entry or ())
        if axis in summed
    ]
    total = _addable(x, place)
    for dimension, axis in scattered:
        total = psum_scatter(total, dimension, axis, skip=axis == done)
    others = tuple(axis for axis in summed if axis not in {axis for _, axis in scattered})
    return (jax.lax.psum(total, others) if others else total).astype(x.dtype)


def _addable(x: jax.Array, place: sharding.ShardingContext) -> jax.Array:
    """`x`, but in float32 where the compiler for the CPU stops with an error at bfloat16 sums within shard_map()."""
    return x.astype('float32') if place.platform == 'cpu' and x.dtype == 'bfloat16' else x


def psum_scatter(x: jax.Array, dimension: int, axis: str, *, skip: bool = False) -> jax.Array:
    """Within shard_map(): the sum over a mesh axis, of which each device along it keeps its part of a dimension.

    The TPU compiler makes a sum of everything everywhere out of a scatter over several dimensions of the torus at once,
    so they take turns.
    """
    place = sharding.current()
    assert place is not None  # Not always the one of shard_map(): a gradient may be traced after it.
    total = _addable(x, place)
    for groups in torus.turns(place.rings(axis))[skip:]:
        total = jax.lax.psum_scatter(
            total, axis, scatter_dimension=dimension, axis_index_groups=groups if len(groups) > 1 else None, tiled=True
        )
    return total.astype(x.dtype)
