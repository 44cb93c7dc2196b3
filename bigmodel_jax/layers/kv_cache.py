"""The state of attention while it decodes: the keys and values of earlier positions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class KeyValueCache(NamedTuple):
    """Keys and values of the positions read so far; slot s holds position s."""

    k_BSGK: jax.Array
    v_BSGK: jax.Array

    @classmethod
    def empty(cls, shape: tuple[int, int, int, int], dtype: str) -> 'KeyValueCache':
        """Zeros of shape [B, S, G, K]."""
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def updated(self, k_BTGK: jax.Array, v_BTGK: jax.Array, positions_BT: jax.Array) -> 'KeyValueCache':
        """The cache with the keys and values of `positions_BT` written to their slots."""
        rows_B1 = jnp.arange(k_BTGK.shape[0])[:, None]
        return KeyValueCache(
            k_BSGK=self.k_BSGK.at[rows_B1, positions_BT].set(k_BTGK.astype(self.k_BSGK.dtype)),
            v_BSGK=self.v_BSGK.at[rows_B1, positions_BT].set(v_BTGK.astype(self.v_BSGK.dtype)),
        )


def slots(state: Any) -> int | None:
    """The number of slots of the caches in a decoding state of a stack, [L, B, S, G, K] each; None without a cache."""
    leaves = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, KeyValueCache))
    lengths = {leaf.k_BSGK.shape[2] for leaf in leaves if isinstance(leaf, KeyValueCache)}
    assert len(lengths) <= 1, lengths
    return next(iter(lengths), None)
