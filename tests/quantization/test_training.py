"""Training with few bits: straight-through gradients, and products forward and backward against an emulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel_jax.quantization import formats, quantized_weight, training

RANDOM = np.random.default_rng(0)
X, WEIGHT, GRAD = (RANDOM.standard_normal(shape).astype(np.float32) for shape in ((2, 5, 8), (8, 6), (2, 5, 6)))


def near(x, to, *axes):
    """`x` rounded with one scale along `axes`, in float64 but for the rounding itself."""
    limit = float((jnp.iinfo if jnp.issubdtype(to.dtype, jnp.integer) else jnp.finfo)(to.dtype).max)
    scale = np.abs(np.asarray(x)).max(axis=axes, keepdims=True) / np.float32(limit)
    values = np.asarray(x) / scale
    if jnp.issubdtype(to.dtype, jnp.integer):
        return np.round(values).astype(np.float64) * scale
    return np.asarray(jnp.asarray(values).astype(to.dtype).astype(jnp.float32), np.float64) * scale


@pytest.mark.parametrize('to', [formats.Int8(), formats.Int4(), formats.Float8()])
def test_rounding_has_the_gradient_of_what_is_rounded_and_happens_once(to):
    found, pull = jax.vjp(lambda w: training.straight_through(w, to, shared=(0,)), jnp.asarray(WEIGHT))
    np.testing.assert_array_equal(pull(WEIGHT)[0], WEIGHT)
    stored = quantized_weight.quantize(found, to, inputs=(0,)).array('float32')
    np.testing.assert_allclose(stored, found, rtol=1e-6)  # What is deployed is what was trained.


@pytest.mark.parametrize(
    'of', [(formats.Float8(), formats.Float8(), formats.Float8Wide()), (formats.Int8(), formats.Int8(), formats.Int8())]
)
def test_products_and_gradients_are_those_of_the_emulation(of):
    to_x, to_weight, to_grad = of
    found, pull = jax.vjp(
        lambda x, w: training.RoundedInputs(w, to_x, to_grad, to_weight).product('BTD,DF->BTF', x),
        jnp.asarray(X),
        jnp.asarray(WEIGHT),
    )
    grad_x, grad_weight = pull(jnp.asarray(GRAD))
    expected = np.einsum('BTD,DF->BTF', near(X, to_x, 2), near(WEIGHT, to_weight, 0))
    expected_x = np.einsum('BTF,DF->BTD', near(GRAD, to_grad, 2), near(WEIGHT, to_weight, 1))
    expected_weight = np.einsum('BTD,BTF->DF', near(X, to_x, 0, 1), near(GRAD, to_grad, 0, 1))
    # Sums in float32 of at most 10 products of numbers below 4; a number halfway between two could go either way.
    for one, other in ((found, expected), (grad_x, expected_x), (grad_weight, expected_weight)):
        np.testing.assert_allclose(one, other, atol=2e-5)
