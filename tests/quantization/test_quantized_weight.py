"""Weights of few bits: rounding against float64, packing, and the model that reads them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.quantization import formats, quantization, quantized_weight


def _weight(shape=(6, 4, 10)):
    return jax.random.normal(jax.random.key(0), shape) * jnp.linspace(0.1, 3.0, shape[-1])


def _float64(weight, limit, *, axes, group=None):
    """The law in NumPy: the nearest whole multiple of max|w| / limit."""
    w = np.asarray(weight, np.float64)
    if group is not None:
        last = axes[-1]
        w = w.reshape(*w.shape[:last], -1, group, *w.shape[last + 1 :])
        axes = (*axes[:-1], last + 1)
    step = np.abs(w).max(axis=axes, keepdims=True) / limit
    step = np.broadcast_to(step, w.shape).reshape(weight.shape)
    return np.round(np.asarray(weight, np.float64) / step) * step, step


@pytest.mark.parametrize(('to', 'limit'), [(formats.Int8(), 127), (formats.Int4(), 7)])
@pytest.mark.parametrize('group', [None, 2])
def test_a_weight_is_the_nearest_number_of_its_format(to, limit, group):
    weight = _weight()
    found = quantized_weight.quantize(weight, to, inputs=(0, 1), group=group).array('float32')
    expected, step = _float64(weight, limit, axes=(0, 1), group=group)
    # A number within float32's rounding of the middle between two may go either way, as each channel's largest does.
    clear = np.abs(np.abs(np.asarray(weight, np.float64) / step) % 1 - 0.5) > 1e-4
    np.testing.assert_allclose(np.asarray(found)[clear], expected[clear], atol=1e-5)
    assert (np.abs(np.asarray(found, np.float64) - np.asarray(weight)) <= step / 2 * (1 + 1e-5)).all()


def test_float8_is_within_a_sixteenth():
    weight = _weight()
    found = quantized_weight.quantize(weight, formats.Float8(), inputs=(0, 1)).array('float32')
    largest = np.abs(weight).max(axis=(0, 1))
    # 3 bits of mantissa: half a step is 1/16 of the number; below the normal numbers 2^-10 of the scale.
    assert (np.abs(found - weight) <= np.abs(weight) / 16 + largest / 448 * 2**-10).all()


@pytest.mark.parametrize('to', [formats.Int8(), formats.Int4(), formats.Float8()])
def test_rounding_again_with_the_same_scales_changes_nothing(to):
    values, scales = formats.rounded(_weight(), to, shared=(0, 1))
    again = formats.scaled(formats.multiplied(values, scales), to, scales)
    np.testing.assert_array_equal(np.asarray(again, np.float32), np.asarray(values, np.float32))


def test_two_numbers_of_four_bits_share_a_byte():
    values = jnp.arange(-8, 8, dtype=jnp.int8).reshape(2, 8)
    pairs = quantized_weight.packed(values)
    assert pairs.shape == (2, 4)
    assert pairs.dtype == jnp.uint8
    np.testing.assert_array_equal(quantized_weight.unpacked(pairs), values)


@pytest.mark.parametrize('activations', [None, formats.Int8(), formats.Float8()])
def test_a_product_is_that_of_the_rounded_numbers(activations):
    weight = _weight((8, 3, 10))
    x = jax.random.normal(jax.random.key(1), (2, 5, 8))
    found = quantized_weight.quantize(weight, formats.Int8(), inputs=(0,), activations=activations)
    if activations is not None:
        x_rounded = formats.multiplied(*formats.rounded(x, activations, shared=(2,)))
    expected = np.einsum(
        'BTD,DHK->BTHK',
        np.asarray(x if activations is None else x_rounded, np.float64),
        np.asarray(found.array('float32'), np.float64),
    )
    # Sums of 8 products of numbers of about 3 in float32.
    np.testing.assert_allclose(found.product('BTD,DHK->BTHK', x), expected, atol=1e-5)


def test_groups_must_divide_and_patterns_must_match():
    inputs, shapes = {'up': (0,), 'down': (0,)}, {'up': (12, 8), 'down': (8, 12)}
    with pytest.raises(config.InputError, match='group=5 does not divide the 12 inputs of up'):
        quantization.PostTraining(group=5).check(shapes, inputs)
    with pytest.raises(config.InputError, match=r'no matrix of the model matches .upp.\. Did you mean .up.'):
        quantization.PostTraining(match=('upp',)).check(shapes, inputs)
    with pytest.raises(config.InputError, match='leaves no matrix'):
        quantization.PostTraining(without=('*',)).check(shapes, inputs)
