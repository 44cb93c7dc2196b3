"""Laws of the decoder: causality, padding and packing, for every kind of positions; precision; what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import drawing
from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.layers import blocks, positions
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language

VOCAB, LENGTH = 31, 12
GPT = decoder.gpt(vocab=VOCAB, width=16, layers=2, heads=2, length=LENGTH)
LLAMA = decoder.llama(vocab=VOCAB, width=16, layers=2, heads=4, kv_heads=2, hidden=24, rope_base=10_000.0)
POST_NORM = {'block.residual': blocks.PostNorm(), 'norm': None, 'embedding.scaled': True}
MODELS = {
    'learned': GPT,
    'rotary_window': config.vary(LLAMA, {'block.mixer.window': 4, 'block.mixer.scores.soft_cap': 10.0}),
    'sinusoidal_post_norm': config.vary(GPT, {'positions': positions.Sinusoidal(), **POST_NORM}),
    'relative': config.vary(GPT, {'positions': positions.Relative(heads=2, buckets=8, max_distance=10)}),
}
DOCUMENTS = (np.array([3, 1, 4, 1, 5, 9]), np.array([2, 6, 5, 3]))


@functools.cache
def compiled(name):
    """Logits [2, T, V] of the model, as a function of a batch with positions and segments."""
    module = MODELS[name].build()
    variables = drawing.variables(module, {'inputs': np.zeros((2, LENGTH), np.int32)})
    return jax.jit(lambda batch: module.apply(variables, batch)['logits'])


def rows(*documents_of_rows):
    """Rows of packed documents as a batch; what is left of a row is padding."""
    batch = {name: np.zeros((2, LENGTH), np.int32) for name in ('inputs', 'positions', 'segments')}
    for row, documents in enumerate(documents_of_rows):
        start = 0
        for number, document in enumerate(documents, 1):
            place = (row, slice(start, start + len(document)))
            batch['inputs'][place], batch['segments'][place] = document, number
            batch['positions'][place] = np.arange(len(document))
            start += len(document)
    return batch


@pytest.mark.parametrize('name', MODELS)
def test_the_future_cannot_change_the_past(name):
    tokens = np.arange(2 * LENGTH).reshape(2, LENGTH) % VOCAB
    batch = rows([tokens[0]], [tokens[1]])
    changed = batch | {'inputs': np.where(np.arange(LENGTH) < 5, batch['inputs'], 30 - batch['inputs'])}
    before, after = compiled(name)(batch), compiled(name)(changed)
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.abs(before[:, 5] - after[:, 5]).max() > 1e-3


@pytest.mark.parametrize('name', MODELS)
def test_padding_changes_nothing(name):
    batch = rows([DOCUMENTS[0]], [DOCUMENTS[1]])
    other = batch | {'inputs': np.where(batch['segments'] > 0, batch['inputs'], 7)}
    logits, other_logits = compiled(name)(batch), compiled(name)(other)
    for row, document in enumerate(DOCUMENTS):
        np.testing.assert_array_equal(logits[row, : len(document)], other_logits[row, : len(document)])
    assert np.isfinite(logits).all()


@pytest.mark.parametrize('name', MODELS)
def test_a_packed_document_is_as_if_alone(name):
    alone = compiled(name)(rows([DOCUMENTS[0]], [DOCUMENTS[1]]))
    packed = compiled(name)(rows(DOCUMENTS, DOCUMENTS[::-1]))
    first, second = map(len, DOCUMENTS)
    # A sum over other keys with weight 0 may be taken in another order.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(packed[0, :first], alone[0, :first])
    close(packed[0, first : first + second], alone[1, :second])
    close(packed[1, :second], alone[1, :second])
    close(packed[1, second : second + first], alone[0, :first])
    targets = np.roll(DOCUMENTS[1], -1)
    losses = [language.cross_entropy(x, targets)[0] for x in (packed[1, :second], alone[1, :second])]
    close(*losses)


def test_positions_and_segments_are_optional():
    module = GPT.build()
    tokens = np.arange(2 * LENGTH).reshape(2, LENGTH) % VOCAB
    explicit = compiled('learned')(rows([tokens[0]], [tokens[1]]))
    variables = drawing.variables(module, {'inputs': np.zeros((2, LENGTH), np.int32)})
    implicit = jax.jit(module.apply)(variables, {'inputs': tokens})['logits']
    np.testing.assert_allclose(implicit, explicit, rtol=1e-5, atol=1e-5)


def test_bfloat16_computes_on_float32_weights():
    module = config.vary(GPT, {'dtype': 'bfloat16'}).build()
    batch = rows(DOCUMENTS, DOCUMENTS)
    variables = drawing.variables(module, {'inputs': batch['inputs']})

    def total(variables):
        logits = module.apply(variables, batch)['logits']
        return jnp.square(logits).sum(), logits

    (_, logits), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(variables)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype.name for leaf in jax.tree.leaves((variables, grads))} == {'float32'}
    features = jax.eval_shape(functools.partial(module.apply, method='features'), variables, batch)[0]
    assert features.dtype == jnp.bfloat16
    exact = compiled('learned')(batch)
    # Bfloat16 has 8 bits; two layers on values of about 1.
    np.testing.assert_allclose(logits, exact, atol=0.1)
    assert np.abs(logits - exact).max() > 1e-4


def test_dropout_needs_a_key_and_uses_it():
    model = config.vary(GPT, {'embedding.dropout': 0.5, 'block.residual.dropout': 0.5, 'block.mixer.dropout': 0.5})
    module, batch = model.build(), rows(DOCUMENTS, DOCUMENTS)
    variables = drawing.variables(module, batch)
    apply = jax.jit(lambda key: module.apply(variables, batch, rngs={'dropout': key})['logits'])
    first, same, other = (apply(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-3
    without = jax.jit(module.apply)(variables, batch)['logits']
    # Float32: with the weights built in, the compiler may add in another order.
    np.testing.assert_allclose(without, compiled('learned')(batch), rtol=1e-5, atol=1e-5)


def fields(length, upper_bound):
    return {'inputs': batches.Field((length,), np.dtype(np.int32), ('length',), upper_bound)}


@pytest.mark.parametrize(
    ('model', 'data', 'message'),
    [
        (GPT, fields(LENGTH, 32), 'model.vocab=31 is too small: the tokenizer has 32 tokens. Use model.vocab=64'),
        (GPT, fields(LENGTH + 1, 31), r'model.positions.length=12 is shorter than the data \(13 tokens\)'),
        (config.vary(GPT, {'block.mixer.heads': 3}), fields(LENGTH, 31), 'heads=3 does not divide the model width'),
        (GPT, {'image': fields(1, None)['inputs']}, "Decoder reads 'inputs', but the data gives image"),
    ],
)
def test_what_does_not_fit_is_refused(model, data, message):
    with pytest.raises(config.InputError, match=message):
        model.check(data)


def test_what_fits_is_accepted():
    GPT.check(fields(LENGTH, VOCAB))
    LLAMA.check(fields(1_000, VOCAB))
