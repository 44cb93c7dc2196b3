"""The level of noise of an image as waves of many lengths, which a network can read."""

import math

import jax
import jax.numpy as jnp


def waves(times_B: jax.Array, *, count: int, base: float, inclusive: bool) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of the times, [B, N] each, N being `count`.

    Frequency i of n is base^(-i / n), or base^(-i / (n - 1)) if the last is to be 1 / base (`inclusive`).

    Source: Vaswani et al. (2017), arXiv:1706.03762, section 3.5. The released code of Ho et al. (2020) has the
    inclusive ones, as has diffusers' DiT; that of Nichol and Dhariwal (2021) and of DiT has the others.
    """
    exponents_N = jnp.arange(count, dtype=times_B.dtype) / max(count - 1 if inclusive else count, 1)
    angles_BN = times_B[:, None] * jnp.exp(-math.log(base) * exponents_N)
    return jnp.cos(angles_BN), jnp.sin(angles_BN)
