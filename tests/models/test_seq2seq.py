"""Laws of the encoder-decoder: what each side sees, padding and packing; and it learns to reverse a sequence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import drawing
from bigmodel_jax import config
from bigmodel_jax.evaluate.text import decoding
from bigmodel_jax.layers import attention, blocks, ffn, positions
from bigmodel_jax.models import seq2seq
from bigmodel_jax.objectives import language

VOCAB, LENGTH = 12, 6
BLOCK = blocks.Block(mixer=attention.Attention(heads=2), ffn=ffn.Mlp(hidden=32))
SINUSOIDAL = seq2seq.Seq2Seq(
    vocab=VOCAB, width=16, encoder_layers=2, decoder_layers=2, block=BLOCK, positions=positions.Sinusoidal()
)
MODELS = {
    'sinusoidal': SINUSOIDAL,
    'relative': config.vary(SINUSOIDAL, {'positions': positions.Relative(heads=2, buckets=6, max_distance=5)}),
}
SHORT, LONG = np.array([3, 1, 4]), np.array([2, 7, 1, 8])
NAMES = ('source', 'source_positions', 'source_segments', 'inputs', 'positions', 'segments')


@functools.cache
def compiled(name):
    module = MODELS[name].build()
    example = {'source': np.zeros((2, LENGTH), np.int32), 'inputs': np.zeros((2, LENGTH), np.int32)}
    variables = drawing.variables(module, example)
    return jax.jit(lambda batch: module.apply(variables, batch)['logits'])


def pairs(*pairs_of_rows):
    """Rows of packed (source, target) pairs as a batch."""
    batch = {name: np.zeros((2, LENGTH), np.int32) for name in NAMES}
    for row, documents in enumerate(pairs_of_rows):
        for side, prefix, tokens in ((0, 'source_', 'source'), (1, '', 'inputs')):
            start = 0
            for number, pair in enumerate(documents, 1):
                place = (row, slice(start, start + len(pair[side])))
                batch[tokens][place], batch[f'{prefix}segments'][place] = pair[side], number
                batch[f'{prefix}positions'][place] = np.arange(len(pair[side]))
                start += len(pair[side])
    return batch


WHOLE = pairs([(np.arange(6), np.arange(5, 11))], [(np.arange(2, 8), np.arange(6))])


@pytest.mark.parametrize('name', MODELS)
def test_the_decoder_sees_its_past_and_the_whole_source(name):
    logits = compiled(name)(WHOLE)
    later = compiled(name)(WHOLE | {'inputs': np.where(np.arange(LENGTH) < 3, WHOLE['inputs'], 11)})
    np.testing.assert_array_equal(logits[:, :3], later[:, :3])
    assert np.abs(logits[:, 3] - later[:, 3]).max() > 1e-3
    source = compiled(name)(WHOLE | {'source': np.where(np.arange(LENGTH) < 5, WHOLE['source'], 11)})
    assert np.abs(logits[:, 0] - source[:, 0]).max() > 1e-4


@pytest.mark.parametrize('name', MODELS)
def test_padding_changes_nothing(name):
    batch = pairs([(SHORT, LONG)], [(LONG, SHORT)])
    other = dict(batch)
    for tokens, segments in (('source', 'source_segments'), ('inputs', 'segments')):
        other[tokens] = np.where(batch[segments] > 0, batch[tokens], 9)
    logits, other_logits = compiled(name)(batch), compiled(name)(other)
    np.testing.assert_array_equal(logits[0, :4], other_logits[0, :4])
    np.testing.assert_array_equal(logits[1, :3], other_logits[1, :3])


def test_padding_reads_the_first_document_alone():
    """As where a mask hides keys and no query, so that its numbers too can be compared with other implementations."""
    batch = pairs([(SHORT, LONG)], [(LONG, SHORT)])
    module = SINUSOIDAL.build()
    variables = drawing.variables(module, batch)
    encode = jax.jit(functools.partial(module.apply, method='encode'))
    found = encode(variables, batch)
    other = encode(variables, batch | {'source': np.where(np.arange(LENGTH) == 4, 9, batch['source'])})
    np.testing.assert_array_equal(found[0, 5], other[0, 5])
    assert np.abs(found[0, 4] - other[0, 4]).max() > 1e-3
    read = encode(variables, batch | {'source': np.where(np.arange(LENGTH) == 0, 9, batch['source'])})
    assert np.abs(found[0, 5] - read[0, 5]).max() > 1e-3


@pytest.mark.parametrize('name', MODELS)
def test_a_packed_pair_is_as_if_alone(name):
    first, second = (SHORT, LONG[:2]), (LONG[:3], SHORT)
    alone = compiled(name)(pairs([first], [second]))
    packed = compiled(name)(pairs([first, second], [second, first]))
    # A sum over other keys with weight 0 may be taken in another order.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(packed[0, :2], alone[0, :2])
    close(packed[0, 2:5], alone[1, :3])
    close(packed[1, :3], alone[1, :3])
    close(packed[1, 3:5], alone[0, :2])


def test_memory_stands_for_the_source():
    module = SINUSOIDAL.build()
    variables = drawing.variables(module, WHOLE)
    memory = jax.jit(functools.partial(module.apply, method='encode'))(variables, WHOLE)
    without = {name: value for name, value in WHOLE.items() if name != 'source'}
    logits = jax.jit(module.apply)(variables, without | {'memory': memory})['logits']
    np.testing.assert_allclose(logits, compiled('sinusoidal')(WHOLE), rtol=1e-5, atol=1e-5)


START, END, STEPS, ROWS = 0, 1, 300, 64


def reversal(key):
    """A batch of random sequences and their reversals: START is before each target, END after it."""
    source = jax.random.randint(key, (ROWS, LENGTH - 1), 2, VOCAB)
    ends = jnp.full((ROWS, 1), END)
    targets = jnp.concatenate([source[:, ::-1], ends], axis=1)
    return {'source': source, 'inputs': jnp.concatenate([ends * START, targets[:, :-1]], axis=1), 'targets': targets}


@pytest.mark.slow
def test_it_learns_to_reverse_and_generates_the_reversal():
    model = config.vary(SINUSOIDAL, {'width': 32, 'encoder_layers': 1, 'decoder_layers': 1})
    module, optimizer = model.build(), optax.adam(optax.cosine_decay_schedule(3e-3, STEPS))

    def loss(params, batch):
        logits = module.apply({'params': params}, batch)['logits']
        return language.cross_entropy(logits, batch['targets'])[0].mean()

    def step(carry, key):
        params, opt_state = carry
        grads = jax.grad(loss)(params, reversal(key))
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    params = drawing.variables(module, WHOLE)['params']
    keys = jax.random.split(jax.random.key(0), STEPS)
    train = jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0])
    params = train(params)
    sources = [np.array([7, 3, 3, 11, 2]), np.array([5, 10, 9, 8, 4])]
    texts = decoding.decode(
        model, params, [np.array([START])] * 2, tokens=8, decoding=decoding.Greedy(), end=END, source=sources
    )
    for source, (text,) in zip(sources, texts):
        np.testing.assert_array_equal(text.tokens, [*source[::-1], END])
        assert text.log_p > np.log(0.8)
