"""Counter-based random numbers: pure functions of integer keys, without state, that no version of a library changes."""

import jax
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches

SEEDS = 2**64
GOLDEN = int(batches.GOLDEN)


def key(seed: int | jax.Array) -> jax.Array:
    """The JAX key of a seed, which no other seed has. jax.random.key() alone keeps only the lower 32 bits of a seed.

    Args:
      seed: or already its key, in a program of which the seed is an argument.

    Raises:
      InputError: it is no seed.
    """
    if isinstance(seed, jax.Array):
        return seed
    if not 0 <= seed < SEEDS:
        raise config.InputError(f'seed={seed}: use a whole number from 0 to 2^64 - 1.')
    high, low = divmod(int(seed), 2**32)
    drawn = jax.random.key(low)
    return jax.random.fold_in(drawn, np.uint32(high)) if high else drawn


def key_data(seed: int) -> np.ndarray:
    """The key of a seed as [2] uint32: what a program takes of which the seed is an argument, on any mesh."""
    return np.asarray(jax.random.key_data(key(seed)))


def bits(*keys: np.ndarray | int) -> np.ndarray:
    """uint64 numbers, each bit of which depends on every bit of the keys; integers or arrays that broadcast."""
    first, count = 0, 0
    for key in keys:  # Python's integers are 20 times as fast as arrays of one number, and give the same bits.
        if isinstance(key, np.ndarray) and key.ndim:
            break
        first, count = _mixed(first ^ (int(key) & (SEEDS - 1))), count + 1
    mixed: np.ndarray = np.array(first, np.uint64)
    for key in keys[count:]:
        number = np.asarray(key).astype(np.uint64)
        mixed = batches.mix(np.atleast_1d(mixed ^ number)).reshape(np.broadcast_shapes(mixed.shape, number.shape))
    return mixed


def _mixed(number: int) -> int:
    """batches.mix() of one number."""
    number = (number + GOLDEN) % SEEDS
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) % SEEDS
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) % SEEDS
    return number ^ (number >> 31)


def uniform(*keys: np.ndarray | int) -> np.ndarray:
    """float64 numbers in [0, 1), in the shape to which the keys broadcast."""
    return (bits(*keys) >> np.uint64(11)) * 2.0**-53


def integers(limit: np.ndarray | int, *keys: np.ndarray | int) -> np.ndarray:
    """int64 numbers in [0, limit)."""
    return (uniform(*keys) * limit).astype(np.int64)


def normal(*keys: np.ndarray | int) -> np.ndarray:
    """float64 numbers of a standard normal distribution (Box and Muller, 1958). Their last bits depend on the machine,
    whose logarithm and cosine they are made with: round them."""
    radius = np.sqrt(-2 * np.log1p(-uniform(*keys, 0)))
    return radius * np.cos(2 * np.pi * uniform(*keys, 1))
