"""Likelihoods: those of NumPy in float64, whatever the batch, the padding and the mesh; and what has no room."""

import functools

import jax
import numpy as np
import pytest

import drawing
from bigmodel_jax import config
from bigmodel_jax.evaluate.text import likelihood
from bigmodel_jax.layers import positions
from bigmodel_jax.models import decoder, seq2seq
from bigmodel_jax.parallel import sharding

VOCAB, LENGTH = 19, 24
MODEL = decoder.gpt(vocab=VOCAB, width=16, layers=1, heads=2, length=LENGTH)
RNG = np.random.default_rng(0)
SIZES = ((1, 1), (5, 3), (12, 4), (20, 4), (3, 9), (2, 2), (7, 1), (16, 9))  # The last but one token of the last fits.


def tokens(count):
    return RNG.integers(0, VOCAB, count).astype(np.int32)


REQUESTS = [likelihood.Request(tokens(context), tokens(completion)) for context, completion in SIZES]


@functools.cache
def params():
    return drawing.variables(MODEL.build(), {'inputs': np.zeros((1, LENGTH), np.int32)})['params']


@functools.cache
def compiled(model):
    return jax.jit(lambda inputs: model.build().apply({'params': params()}, {'inputs': inputs})['logits'])


def logits(ids, model=MODEL, length=LENGTH):
    """[T, V] float64 of one text; all lengths share a program, for the future cannot change the past."""
    return np.asarray(compiled(model)(np.pad(ids, (0, length - len(ids)))[None])[0], np.float64)[: len(ids)]


def by_hand(request, **of):
    """The sum of log p and whether every token is the likeliest, in float64."""
    context, completion = request
    logits_TV = logits(np.concatenate([context, completion])[:-1], **of)[-len(completion) :]
    log_p_TV = logits_TV - np.log(np.exp(logits_TV).sum(axis=-1, keepdims=True))
    picked = log_p_TV[np.arange(len(completion)), completion]
    return picked.sum(), bool((log_p_TV.argmax(axis=-1) == completion).all())


def test_scores_are_sums_of_log_softmax():
    scores = likelihood.Scorer(MODEL, params(), rows=3)(REQUESTS)
    expected = [by_hand(request) for request in REQUESTS]
    # Float32 logits; sums of up to nine terms of about 3.
    np.testing.assert_allclose([score.log_p for score in scores], [log_p for log_p, _ in expected], atol=2e-5)
    assert [score.is_greedy for score in scores] == [is_greedy for _, is_greedy in expected]
    assert [score.tokens for score in scores] == [completion for _, completion in SIZES]
    assert not any(score.dropped for score in scores)


def test_the_likeliest_tokens_are_greedy():
    context = tokens(4)
    best = logits(context)[-1].argmax()
    right, wrong = (likelihood.Request(context, np.array([token], np.int32)) for token in (best, (best + 1) % VOCAB))
    assert [score.is_greedy for score in likelihood.Scorer(MODEL, params(), rows=3)([right, wrong])] == [True, False]


def test_batches_and_meshes_change_nothing():
    place = sharding.MeshShape(data=2, fsdp=2).build()
    one, many = (
        [score.log_p for score in likelihood.Scorer(MODEL, params(), rows=size, place=where)(REQUESTS)]
        for size, where in ((3, None), (5, place))
    )
    np.testing.assert_allclose(one, many, atol=2e-5)


def test_too_long_a_context_loses_its_beginning():
    context, completion = tokens(40), tokens(3)
    cut = likelihood.Request(context[-(LENGTH - 2) :], completion)
    long_one, short_one = likelihood.Scorer(MODEL, params(), rows=3)([likelihood.Request(context, completion), cut])
    assert long_one.log_p == short_one.log_p
    assert (long_one.dropped, short_one.dropped) == (40 + 3 - 1 - LENGTH, 0)


def test_a_long_completion_is_taken_in_pieces():
    model = config.vary(MODEL, {'positions': positions.Sinusoidal()})
    request = likelihood.Request(tokens(1), tokens(likelihood.PIECE + 6))
    (found,) = likelihood.Scorer(model, params(), rows=1)([request])
    assert found.log_p == pytest.approx(by_hand(request, model=model, length=2 * likelihood.PIECE)[0], abs=1e-3)


@pytest.mark.parametrize(
    ('request_', 'message'),
    [
        (likelihood.Request(tokens(0), tokens(2)), 'a context of 0 tokens and a completion of 2'),
        (likelihood.Request(tokens(2), tokens(0)), 'a context of 2 tokens and a completion of 0'),
        (likelihood.Request(tokens(2), tokens(25)), 'has 25 tokens, but the model reads 24 at most'),
        (likelihood.Request(tokens(2), np.array([VOCAB])), 'but the model knows 0 to 18'),
    ],
)
def test_what_has_no_likelihood_is_refused(request_, message):
    with pytest.raises(config.InputError, match=message):
        likelihood.Scorer(MODEL, params())([request_])


def test_a_translator_is_refused():
    model = seq2seq.Seq2Seq(
        vocab=VOCAB, width=16, encoder_layers=1, decoder_layers=1, block=MODEL.block, positions=MODEL.positions
    )
    with pytest.raises(config.InputError, match='Seq2Seq gives no likelihood of a text'):
        likelihood.check(model, REQUESTS, None)
