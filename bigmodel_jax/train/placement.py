"""How the arrays of a training state are sharded: by the logical axes of the parameters, and by default without any."""

from typing import Any

import jax

from bigmodel_jax.parallel import sharding

SPLIT = 'embed'  # The logical axis whose rule also splits arrays that declare no axes.


def tree_shardings(place: sharding.ShardingContext, abstract: Any, axes: Any) -> Any:
    """The sharding of every array of a tree, checked.

    Args:
      abstract: tree of arrays or ShapeDtypeStructs.
      axes: the same tree with a tuple of logical axes for each.
    """

    def one(path: Any, leaf: Any, names: sharding.LogicalAxes) -> Any:
        names = with_default(place, leaf.shape, names)
        place.check(jax.tree_util.keystr(path, simple=True, separator='.'), leaf.shape, names)
        return place.sharding(names)

    return jax.tree_util.tree_map_with_path(one, abstract, axes)


def with_default(
    place: sharding.ShardingContext, shape: tuple[int, ...], axes: sharding.LogicalAxes
) -> sharding.LogicalAxes:
    """`axes`, or the default for an array of a plain Flax layer, which declares none.

    Such an array of two or more dimensions is split along the largest one that divides, over the mesh axes that
    split 'embed' (fsdp, expert, sequence in the standard rules). Every other one is replicated.
    """
    if any(axes) or len(shape) < 2:
        return axes
    parts = place.shards(SPLIT)
    fitting = [dimension for dimension, size in enumerate(shape) if size % parts == 0]
    largest = max(fitting, key=lambda dimension: shape[dimension], default=None)
    return tuple(SPLIT if dimension == largest else None for dimension in range(len(shape)))


def state_shardings(place: sharding.ShardingContext, opt_state: Any, params: Any, shardings: Any) -> Any:
    """Shardings of an optimizer's state: whatever has the path and shape of a parameter lies where that parameter lies.

    The rest (counters, factored statistics) is replicated.

    Args:
      opt_state: abstract optimizer state.
      params: abstract parameters, whose tree the state repeats (moments, momentum).
      shardings: sharding of each parameter.
    """
    flat = jax.tree_util.tree_leaves_with_path(params)
    known = {tuple(path): (leaf.shape, place_of) for (path, leaf), place_of in zip(flat, jax.tree.leaves(shardings))}

    def one(path: Any, leaf: Any) -> Any:
        for start in range(len(path)):
            shape, place_of = known.get(tuple(path[start:]), (None, None))
            if shape == leaf.shape:
                return place_of
        return place.replicated

    return jax.tree_util.tree_map_with_path(one, opt_state)
