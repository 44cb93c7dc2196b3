"""Positions: the papers' formulas in float64, T5's buckets, and what rotary and relative positions depend on."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

import drawing
from bigmodel_jax import config as settings
from bigmodel_jax.layers import attention, positions
from bigmodel_jax.layers.variants import long_rotaries

ORACLES = pathlib.Path(__file__).parents[1] / 'oracles' / 'operations.npz'
RNG = np.random.default_rng(0)


def test_sinusoids_are_those_of_the_paper():
    with np.load(ORACLES) as oracles:
        expected = oracles['sinusoid_vaswani_interleaved_50x16']
    found = positions.sinusoidal(jnp.arange(50)[None], width=16, base=10_000.0)[0]
    np.testing.assert_allclose(found, expected, atol=5e-6)  # Angles of up to 50 in float32.


def test_sinusoids_of_an_odd_width_have_it():
    assert positions.sinusoidal(jnp.arange(4)[None], width=5, base=10_000.0).shape == (1, 4, 5)


def test_a_table_has_the_sinusoids_in_halves():
    """In a file of Marian 16 channels are 8 sines, then 8 cosines, made in float64 and rounded to float32."""
    with np.load(ORACLES) as oracles:
        interleaved = oracles['sinusoid_vaswani_interleaved_50x16']
    found = positions.sinusoid_table(50, width=16, base=10_000.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.concatenate([interleaved[:, 0::2], interleaved[:, 1::2]], axis=1), rtol=1e-7)
    assert positions.sinusoid_table(4, width=5, base=100.0).shape == (4, 5)


def test_rotations_are_slowed_down_as_in_llama_3():
    """By wavelengths, as the paper's code has it: short ones stay, long ones grow, those between are interpolated."""
    frequencies = 500_000.0 ** (-np.arange(32) / 32)
    expected = []
    for frequency in frequencies:
        wavelength = 2 * np.pi / frequency
        smooth = (64 / wavelength - 1.0) / (4.0 - 1.0)
        between = (1 - smooth) * frequency / 8.0 + smooth * frequency
        expected.append(frequency if wavelength < 64 / 4.0 else frequency / 8.0 if wavelength > 64 / 1.0 else between)
    scaling = positions.Llama3Scaling(factor=8.0, low=1.0, high=4.0, length=64)
    found = scaling(jnp.asarray(frequencies, jnp.float32), jnp.arange(7)[None], base=500_000.0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.sum((np.asarray(expected) < frequencies) & (np.asarray(expected) > frequencies / 8)) > 0
    x_BTHK = RNG.normal(size=(1, 7, 2, 64)).astype(np.float32)
    slow, fast = (positions.rotary(x_BTHK, jnp.arange(7)[None], base=500_000.0, scaling=s) for s in (scaling, None))
    np.testing.assert_allclose(slow[..., 0], fast[..., 0], rtol=1e-5)
    assert np.abs(slow - fast).max() > 1e-2


@pytest.mark.parametrize('changes', [{'high': 1.0}, {'factor': 0.0}])
def test_a_scaling_that_divides_by_zero_is_refused(changes):
    with pytest.raises(settings.InputError, match='high above low'):
        positions.Llama3Scaling(**changes)(jnp.ones(2), jnp.zeros((1, 1), int), base=2.0)


def test_a_document_is_rotated_as_alone_whatever_is_packed_beside_it():
    """LongRoPE: long divisors in a document of more than `length` tokens, short ones in the others of the row."""
    turned = positions.Rotary(scaling=long_rotaries.LongRope(short=(1.0, 2.0), long=(3.0, 5.0), length=4))
    x_BTHK = RNG.normal(size=(1, 10, 1, 4)).astype(np.float32)
    positions_BT = np.array([[0, 1, 2, 3, 4, 0, 1, 2, 0, 0]])
    found = turned.rotate(x_BTHK, positions_BT)
    for begin, end in ((0, 5), (5, 8), (8, 9), (9, 10)):
        alone = turned.rotate(x_BTHK[:, begin:end], jnp.arange(end - begin)[None])
        np.testing.assert_array_equal(found[:, begin:end], alone)
    frequencies = jnp.asarray([1.0, 0.01])
    long, short = (turned.scaling(frequencies, jnp.arange(T)[None], base=10_000.0)[0, 0] for T in (5, 4))
    np.testing.assert_allclose([long, short], [frequencies / jnp.array([3, 5]), frequencies / jnp.array([1, 2])])


def test_keys_that_may_change_are_not_cached():
    longer = long_rotaries.LongRope(short=(1.0,), long=(2.0,), length=4)
    attend = attention.Attention(heads=1, rotary=positions.Rotary(scaling=longer))
    attend.initial_state(1, 4, width=2, dtype='float32')
    with pytest.raises(settings.InputError, match=r'a row has more than 4\. Ask for prompts and answers of at most 4'):
        attend.initial_state(1, 5, width=2, dtype='float32')
    with pytest.raises(settings.InputError, match=r'scaling.short has 1 numbers; it should have 2'):
        attend.width_of_head(4)


def test_rotary_is_a_rotation_of_complex_numbers():
    x_BTHK = RNG.normal(size=(2, 7, 3, 8)).astype(np.float32)
    positions_BT = np.stack([np.arange(7), 100 + np.arange(7)])
    numbers = x_BTHK[..., :4] + 1j * x_BTHK[..., 4:].astype(np.float64)
    angles = positions_BT[..., None] * 10_000.0 ** (-np.arange(4) / 4)
    turned = numbers * np.exp(1j * angles)[:, :, None]
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    found = positions.rotary(x_BTHK, jnp.asarray(positions_BT), base=10_000.0)
    np.testing.assert_allclose(found, expected, atol=3e-5)  # Angles of up to 106 in float32.


def test_rotary_scores_depend_on_the_distance_only():
    q_BTHK, k_BTHK = RNG.normal(size=(2, 1, 9, 2, 8)).astype(np.float32)

    def scores(shift):
        here_BT = jnp.arange(9)[None] + shift
        turned = [positions.rotary(x, here_BT, base=100.0) for x in (q_BTHK, k_BTHK)]
        return np.einsum('BTHK,BSHK->BHTS', *turned)

    np.testing.assert_allclose(scores(0), scores(37), atol=2e-5)


@pytest.mark.parametrize(('causal', 'name'), [(True, 't5_bucket_causal_32_128'), (False, 't5_bucket_bi_32_128')])
def test_buckets_are_those_of_t5(causal, name):
    with np.load(ORACLES) as oracles:
        distance, expected = oracles['t5_rel'], oracles[name]
    found = positions.relative_bucket(jnp.asarray(distance), buckets=32, max_distance=128, causal=causal)
    np.testing.assert_array_equal(found, expected)


def test_relative_bias_is_the_table_at_the_bucket():
    config = positions.Relative(heads=3, buckets=8, max_distance=16)
    here_BT, there_BS = jnp.array([[4, 9]]), jnp.arange(12)[None]
    for kind in (config, config.bidirectional()):
        module = kind.build()
        variables = drawing.variables(module, here_BT, there_BS, method='bias', dtype=np.float32)
        bias_BHTS = module.apply(variables, here_BT, there_BS, method='bias', dtype=np.float32)
        table = variables['params']['table']
        bucket_TS = positions.relative_bucket(
            there_BS[0][None, :] - here_BT[0][:, None], buckets=8, max_distance=16, causal=kind.causal
        )
        assert bias_BHTS.shape == (1, 3, 2, 12)
        np.testing.assert_array_equal(bias_BHTS[0, 1], table[bucket_TS, 1])
    future_BT = jnp.array([[0]])
    assert len(np.unique(positions.relative_bucket(there_BS - future_BT, buckets=8, max_distance=16, causal=True))) == 1


@pytest.mark.parametrize(
    'config', [positions.Learned(length=9), positions.Sinusoidal(), positions.SinusoidTable(length=9)]
)
def test_no_positions_means_counting_from_0(config):
    module, x_BTD = config.build(), RNG.normal(size=(2, 6, 4)).astype(np.float32)
    variables = drawing.variables(module, x_BTD, None, method='embed')
    counted = np.tile(np.arange(6), (2, 1))
    implicit, explicit = (module.apply(variables, x_BTD, given, method='embed') for given in (None, counted))
    np.testing.assert_array_equal(implicit, explicit)
    moved = module.apply(variables, x_BTD, counted + 1, method='embed')
    assert np.abs(moved - explicit).max() > 1e-3
