"""Dropout: active exactly when the caller gives a 'dropout' key."""

import jax
import jax.numpy as jnp
from flax import linen as nn


def dropout(x: jax.Array, key: jax.Array, *, rate: float | jax.Array) -> jax.Array:
    """`x` with each entry zeroed with probability `rate`, the others scaled by 1 / (1 - rate).

    Source: Srivastava et al. (2014), in the scaled form that leaves evaluation alone.
    """
    kept = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))


def drop(module: nn.Module, x: jax.Array, rate: float) -> jax.Array:
    """dropout() with a key of the module; `x` itself in evaluation, when there is no key."""
    if not rate or not module.has_rng('dropout'):
        return x
    return dropout(x, module.make_rng('dropout'), rate=rate)
