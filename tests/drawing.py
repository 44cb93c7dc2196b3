"""Weights for tests, drawn by NumPy: quick, as nothing is compiled, and lively, as no bias is 0 and no scale 1."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

# About 1 / sqrt(16): activations keep their size in the models of the tests.
DEVIATION = 0.25


def variables(module, *inputs, seed=0, **options):
    """What `module.init(key, *inputs, **options)` returns, without boxes and with other values."""
    rng = np.random.default_rng(seed)
    abstract = nn.meta.unbox(jax.eval_shape(functools.partial(module.init, **options), jax.random.key(0), *inputs))

    def draw(path, leaf):
        is_scale = jax.tree_util.keystr(path[-1:], simple=True).endswith('scale')
        return jnp.asarray(is_scale + DEVIATION * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract)
