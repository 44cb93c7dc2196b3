"""Interleaved layer patterns: the same as one layer after another, however they are compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import drawing
from bigmodel_jax import config
from bigmodel_jax.kernels import context as contexts
from bigmodel_jax.layers import attention, blocks, ffn, stacks
from bigmodel_jax.layers.base import intermediates
from bigmodel_jax.models import decoder
from bigmodel_jax.parallel import pipeline, sharding

ROWS, LENGTH, WIDTH, LAYERS, BAND = 4, 8, 16, 4, 3
DENSE = blocks.Block(mixer=attention.Attention(heads=2, bias=True), ffn=ffn.Mlp(hidden=24, bias=True))
BANDED = config.vary(DENSE, {'mixer.window': BAND})
X_BTD = np.random.default_rng(0).normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
CONTEXT = contexts.Context(np.arange(LENGTH)[None], np.arange(LENGTH)[None])
SCANNED = stacks.Stack()
GPT = decoder.gpt(vocab=31, width=WIDTH, layers=LAYERS, heads=2, length=LENGTH)
TOKENS = np.random.default_rng(1).integers(0, 31, (2, LENGTH)).astype(np.int32)


def built(stack=SCANNED, layers=LAYERS, pattern=(DENSE, BANDED)):
    return stack.build(pattern, layers)


@functools.cache
def plain():
    """Weights of a stack of one kind, [L, ...] each."""
    return drawing.variables(built(pattern=(DENSE,)), X_BTD, CONTEXT)['params']['layers']


def by_turns(weights, count=2):
    """Weights [L, ...] as those of `count` kinds that take turns."""
    return {f'turn{turn}': jax.tree.map(lambda leaf: leaf[turn::count], weights) for turn in range(count)}  # noqa: B023


def value_and_grad(module, params):
    def total(params, x_BTD):
        y_BTD, _ = module.apply({'params': {'layers': params}}, x_BTD, CONTEXT)
        return jnp.sin(y_BTD).sum(), y_BTD

    (_, y_BTD), grads = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(params, X_BTD)
    return y_BTD, grads


@pytest.fixture(scope='module')
def one_by_one():
    """What four layers give one after another, dense, banded, dense, banded, and their gradients."""

    def total(weights, x_BTD):
        for layer in range(LAYERS):
            block = BANDED if layer % 2 else DENSE
            params = jax.tree.map(lambda leaf: leaf[layer], weights)  # noqa: B023
            x_BTD, _ = block.build().apply({'params': params}, x_BTD, CONTEXT)
        return jnp.sin(x_BTD).sum(), x_BTD

    (_, y_BTD), grads = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(plain(), X_BTD)
    return y_BTD, (by_turns(grads[0]), grads[1])


@pytest.mark.parametrize(
    'stack', [stacks.Stack(remat='full'), pytest.param(stacks.Stack(scan=False), marks=pytest.mark.slow)], ids=str
)
def test_turns_are_one_layer_after_another(stack, one_by_one):
    found = value_and_grad(built(stack), by_turns(plain()))
    # Float32: XLA may add in another order. Gradients are of order 1 to 10.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5), found, one_by_one)


def test_turns_of_one_kind_are_the_plain_stack_bit_for_bit():
    one_kind = jax.jit(built(pattern=(DENSE, DENSE)).apply)({'params': {'layers': by_turns(plain())}}, X_BTD, CONTEXT)[
        0
    ]
    expected = jax.jit(built(pattern=(DENSE,)).apply)({'params': {'layers': plain()}}, X_BTD, CONTEXT)[0]
    np.testing.assert_array_equal(one_kind, expected)


@pytest.mark.slow
def test_a_pipeline_of_turns_changes_nothing(one_by_one):
    with sharding.use(sharding.MeshShape(data=1, pipeline=2).build()) as place:
        assert pipeline.microbatches(place, ROWS) > 1
        found = value_and_grad(built(stacks.Stack(remat='full')), by_turns(plain()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5), found, one_by_one)


def test_the_program_does_not_grow_with_depth():
    def size(layers):
        abstract = jax.eval_shape(built(layers=layers).init, jax.random.key(0), X_BTD, CONTEXT)
        return str(jax.make_jaxpr(built(layers=layers).apply)(abstract, X_BTD, CONTEXT)).count(' = ')

    assert size(4) == size(32)


def test_without_turns_the_parameters_are_as_ever():
    shapes = jax.tree.map(jnp.shape, plain())
    assert set(shapes) == {'attention', 'attention_norm', 'ffn', 'ffn_norm'}
    assert shapes['ffn']['up'] == (LAYERS, WIDTH, 24)


@functools.cache
def language_model():
    model = decoder.banded(GPT, window=BAND)
    return model, drawing.variables(model.build(), {'inputs': TOKENS})


def test_decoding_with_a_cache_gives_the_same_logits():
    model, variables = language_model()
    apply, state, found = jax.jit(model.build().apply), model.initial_state(2, LENGTH), []
    whole_BTV = apply(variables, {'inputs': TOKENS})['logits']
    for start, stop in ((0, 4), *((t, t + 1) for t in range(4, LENGTH))):
        batch = {'inputs': TOKENS[:, start:stop], 'positions': np.arange(start, stop)[None]}
        outputs = apply(variables, batch, state)
        state = outputs['state']
        found.append(outputs['logits'])
    np.testing.assert_allclose(np.concatenate(found, axis=1), whole_BTV, atol=1e-5)


def test_the_band_does_matter():
    model, variables = language_model()
    every = config.vary(model, {'interleaved': (GPT.block,)})
    banded_BTV, dense_BTV = (
        jax.jit(each.build().apply)(variables, {'inputs': TOKENS})['logits'] for each in (model, every)
    )
    np.testing.assert_allclose(banded_BTV[:, :BAND], dense_BTV[:, :BAND], atol=1e-5)
    assert np.abs(banded_BTV[:, BAND:] - dense_BTV[:, BAND:]).max() > 1e-2


@pytest.mark.parametrize(
    ('kinds', 'layers', 'message'),
    [
        ((DENSE, BANDED), 1, 'layers=1 is less than the 2 layers of the interleaved pattern'),
        ((DENSE, config.vary(BANDED, {'mixer.window': 9})), 4, 'window=9 is longer than the data \\(8 tokens\\)'),
    ],
)
def test_turns_that_cannot_be_are_refused(kinds, layers, message):
    with pytest.raises(config.InputError, match=message):
        stacks.check(kinds, layers, width=WIDTH, length=LENGTH)


@pytest.mark.slow
def test_layers_that_remain_of_a_pattern_are_one_layer_after_another():
    """Three layers of a pattern of two: the third has weights of its own, a state of its own, and is in the stream."""
    module, weights = built(layers=3), jax.tree.map(lambda leaf: leaf[:3], plain())
    turns = {name: jax.tree.map(lambda leaf: leaf[None], each) for name, each in by_turns(weights, 3).items()}
    first = {name: jax.tree.map(lambda leaf: leaf[0], turns[name]) for name in ('turn0', 'turn1')}
    tail = {'turn0': jax.tree.map(lambda leaf: leaf[0], turns['turn2'])}
    params = {'layers': first, 'tail': tail}
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(
        jnp.shape, drawing.variables(module, X_BTD, CONTEXT)['params']
    )
    (y_BTD, _), kept = module.apply({'params': params}, X_BTD, CONTEXT, mutable=['residual_stream'])
    expected_BTD = jnp.asarray(X_BTD)
    stream = [expected_BTD]
    for layer in range(3):
        block = BANDED if layer % 2 else DENSE
        params = jax.tree.map(lambda leaf: leaf[layer], weights)  # noqa: B023
        expected_BTD, _ = block.build().apply({'params': params}, expected_BTD, CONTEXT)
        stream.append(expected_BTD)
    np.testing.assert_allclose(y_BTD, expected_BTD, rtol=1e-5, atol=2e-5)
    found = intermediates.residual_streams({'blocks': kept['residual_stream']})['blocks']
    np.testing.assert_allclose(found, jnp.stack(stream), rtol=1e-5, atol=2e-5)
