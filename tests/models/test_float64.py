"""Computation in float64: exact where float32 rounds, in every part of a model, its loss and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import drawing
from bigmodel_jax import config
from bigmodel_jax.kernels import paths, ring
from bigmodel_jax.kernels.context import Context, Query
from bigmodel_jax.kernels.kernel import case_of
from bigmodel_jax.layers import attention, blocks, embeddings, positions
from bigmodel_jax.models import decoder, seq2seq
from bigmodel_jax.objectives import language, objective

VOCAB, WIDTH, LENGTH = 13, 8, 6
SIZES = {'vocab': VOCAB, 'width': WIDTH, 'layers': 2, 'heads': 2}
GPT = decoder.gpt(**SIZES, length=LENGTH)
SCALING = positions.Llama3Scaling(factor=4.0, length=4)
MODELS = {
    'gpt': config.vary(GPT, {'embedding': embeddings.Embedding(scaled=True, output_bias=True)}),
    'sinusoids': config.vary(GPT, {'positions': positions.Sinusoidal(), 'block.residual': blocks.PostNorm()}),
    'mixtral': decoder.mixtral(**SIZES, kv_heads=1, hidden=8, experts=3, **{'block.mixer.rotary.scaling': SCALING}),
    't5': seq2seq.t5_v1_1(**SIZES, hidden=8, **{'embedding.output_bias': True}),
    'marian': seq2seq.marian(**SIZES, hidden=8, length=LENGTH),
}
TOKENS_BT = np.arange(2 * LENGTH).reshape(2, LENGTH) * 5 % VOCAB
BATCH = {
    'inputs': TOKENS_BT, 'source': TOKENS_BT[:, ::-1], 'targets': (TOKENS_BT + 3) % VOCAB,
    'example_weights': np.ones(2, np.float32),
}  # fmt: skip


def loss_of(model):
    """The loss of the batch, as a function of the weights."""
    module, loss = model.build(), language.LanguageModel(label_smoothing=0.1)

    def total(params):
        outcome = loss(objective.Apply(module, params, {}), BATCH, train=False, rngs={})
        return outcome.loss.total / outcome.loss.count

    return total


@pytest.mark.parametrize(
    'name',
    ['t5', *(pytest.param(name, marks=pytest.mark.slow) for name in ('gpt', 'sinusoids', 'marian', 'mixtral'))],
)
def test_gradients_are_those_of_differences(name):
    """A float32 anywhere on the way would be off by 1e-7, of which the difference makes a tenth of the slope."""
    model, step = MODELS[name], 1e-6
    params = jax.tree.map(np.asarray, drawing.variables(model.build(), BATCH)['params'])
    rough = jax.jit(loss_of(model))(params)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
        found = jax.jit(jax.value_and_grad(loss_of(config.vary(model, {'dtype': 'float64'}))))
        loss, grads = found(params)
        assert {leaf.dtype.name for leaf in jax.tree.leaves((loss, grads))} == {'float64'}
        rng = np.random.default_rng(1)
        way = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
        ahead, _ = found(jax.tree.map(lambda leaf, more: leaf + step * more, params, way))
        behind, _ = found(jax.tree.map(lambda leaf, more: leaf - step * more, params, way))
        slope = sum(np.vdot(a, b) for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(way)))
    np.testing.assert_allclose((float(ahead) - float(behind)) / (2 * step), float(slope), rtol=1e-5)
    np.testing.assert_allclose(float(rough), float(loss), rtol=1e-5)
    assert float(rough) != float(loss)


def test_float32_stays_float32_where_float64_is_switched_on():
    model = MODELS['mixtral']
    variables = jax.tree.map(np.asarray, drawing.variables(model.build(), BATCH))
    with jax.enable_x64(True):
        outputs = jax.eval_shape(model.build().apply, variables, BATCH)
    assert outputs['logits'].dtype == np.float32


def test_without_64_bit_numbers_it_is_refused():
    for model in (MODELS['gpt'], MODELS['t5']):
        with pytest.raises(config.InputError, match='JAX_ENABLE_X64=1'):
            config.vary(model, {'dtype': 'float64'}).build()


def test_kernels_leave_float64_alone():
    with jax.enable_x64(True):
        q_BTHK = jnp.zeros((1, 4, 2, 2), jnp.float64)
        here = jnp.arange(4)[None]
        case = case_of(Query(q_BTHK, q_BTHK, q_BTHK, Context(here, here)))
    assert ring.Ring().unsupported_reason(case) == 'ring attention computes in float32 at best'
    assert paths.choose(case, attention.Plain()).kernel == attention.Plain()
