"""Embeddings and the output layer: what is scaled, what is added, and what learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import drawing
from bigmodel_jax import config
from bigmodel_jax.layers import embeddings
from bigmodel_jax.layers.base import weights
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language, objective

VOCAB, WIDTH = 7, 4
TOKENS_BT = np.array([[1, 0, 3], [6, 6, 0]])
X_BTD = np.random.default_rng(0).normal(size=(2, 3, WIDTH)).astype(np.float32)


def both(module, tokens_BT, x_BTD):
    """What goes in, and the logits."""
    return module(tokens_BT), module.unembed(x_BTD)


def parts(**changes):
    module = embeddings.Embedding(**changes).build(VOCAB, WIDTH, 'float32')
    variables = drawing.variables(module, TOKENS_BT, X_BTD, method=both)
    return variables['params'], *module.apply(variables, TOKENS_BT, X_BTD, method=both)


@pytest.mark.parametrize(
    'changes', [{}, {'output_bias': True}, {'output_scaled': True}, {'tied': False, 'output_bias': True}]
)
def test_logits_are_features_times_a_matrix_plus_a_bias(changes):
    params, _, logits = parts(**changes)
    matrix = params['table' if changes.get('tied', True) else 'output']
    expected = X_BTD @ matrix.T * (0.5 if 'output_scaled' in changes else 1.0) + params.get('output_bias', 0.0)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert len(params) == 1 + ('tied' in changes) + ('output_bias' in changes)


def test_embeddings_are_rows_times_the_root_of_the_width():
    params, embedded, _ = parts(scaled=True)
    np.testing.assert_allclose(embedded, 2 * params['table'][TOKENS_BT], rtol=1e-6)


def test_padding_learns_nothing_as_an_input():
    def learned(padding):
        module = embeddings.Embedding(padding=padding).build(VOCAB, WIDTH, 'float32')
        variables = drawing.variables(module, TOKENS_BT)
        return jax.grad(lambda variables: jnp.sin(module.apply(variables, TOKENS_BT)).sum())(variables)['params'][
            'table'
        ]

    free, held = learned(None), learned(0)
    assert np.abs(free[0]).max() > 0.1
    np.testing.assert_array_equal(held, free.at[0].set(0.0))


def test_an_output_matrix_may_be_drawn_otherwise():
    model = embeddings.Embedding(tied=False, init=weights.Normal(stddev=1.0), output_init=weights.Normal(stddev=0.0))
    params = model.build(VOCAB, WIDTH, 'float32').init(jax.random.key(0), TOKENS_BT)['params']
    assert np.abs(params['table'].unbox()).max() > 0.1
    assert not np.any(params['output'].unbox())


def test_the_loss_in_pieces_knows_the_whole_output_layer():
    """Bias and scale reach the loss, and the loss their gradients."""
    base = decoder.gpt(vocab=2_048, width=8, layers=1, heads=2, length=256)
    model = config.vary(base, {'embedding.output_bias': True, 'embedding.output_scaled': True})
    module, rng = model.build(), np.random.default_rng(1)
    batch = {name: rng.integers(0, 2_048, (2, 256)).astype(np.int32) for name in ('inputs', 'targets')}
    batch['example_weights'] = np.ones(2, np.float32)
    batch['loss_weights'] = (rng.random((2, 256)) < 0.7).astype(np.float32)
    params = drawing.variables(module, batch)['params']
    loss = language.LanguageModel(logits_mib=1)
    assert loss.pieces(2, 256, 2_048) == 4

    def in_pieces(params):
        outcome = loss(objective.Apply(module, params, {}), batch, train=False, rngs={})
        return outcome.loss.total / outcome.loss.count

    def whole(params):
        nll, _ = language.cross_entropy(module.apply({'params': params}, batch)['logits'], batch['targets'])
        return (nll * batch['loss_weights']).sum() / batch['loss_weights'].sum()

    found, expected = (jax.jit(jax.value_and_grad(each))(params) for each in (in_pieces, whole))
    assert np.abs(expected[1]['embedding']['output_bias']).max() > 1e-4
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, expected)
