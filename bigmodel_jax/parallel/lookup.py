"""Embedding lookup in a table that is sharded over devices, and the sum of its gradients."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bigmodel_jax import precision
from bigmodel_jax.parallel import per_device, sharding, torus


class Exchange(NamedTuple):
    """An all-to-all by which the chips along the outermost torus dimension of a mesh axis look up each other's tokens.

    Each has one part of the columns, gathered from the chips along the other dimensions alone, and sends what it found
    back: for a large vocabulary far less than the table.
    """

    axis: str
    others: tuple[str, ...]  # The other mesh axes that cut the columns.
    partners: list[list[int]]  # Places along the axis that differ in the outermost dimension alone.
    neighbours: list[list[int]]  # Places that agree in it.


def exchange(vocab: int, rows: tuple[str, ...], tokens: int) -> Exchange | None:
    """The exchange for a table of `vocab` rows; None where an all-gather of the table is cheaper.

    Args:
      rows: the logical axes that cut the tokens.
      tokens: how many there are in all.
    """
    place = sharding.current()
    if place is None or not place.names('embed') or not rows[0]:
        return None
    axis, *others = place.names('embed')
    outer, size = place.rings(axis)[0], place.sizes[axis]
    here = tokens // place.shards('batch') // (place.shards('length') if any(rows[1:]) else 1)
    if outer == size or axis not in place.names('batch') or here >= vocab // place.shards('vocab'):
        return None
    return Exchange(axis, tuple(others), *torus.turns((outer, size // outer)))


@jax.custom_vjp
def lookup(table_VD: jax.Array, tokens_BT: jax.Array) -> jax.Array:
    """The rows [B, T, D] of a table; [B, D] for one token, as a class, of each example.

    Each device looks up its own tokens in the whole table, or in its part of the vocabulary, or exchange() says how. In
    the backward pass it adds up their gradients in float32 (a frequent token has thousands, which bfloat16 would lose)
    before the devices add up theirs.
    """
    rows, (words, columns) = _cuts(tokens_BT.shape, 'batch', 'length'), _cuts(table_VD.shape, 'vocab', 'embed')
    parts = sharding.names(words)
    how = exchange(table_VD.shape[0], rows, tokens_BT.size) if columns else None

    def local(table_VD: jax.Array, tokens_BT: jax.Array) -> jax.Array:
        if how is not None:
            for axis in reversed(how.others):
                table_VD = jax.lax.all_gather(table_VD, axis, axis=1, tiled=True)
            table_VD = _gather(table_VD, how.axis, how.neighbours, dimension=1)
            tokens_BT = _gather(tokens_BT, how.axis, how.partners, dimension=0)
        here_BT, mine_BT1 = _here(tokens_BT, table_VD.shape[0], parts)
        x_BTD = jnp.where(mine_BT1, table_VD[here_BT], 0)
        if how is not None:
            x_BTD = jax.lax.all_to_all(x_BTD, how.axis, 0, x_BTD.ndim - 1, axis_index_groups=how.partners, tiled=True)
        return jax.lax.psum(x_BTD, parts) if parts else x_BTD

    stored = (words, None if how is None else columns)
    return per_device.shard_map(local, inputs=(stored, rows), outputs=(*rows, None))(table_VD, tokens_BT)


def _gather(x: jax.Array, axis: str, groups: list[list[int]], dimension: int) -> jax.Array:
    return jax.lax.all_gather(x, axis, axis=dimension, axis_index_groups=groups, tiled=True)


def _cuts(shape: tuple[int, ...], *logical: str) -> tuple[str, ...]:
    return tuple(sharding.even(axis, size) for axis, size in zip(logical, shape))


def _here(tokens_BT: jax.Array, rows: int, parts: tuple[str, ...]) -> tuple[jax.Array, jax.Array]:
    """On each device: the row of its part of the table for each token, and whether the token is in that part."""
    here_BT = tokens_BT - (jax.lax.axis_index(parts) * rows if parts else 0)
    return jnp.clip(here_BT, 0, rows - 1), ((here_BT >= 0) & (here_BT < rows))[..., None]


def _forward(table_VD: jax.Array, tokens_BT: jax.Array) -> tuple[jax.Array, tuple[jax.Array, int]]:
    return lookup(table_VD, tokens_BT), (tokens_BT, table_VD.shape[0])


def _backward(saved: tuple[jax.Array, int], grad_BTD: jax.Array) -> tuple[jax.Array, None]:
    tokens_BT, vocab = saved
    rows, stored = _cuts(tokens_BT.shape, 'batch', 'length'), _cuts((vocab, grad_BTD.shape[-1]), 'vocab', 'embed')
    parts = sharding.names(stored[0])
    how = exchange(vocab, rows, tokens_BT.size) if stored[1] else None
    size = vocab // sharding.shards(stored[0])

    def local(tokens_BT: jax.Array, grad_BTD: jax.Array) -> jax.Array:
        if how is not None:
            tokens_BT = _gather(tokens_BT, how.axis, how.partners, dimension=0)
            grad_BTD = jax.lax.all_to_all(
                grad_BTD, how.axis, grad_BTD.ndim - 1, 0, axis_index_groups=how.partners, tiled=True
            )
        here_BT, mine_BT1 = _here(tokens_BT, size, parts)
        added_BTD = precision.raised(jnp.where(mine_BT1, grad_BTD, 0))
        grad_VD = jnp.zeros((size, grad_BTD.shape[-1]), added_BTD.dtype).at[here_BT].add(added_BTD)
        summed = functools.partial(per_device.psum_over, grad_VD.astype(grad_BTD.dtype), *stored, over=rows)
        return summed() if how is None else summed(done=how.axis)

    add = per_device.shard_map(local, inputs=(rows, (*rows, None)), outputs=stored)
    # Over microbatches the TPU compiler tries to move this sum out of the loop, and fails, unless kept from it.
    return jax.lax.optimization_barrier(add(tokens_BT, grad_BTD)), None


lookup.defvjp(_forward, _backward)
