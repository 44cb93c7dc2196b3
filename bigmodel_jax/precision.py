"""How precisely delicate sums are taken: softmax, norms, logits, losses, angles of positions."""

import jax
import jax.numpy as jnp


def sums(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype of delicate sums over numbers of `dtype`: float32, or float64 where these are float64 themselves.

    Float64 is for comparing with a reference; JAX has it where jax_enable_x64 is set.
    """
    return jnp.promote_types(dtype, jnp.float32)


def raised(x: jax.Array) -> jax.Array:
    """`x` in the dtype of delicate sums over it."""
    return x.astype(sums(x.dtype))
