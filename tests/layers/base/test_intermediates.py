"""What a model shows of its inside: streams, attention maps and routers, scanned, unrolled and in turns."""

import functools

import jax
import numpy as np
import pytest

import drawing
from bigmodel_jax import config
from bigmodel_jax.kernels import context as contexts
from bigmodel_jax.layers.base import intermediates
from bigmodel_jax.models import decoder, seq2seq
from bigmodel_jax.parallel import sharding

VOCAB, LENGTH, WIDTH, HEADS = 11, 5, 8, 2
GPT = decoder.gpt(vocab=VOCAB, width=WIDTH, layers=4, heads=HEADS, length=LENGTH)
MODELS = {
    'scanned': GPT,
    'unrolled': config.vary(GPT, {'stack.scan': False}),
    'rematerialised': config.vary(GPT, {'stack.remat': 'full'}),
    'in turns': decoder.banded(GPT, window=2),
}
TOKENS_BT = np.arange(2 * LENGTH).reshape(2, LENGTH) % VOCAB
BATCH = {'inputs': TOKENS_BT}


@functools.cache
def shown(name):
    """The weights of a model, its features, and the collections it shows."""
    module = MODELS[name].build()
    variables = drawing.variables(module, BATCH)
    apply = functools.partial(module.apply, method='features', mutable=list(intermediates.COLLECTIONS))
    (features_BTD, _), kept = jax.jit(apply)(variables, BATCH)
    return variables['params'], features_BTD, kept


def layer(params, number, turns):
    """The weights of one layer."""
    stacked = params['blocks']['layers']
    if turns > 1:
        stacked, number = stacked[f'turn{number % turns}'], number // turns
    return jax.tree.map(lambda leaf: leaf[number], stacked)


@pytest.mark.parametrize('name', MODELS)
def test_streams_are_what_each_layer_makes_of_the_one_before(name):
    params, features_BTD, kept = shown(name)
    model = MODELS[name]
    streams = intermediates.residual_streams(kept[intermediates.RESIDUAL_STREAM])['blocks']
    assert streams.shape == (5, 2, LENGTH, WIDTH)
    embedded = params['embedding']['table'][TOKENS_BT] + params['positions']['table']
    np.testing.assert_allclose(streams[0], embedded, rtol=1e-6)
    here_BT = np.arange(LENGTH)[None]
    kinds = [jax.jit(kind.build().apply) for kind in (model.block, *model.interleaved)]
    for number in range(4):
        weights = {'params': layer(params, number, len(kinds))}
        after, _ = kinds[number % len(kinds)](weights, streams[number], contexts.Context(here_BT, here_BT))
        np.testing.assert_allclose(streams[number + 1], after, rtol=2e-5, atol=2e-5)
    last = model.norm.build().apply({'params': params['norm']}, streams[-1])
    np.testing.assert_allclose(features_BTD, last, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize('name', MODELS)
def test_maps_are_weights_of_the_keys_that_are_seen(name):
    _, _, kept = shown(name)
    ((stack, found),) = intermediates.attention_weights(kept[intermediates.ATTENTION_WEIGHTS]).items()
    assert (stack, list(found)) == ('blocks', ['attention'])
    maps = found['attention']
    assert maps.shape == (4, 2, HEADS, LENGTH, LENGTH)
    np.testing.assert_allclose(maps.sum(axis=-1), 1, rtol=1e-6)
    distance = np.arange(LENGTH)[:, None] - np.arange(LENGTH)
    for number in range(4):
        seen = (distance >= 0) & (distance < (2 if name == 'in turns' and number % 2 else LENGTH))
        assert (np.asarray(maps[number] > 0) == seen).all()


def test_both_stacks_of_a_pair_show_theirs():
    model = seq2seq.t5(vocab=VOCAB, width=WIDTH, layers=2, heads=HEADS, head_width=4, hidden=12)
    module, batch = model.build(), {'source': TOKENS_BT[:, :3], 'inputs': TOKENS_BT}
    variables = drawing.variables(module, batch)
    outputs, kept = jax.jit(functools.partial(module.apply, mutable=list(intermediates.COLLECTIONS)))(variables, batch)
    streams = intermediates.residual_streams(kept[intermediates.RESIDUAL_STREAM])
    assert {name: stream.shape for name, stream in streams.items()} == {
        'encoder': (3, 2, 3, WIDTH),
        'decoder': (3, 2, LENGTH, WIDTH),
    }
    shapes = jax.tree.map(np.shape, intermediates.attention_weights(kept[intermediates.ATTENTION_WEIGHTS]))
    assert shapes == {
        'encoder': {'attention': (2, 2, HEADS, 3, 3)},
        'decoder': {'attention': (2, 2, HEADS, LENGTH, LENGTH), 'cross': (2, 2, HEADS, LENGTH, 3)},
    }
    # The maps are those by which the values were summed: to show them changes nothing.
    np.testing.assert_array_equal(outputs['logits'], jax.jit(module.apply)(variables, batch)['logits'])


def test_routers_show_their_logits():
    model = decoder.mixtral(vocab=VOCAB, width=WIDTH, layers=2, heads=HEADS, kv_heads=1, hidden=8, experts=3)
    module = model.build()
    variables = drawing.variables(module, BATCH)
    _, kept = jax.jit(functools.partial(module.apply, mutable=[intermediates.ROUTER_LOGITS]))(variables, BATCH)
    assert intermediates.router_logits(kept[intermediates.ROUTER_LOGITS])['blocks'].shape == (2, 2, LENGTH, 3)


def test_nothing_is_shown_unasked():
    module = GPT.build()
    assert set(jax.eval_shape(module.init, jax.random.key(0), BATCH)) == {'params'}
    asking = functools.partial(module.apply, mutable=[intermediates.ATTENTION_WEIGHTS])
    variables = drawing.variables(module, BATCH)
    plain, more = (str(jax.make_jaxpr(function)(variables, BATCH)) for function in (module.apply, asking))
    assert len(more) > len(plain)
    assert plain == str(jax.make_jaxpr(functools.partial(module.apply, mutable=['losses']))(variables, BATCH))


def test_stages_show_nothing_and_say_so():
    module = GPT.build()
    variables = drawing.variables(module, BATCH)
    place = sharding.MeshShape(data=1, pipeline=2).build(jax.devices()[:2])
    with sharding.use(place), pytest.raises(config.InputError, match='not available with a pipeline'):
        module.apply(variables, BATCH, mutable=[intermediates.RESIDUAL_STREAM])


@pytest.mark.parametrize('having', [(0, 2), (2,), (1,)])
def test_layers_of_a_pattern_without_attention_have_no_map(having):
    """As with two recurrent layers to each that attends (De et al., 2024)."""
    turns = {f'turn{turn}': {'attention': {'weights': np.full((2, 1, 1, 3, 3), turn)}} for turn in having}
    found = intermediates.attention_weights({'blocks': {'layers': turns}})['blocks']['attention']
    assert found[:, 0, 0, 0, 0].tolist() == [*having, *having]
