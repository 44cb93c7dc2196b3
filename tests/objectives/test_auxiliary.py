"""What layers ask of the objective: it is minimised and reported, and never becomes state of the model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import drawing
from bigmodel_jax import config
from bigmodel_jax.models import decoder, seq2seq
from bigmodel_jax.objectives import classification, language, objective
from bigmodel_jax.objectives.objective import Mean
from bigmodel_jax.objectives.rngs import Rngs

VOCAB, LAYERS, ROWS, LENGTH = 32, 3, 2, 8
MIXTRAL = decoder.mixtral(
    vocab=VOCAB,
    width=16,
    layers=LAYERS,
    heads=2,
    kv_heads=1,
    hidden=8,
    experts=4,
    **{'block.ffn.balance': 0.5, 'block.ffn.z_loss': 0.25},
)
RNG = np.random.default_rng(0)
BATCH = {
    'inputs': RNG.integers(0, VOCAB, (ROWS, LENGTH)),
    'targets': RNG.integers(0, VOCAB, (ROWS, LENGTH)),
    'example_weights': np.ones(ROWS, np.float32),
    'loss_weights': np.eye(ROWS, LENGTH, dtype=np.float32) + RNG.integers(0, 2, (ROWS, LENGTH)),
    'bytes': np.full((ROWS,), 20),
}


def uniform(params):
    """Every router says nothing: each layer's imbalance is 1 and its log-normaliser log E."""
    set_zero = lambda path, leaf: leaf * 0 if 'router' in jax.tree_util.keystr(path) else leaf  # noqa: E731
    return jax.tree_util.tree_map_with_path(set_zero, params)


def outcome(model, batch=BATCH, training=False):
    module = model.build()
    params = uniform(drawing.variables(module, batch)['params'])

    @jax.jit
    def found(params, batch, key):
        return language.LanguageModel()(objective.Apply(module, params, {}), batch, train=training, rngs=Rngs(key))

    return found(params, batch, jax.random.key(0))


ASKED = {'balance': 0.5 * LAYERS, 'router_z': 0.25 * LAYERS * np.log(4) ** 2}


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('changes', [{}, {'stack.scan': False}, {'stack.remat': 'full'}], ids=str)
def test_losses_of_all_layers_are_added_and_reported(changes, training):
    found = outcome(config.vary(MIXTRAL, changes), training=training)
    means = {name: mean.total / mean.count for name, mean in found.metrics.items()}
    for name, value in ASKED.items():
        np.testing.assert_allclose(means[name], value, rtol=1e-5)
    np.testing.assert_allclose(means['loss'], means['nll'] + sum(ASKED.values()), rtol=1e-6)
    np.testing.assert_allclose(found.loss, found.metrics['loss'])
    assert found.model_state == {}


def test_likelihood_and_bits_per_byte_stay_pure():
    silent = outcome(config.vary(MIXTRAL, {'block.ffn.balance': 0.0, 'block.ffn.z_loss': 0.0}))
    asking = outcome(MIXTRAL)
    for name in ('nll', 'bits_per_byte', 'accuracy'):
        np.testing.assert_array_equal(asking.metrics[name], silent.metrics[name])
    np.testing.assert_array_equal(silent.loss, silent.metrics['nll'])
    assert not set(ASKED) & set(silent.metrics)


def test_both_sides_of_a_translator_ask():
    model = seq2seq.Seq2Seq(
        vocab=VOCAB, width=16, encoder_layers=2, decoder_layers=LAYERS, block=MIXTRAL.block, positions=None
    )
    found = outcome(model, {**BATCH, 'source': BATCH['inputs'], 'source_segments': np.ones((ROWS, LENGTH), np.int32)})
    mean = found.metrics['balance']
    np.testing.assert_allclose(mean.total / mean.count, 0.5 * (LAYERS + 2), rtol=1e-5)


def test_losses_move_the_router():
    module = MIXTRAL.build()
    params = drawing.variables(module, BATCH)['params']

    @functools.partial(jax.jit, static_argnums=1)
    @jax.grad
    def gradient(params, losses):
        found = language.LanguageModel()(objective.Apply(module, params, {}), BATCH, train=False, rngs={})
        return found.metrics['loss' if losses else 'nll'].total

    with_losses, without = (gradient(params, losses)['blocks']['layers'] for losses in (True, False))
    assert np.abs(with_losses['ffn']['router'] - without['ffn']['router']).max() > 1e-3


class Counter(nn.Module):
    """A classifier with state that counts its batches in training, and a loss of 2."""

    @nn.compact
    def __call__(self, batch):
        count = self.variable('statistics', 'batches', lambda: jnp.zeros(()))
        if not self.is_initializing() and self.is_mutable_collection('statistics'):
            count.value += 1.0
        self.sow('losses', 'two', jnp.float32(2.0), reduce_fn=jnp.add, init_fn=lambda: jnp.float32(0.0))
        return {'logits': batch['inputs'] * self.param('scale', nn.initializers.ones, ())}


@pytest.mark.parametrize(('training', 'batches'), [(False, 5.0), (True, 6.0)])
def test_state_and_losses_are_kept_apart(training, batches):
    batch = {'inputs': jnp.eye(3), 'labels': jnp.arange(3), 'example_weights': jnp.ones(3)}
    apply = objective.Apply(Counter(), {'scale': jnp.ones(())}, {'statistics': {'batches': jnp.float32(5.0)}})
    found = classification.Classification()(apply, batch, train=training, rngs=Rngs(jax.random.key(0)))
    assert found.model_state == {'statistics': {'batches': batches}}
    np.testing.assert_allclose(found.metrics['two'], (6.0, 3.0))
    nll = np.log(np.e + 2) - 1
    np.testing.assert_allclose(found.loss.total, 3 * (nll + 2), rtol=1e-6)


def test_an_outcome_without_side_losses_is_the_loss():
    loss = Mean(jnp.float32(3.0), jnp.float32(2.0))
    found = objective.Outcome.of(loss, {}, objective.Auxiliary({'a': 1}, {}))
    assert found == objective.Outcome(loss, {'loss': loss}, {'a': 1})
