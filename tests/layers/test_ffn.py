"""Feed-forward layers and embeddings against NumPy in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

import drawing
from bigmodel_jax.layers import activations, embeddings, ffn

RNG = np.random.default_rng(0)
X_BTD = RNG.normal(size=(2, 3, 8)).astype(np.float32)


def built(config):
    """A module with random weights, and these by name in float64."""
    module = config.build()
    variables = drawing.variables(module, X_BTD)
    return module, variables, {name: np.asarray(value, np.float64) for name, value in variables['params'].items()}


def silu(x):
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize('bias', [True, False])
def test_mlp(bias):
    module, variables, p = built(ffn.Mlp(hidden=12, activation=activations.Relu(), bias=bias))
    zero = np.zeros(())
    hidden = np.maximum(X_BTD @ p['up'] + p.get('up_bias', zero), 0)
    expected = hidden @ p['down'] + p.get('down_bias', zero)
    np.testing.assert_allclose(module.apply(variables, X_BTD), expected, atol=1e-5)


def test_gated():
    module, variables, p = built(ffn.Gated(hidden=12))
    expected = (silu(X_BTD @ p['gate']) * (X_BTD @ p['up'])) @ p['down']
    np.testing.assert_allclose(module.apply(variables, X_BTD), expected, atol=1e-5)
    assert set(p) == {'gate', 'up', 'down'}


@pytest.mark.parametrize('tied', [True, False])
@pytest.mark.parametrize('scaled', [True, False])
def test_embedding(tied, scaled):
    module = embeddings.Embedding(tied=tied, scaled=scaled).build(11, 8, 'float32')
    tokens_BT = jnp.array([[3, 0, 10]])
    variables = drawing.variables(module, X_BTD, method='unembed')
    p = {name: np.asarray(value, np.float64) for name, value in variables['params'].items()}
    expected = p['table'][np.asarray(tokens_BT)] * (np.sqrt(8) if scaled else 1.0)
    np.testing.assert_allclose(module.apply(variables, tokens_BT), expected, rtol=1e-6)
    output = p['table' if tied else 'output'].T
    np.testing.assert_allclose(module.apply(variables, X_BTD, method='unembed'), X_BTD @ output, atol=1e-5)
    assert set(p) == ({'table'} if tied else {'table', 'output'})
