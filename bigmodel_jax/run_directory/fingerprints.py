"""Fingerprints: for every piece of the parameters the norm of its gradient and a checksum, cheap enough to be logged.

A piece is one array of the parameters, or one layer of an array in which layers are stacked.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bigmodel_jax.parallel import sharding
from bigmodel_jax.run_directory import digest

PyTree = Any


class Fingerprint(NamedTuple):
    """Of a state; on the devices until it is read."""

    checksums: jax.Array  # [N, 2] uint32: of each piece of the parameters.
    optimizer: jax.Array  # [2] uint32: of the optimizer's state.


def stacked(axes: PyTree) -> tuple[bool, ...]:
    """Of each array of the parameters, whether its first axis counts layers.

    Args:
      axes: the logical axes of each array.
    """
    names = jax.tree.leaves(axes, is_leaf=lambda node: isinstance(node, tuple))
    return tuple(of[:1] == ('layers',) for of in names)


def pieces(params: PyTree, stacked: tuple[bool, ...]) -> list[str]:
    """The name of each of the N pieces: 'blocks.layers.ffn.up[3]'.

    Args:
      params: the parameters, or their shapes.
      stacked: of each array; see stacked().
    """
    names: list[str] = []
    for (path, leaf), in_layers in zip(jax.tree_util.tree_leaves_with_path(params), stacked, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator='.')
        names += [f'{name}[{i}]' for i in range(leaf.shape[0])] if in_layers else [name]
    return names


def norms(grads: PyTree, stacked: tuple[bool, ...]) -> jax.Array:
    """[N] float32: the norm of each piece."""
    found = []
    for leaf, in_layers in zip(jax.tree.leaves(grads), stacked, strict=True):
        squares = jnp.square(leaf.astype(jnp.float32))
        found.append(squares.sum(axis=range(1, leaf.ndim)) if in_layers else squares.sum(keepdims=True).reshape(1))
    return jnp.sqrt(jnp.concatenate(found))


def take(params: PyTree, opt_state: PyTree, *, stacked: tuple[bool, ...]) -> Fingerprint:
    """The fingerprint of a state."""
    found = []
    for leaf, in_layers in zip(jax.tree.leaves(params), stacked, strict=True):
        found.append(jax.vmap(digest.checksums)(leaf) if in_layers else digest.checksums(leaf)[None])
    optimizer = jnp.zeros(2, jnp.uint32)
    for leaf in jax.tree.leaves(opt_state):
        optimizer = optimizer * jnp.uint32(2_654_435_769) + digest.checksums(leaf)
    return Fingerprint(jnp.concatenate(found), optimizer)


@functools.lru_cache
def compiled(place: sharding.ShardingContext, stacked: tuple[bool, ...]) -> Callable[..., Fingerprint]:
    """take() as one program; every process can read what it returns."""
    return jax.jit(functools.partial(take, stacked=stacked), out_shardings=place.replicated)
