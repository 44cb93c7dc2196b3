"""A digest of a run's state: equal digests mean states that are equal bit for bit."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax.parallel import sharding

PyTree = Any
Pair = tuple[jax.Array, jax.Array]

WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


def checksums(tree: PyTree) -> PyTree:
    """[2] uint32 for each array: the sum of its bit patterns, plain and weighted by position.

    Sums of integers modulo 2^32 are exact in any order, so that the mesh does not matter. One changed bit always
    changes the first of them. Of an 8-byte number the halves count as two, of a complex one the parts.
    """

    def one(x: jax.Array) -> jax.Array:
        bits = _bits(x)
        place = jnp.zeros(bits.shape, jnp.uint32)
        for axis, size in enumerate(bits.shape):
            place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        # Odd multipliers (Knuth's 2^32 / golden ratio) lose no bit of the value they weigh.
        spread = place * jnp.uint32(2_654_435_769) | jnp.uint32(1)
        # One pass for both: XLA:CPU vectorises it, and took 20 times as long for the two sums by themselves.
        zero, axes = jnp.uint32(0), tuple(range(bits.ndim))
        return jnp.stack(jax.lax.reduce((bits, bits * spread), (zero, zero), _add_both, axes))

    return jax.tree.map(one, tree)


def _add_both(left: Pair, right: Pair) -> Pair:
    return left[0] + right[0], left[1] + right[1]


def _bits(x: jax.Array) -> jax.Array:
    """The bit patterns as uint32; with one more axis where a number has several of them."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], axis=-1)
    if x.dtype == jnp.bool_ or x.dtype.name.endswith('int4'):  # Of less than a byte: nothing to take the bits of.
        x = x.astype(jnp.uint8)
    return jax.lax.bitcast_convert_type(x, WORDS[x.dtype.itemsize]).astype(jnp.uint32)


@functools.lru_cache
def _compiled(place: sharding.ShardingContext | None) -> Callable[[PyTree], jax.Array]:
    def stacked(tree: PyTree) -> jax.Array:
        return jnp.stack(jax.tree.leaves(checksums(tree)))

    # Of several processes each reads all the sums, so that each needs a copy.
    return jax.jit(stacked) if place is None else jax.jit(stacked, out_shardings=place.replicated)


def sums(tree: PyTree) -> jax.Array:
    """The checksums() of the tree's N arrays in their order: [N, 2] uint32, still being computed on the devices.

    Arrays that several processes hold need sharding.use() of their place, and a call by every process.
    """
    return _compiled(sharding.current())(tree)


def texts(checked: Any) -> list[str]:
    """Each of N checksums, [N, 2] uint32, as 16 hexadecimal digits; waits for them."""
    return [f'{int(plain):08x}{int(weighted):08x}' for plain, weighted in np.asarray(checked)]


def digest(tree: PyTree) -> str:
    """SHA-256, in hexadecimal, of the path, dtype, shape and checksums of every array.

    Arrays that several processes hold need sharding.use() of their place, and a call by every process.
    """
    result = hashlib.sha256()
    for (path, leaf), pair in zip(jax.tree_util.tree_leaves_with_path(tree), jax.device_get(sums(tree))):
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        result.update(f'{name} {leaf.dtype} {leaf.shape} {pair[0]} {pair[1]}\n'.encode())
    return result.hexdigest()
