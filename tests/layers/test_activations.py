"""Activations against PyTorch in float64 (oracles/operations.npz: a grid from -6 to 6)."""

import pathlib

import numpy as np
import pytest

from bigmodel_jax.layers import activations

ORACLES = pathlib.Path(__file__).parents[1] / 'oracles' / 'operations.npz'


@pytest.mark.parametrize(
    ('activation', 'name'),
    [
        (activations.Relu(), 'act_relu'),
        (activations.Gelu(approximate=False), 'act_gelu_erf'),
        (activations.Gelu(), 'act_gelu_tanh'),
        (activations.Silu(), 'act_silu'),
    ],
)
def test_activation_is_that_of_pytorch(activation, name):
    with np.load(ORACLES) as oracles:
        grid, expected = oracles['grid'], oracles[name]
    # Float32: a few units in the last place at 6. The two GELUs differ by 5e-4.
    np.testing.assert_allclose(activation(grid), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize('name', ['sigmoid', 'tanh', 'softplus'])
def test_saturating_activation_is_that_of_pytorch(name):
    with np.load(ORACLES) as operations, np.load(ORACLES.with_name('classics.npz')) as oracles:
        grid, expected = operations['grid'], oracles[f'act/{name}']
    activation = {
        'sigmoid': activations.Sigmoid(),
        'tanh': activations.Tanh(),
        'softplus': activations.Softplus(),
    }[name]
    np.testing.assert_allclose(activation(grid), expected, rtol=2e-6, atol=1e-6)
