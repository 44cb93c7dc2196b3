"""Initial weights have the deviations they are said to have; dropout is what it is said to be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel_jax.layers.base import dropout, weights
from bigmodel_jax.parallel import einsum

MANY = (400, 500)


@pytest.mark.parametrize(
    ('init', 'stddev', 'largest'),
    [
        (weights.Normal(stddev=0.02), 0.02, 0.12),
        # Cut at two deviations of the normal before cutting, which is 1 / 0.8796 times wider.
        (weights.FanIn(), 400**-0.5, 2 * 400**-0.5 / 0.8796),
        (weights.FanIn(scale=2.0), (2 / 400) ** 0.5, 2 * (2 / 400) ** 0.5 / 0.8796),
        (weights.Xavier(), (2 / 900) ** 0.5, (6 / 900) ** 0.5),
    ],
)
def test_deviation_of_initial_weights(init, stddev, largest):
    drawn = np.asarray(init.draw(jax.random.key(0), MANY, *MANY))
    assert drawn.dtype == np.float32
    assert abs(drawn.mean()) < 4 * stddev / np.sqrt(drawn.size)  # Four standard errors.
    np.testing.assert_allclose(drawn.std(), stddev, rtol=4 / np.sqrt(2 * drawn.size))
    assert np.abs(drawn).max() <= largest * 1.0001


class Owner(nn.Module):
    """Owns one tensor of each kind."""

    @nn.compact
    def __call__(self):
        axes = {'embed': 100, 'heads': 20, 'head': 50}
        matrix = weights.weight(self, 'matrix', axes, init=weights.FanIn(), inputs=('embed',), dtype=jnp.bfloat16)
        scale = weights.vector(self, 'scale', {'embed': 100}, value=1.0, dtype=jnp.float32)
        return matrix, scale


def test_weights_are_float32_named_by_axis_and_cast_where_they_are_read():
    (matrix, _), variables = jax.jit(Owner().init_with_output)(jax.random.key(0))
    params = variables['params']
    assert params['matrix'].names == ('embed', 'heads', 'head')
    assert params['matrix'].value.dtype == jnp.float32
    assert matrix.dtype == jnp.bfloat16
    np.testing.assert_allclose(params['matrix'].value.std(), 0.1, rtol=0.01)  # Fan-in 100, not 100 x 20.
    np.testing.assert_array_equal(params['scale'].value, np.ones(100))


def test_dropout_keeps_the_mean_and_the_rate():
    x = jnp.ones(100_000)
    y = dropout.dropout(x, jax.random.key(0), rate=0.25)
    np.testing.assert_allclose(np.unique(y), [0.0, 1 / 0.75], rtol=1e-6)
    np.testing.assert_allclose(y.mean(), 1.0, atol=4 * np.sqrt(0.25 / 0.75 / 100_000))  # Four standard errors.


class Dropper(nn.Module):
    """Drops half of its input."""

    @nn.compact
    def __call__(self, x):
        return dropout.drop(self, x, 0.5)


def test_dropout_is_off_without_a_key():
    x = jnp.ones((4, 4))
    np.testing.assert_array_equal(Dropper().apply({}, x), x)
    keys = [jax.random.key(0), jax.random.key(0), jax.random.key(1)]
    first, same, other = (Dropper().apply({}, x, rngs={'dropout': key}) for key in keys)
    np.testing.assert_array_equal(first, same)
    assert np.any(first != other)


def test_einsum_has_the_gradients_of_einsum():
    draw = np.random.default_rng(0).normal
    x_BTD, w_DHK = draw(size=(2, 3, 4)).astype(np.float32), draw(size=(4, 2, 5)).astype(np.float32)

    def total(product, x_BTD, w_DHK):
        return jnp.sin(product('BTD,DHK->BTHK', x_BTD, w_DHK)).sum()

    def gradients(product):
        first = jax.grad(lambda x, w: total(product, x, w), argnums=(0, 1))
        second = jax.grad(lambda x, w: sum(jnp.square(part).sum() for part in first(x, w)), argnums=(0, 1))
        return first(x_BTD, w_DHK), second(x_BTD, w_DHK)

    # The same products, summed in another order: a few roundings of float32.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        gradients(einsum.einsum),
        gradients(jnp.einsum),
    )
