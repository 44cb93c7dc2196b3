"""A digest of a run's state: equal digests mean states that are equal bit for bit."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel_jax import sharding

PyTree = Any

WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def checksums(tree: PyTree) -> PyTree:
    """[2] uint32 for each array: the sum of its bit patterns, plain and weighted by position.

    Sums of integers modulo 2^32 are exact in any order, so that the mesh does not matter. Arrays of 1-, 2- and 4-byte
    numbers.
    """

    def one(x: jax.Array) -> jax.Array:
        if x.dtype == jnp.bool_:
            x = x.astype(jnp.uint8)
        bits = jax.lax.bitcast_convert_type(x, WORDS[x.dtype.itemsize]).astype(jnp.uint32)
        place = jnp.zeros(x.shape, jnp.uint32)
        for axis, size in enumerate(x.shape):
            place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        # Odd multipliers (Knuth's 2^32 / golden ratio) lose no bit of the value they weigh.
        spread = place * jnp.uint32(2_654_435_769) | jnp.uint32(1)
        return jnp.stack([bits.sum(dtype=jnp.uint32), (bits * spread).sum(dtype=jnp.uint32)])

    return jax.tree.map(one, tree)


@functools.lru_cache
def _compiled(place: sharding.Place | None) -> Callable[[PyTree], PyTree]:
    # Of several processes each reads all the sums, so that each needs a copy.
    return jax.jit(checksums) if place is None else jax.jit(checksums, out_shardings=place.replicated)


def digest(tree: PyTree) -> str:
    """SHA-256, in hexadecimal, of the path, dtype, shape and checksums of every array.

    Arrays that several processes hold need sharding.use() of their place, and a call by every process.
    """
    sums = jax.device_get(_compiled(sharding.current())(tree))
    result = hashlib.sha256()
    for (path, leaf), pair in zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(sums)):
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        result.update(f'{name} {leaf.dtype} {leaf.shape} {pair[0]} {pair[1]}\n'.encode())
    return result.hexdigest()
