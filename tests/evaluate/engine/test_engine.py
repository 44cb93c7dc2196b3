"""What an engine generates for a request does not depend on what else it generates."""

import importlib.metadata

import jax
import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.evaluate.engine import engine_shape, page_pool, row_checks
from bigmodel_jax.evaluate.engine import text_engine as engines
from bigmodel_jax.evaluate.engine.text_request import Draw, TextRequest
from bigmodel_jax.evaluate.text import decoding, likelihood
from bigmodel_jax.models import decoder
from bigmodel_jax.parallel import sharding

SHAPE = engine_shape.EngineShape(group=4, chunk=8, page=4)
MODEL = decoder.llama(vocab=50, width=16, layers=3, heads=4, kv_heads=2, hidden=32, rope_base=10_000.0)
MODEL = config.vary(MODEL, {'interleaved': (config.vary(MODEL.block, {'mixer.window': 6}),)})
END = 3


@pytest.fixture(scope='module')
def params():
    tokens = np.zeros((1, 4), np.int32)
    return MODEL.build().init(jax.random.key(1), {'inputs': tokens})['params']


def made(params, rows=8, **limits):
    weights = engines.EngineWeights(MODEL, params)
    # Too few pages for all at once. One size of the cache, so that the engines of these tests share their programs.
    limits = {'positions': 120} | limits
    return engines.TextEngine(weights, SHAPE, engines.EngineLimits(rows=rows, length=48, **limits))


def requests(count):
    rng = np.random.default_rng(5)
    for number in range(count):
        temperature, top_k, top_p = ((0.0, None, None), (1.0, None, None), (0.7, 9, None), (1.3, None, 0.8))[number % 4]
        draw = Draw(temperature=temperature, top_k=top_k, top_p=top_p, seed=number, choice=number % 3)
        prompt = rng.integers(0, 50, rng.integers(1, 20), np.int32)
        tokens = int(rng.integers(1, 25))
        yield TextRequest(prompt=prompt, tokens=tokens, end=END, draw=draw, best=number % 2 * 3, scored=number % 5 == 0)


def content(continuation):
    return continuation.tokens, continuation.log_ps, continuation.best, continuation.prompt_log_ps, continuation.ending


@pytest.fixture(scope='module')
def asked():
    return list(requests(12))


@pytest.fixture(scope='module')
def alone(params, asked):
    """Each by itself."""
    engine = made(params, rows=1)
    return [engine.complete([each])[0] for each in asked]


def test_texts_among_others_are_those_alone_bit_for_bit(params, asked, alone):
    engine = made(params)
    found = [engine.submit(each) for each in asked]
    cancelled = [engine.submit(each) for each in asked]
    while engine.step():
        if cancelled and engine.running:
            engine.cancel(cancelled.pop())
    assert [content(each) for each in found] == [content(each) for each in alone]
    assert engine.running == engine.waiting == 0
    assert len(engine.pages) == engine.pages.count


def test_nothing_that_others_left_in_the_pages_matters(params, asked, alone):
    engine = made(params, rows=1)
    engine._pool = jax.tree.map(lambda x: x * np.nan, engine._pool)
    assert content(engine.complete(asked[3:4])[0]) == content(alone[3])


def test_log_probabilities_are_those_of_the_whole_text_read_at_once(params, alone):
    texts_BT, targets_BT = np.zeros((len(alone), 48), np.int32), np.zeros((len(alone), 48), np.int32)
    for row, each in enumerate(alone):
        text = [*each.request.prompt.tolist(), *each.tokens]
        texts_BT[row, : len(text)], targets_BT[row, : len(text) - 1] = text, text[1:]
    logits_BTV = MODEL.build().apply({'params': params}, {'inputs': texts_BT})['logits']
    log_p_BT = np.asarray(likelihood.log_likelihood(logits_BTV, targets_BT))
    is_greedy_BT = np.asarray(logits_BTV.argmax(axis=-1)) == targets_BT
    for each, log_p_T, is_greedy_T in zip(alone, log_p_BT, is_greedy_BT):
        first = len(each.request.prompt) - 1
        # Sums in another order; float32.
        np.testing.assert_allclose(each.log_ps, log_p_T[first : first + len(each.tokens)], rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(each.prompt_log_ps, log_p_T[: len(each.prompt_log_ps)], rtol=2e-5, atol=1e-6)
        assert len(each.prompt_log_ps) == (first if each.request.scored else 0)
        if each.request.draw.temperature == 0:
            assert is_greedy_T[first : first + len(each.tokens)].all()


@pytest.mark.slow
def test_draws_are_those_of_sampling(params):
    prompts = [np.array([7, 8, 9], np.int32)] * 3
    how = decoding.Sampling(temperature=0.8, top_p=0.9)
    rows = decoding.decode(MODEL, params, prompts, tokens=12, decoding=how, end=END, seed=11)
    draws = [Draw(temperature=0.8, top_p=0.9, seed=11, choice=choice) for choice in range(3)]
    found = made(params).complete([
        TextRequest(prompt=prompt, tokens=12, end=END, draw=draw) for prompt, draw in zip(prompts, draws)
    ])  # fmt: skip
    assert [each.tokens for each in found] == [row[0].tokens.tolist() for row in rows]


@pytest.fixture(scope='module')
def warm(params):
    engine = made(params)
    engine.warm_up()
    return engine


def test_programs_for_few_rows_change_no_bit(warm, asked, alone):
    assert len(warm.pages) == warm.pages.count
    for count in (1, 2, 3):
        texts = warm.complete(asked[-count:])
        assert [content(each) for each in texts] == [content(each) for each in alone[-count:]]


@pytest.mark.skipif(
    not importlib.metadata.version('jaxlib').startswith('0.10.'),
    reason='jaxlib 0.12 adds in another order for few rows, so that the programs for the whole group are used alone',
)
def test_there_are_programs_for_few_rows(warm):
    assert len(warm.counts) > 1


def test_rows_that_depend_on_their_number_or_on_one_another_are_noticed(warm):
    """Programs that add a little, as one that sums in another order does."""
    probe = row_checks.RowProbe(warm._run, warm._weights, warm._pool)
    probe.fill(SHAPE, MODEL.vocab, length=warm.length, pages=warm.pages.count)
    assert row_checks.dependence(probe) is None
    read = warm._run.read

    def by_count(pool, weights, rows):
        pool, logits_BV = read(pool, weights, rows)
        return pool, logits_BV + 1e-6 * (len(logits_BV) == 2)

    def by_neighbour(pool, weights, rows):
        pool, logits_BV = read(pool, weights, rows)
        return pool, logits_BV + 1e-6 * rows.lengths_B.sum()

    probe.run = warm._run._replace(read=by_count)
    assert row_checks.equal_counts(probe) == tuple(each for each in warm.counts[:-1] if each != 2)
    probe.run = warm._run._replace(read=by_neighbour)
    assert 0 < row_checks.dependence(probe) < 1e-3
    warm._pool = probe.pool


def test_what_does_not_fit_is_refused_before_it_waits(params):
    engine = made(params, positions=20)
    prompt = np.arange(10, dtype=np.int32)
    with pytest.raises(config.InputError, match='48 at most'):
        engine.submit(TextRequest(prompt=prompt, tokens=39, end=END))
    with pytest.raises(config.InputError, match='do not fit in the cache'):
        engine.submit(TextRequest(prompt=prompt, tokens=30, end=END))
    with pytest.raises(config.InputError, match='0 to 49'):
        engine.submit(TextRequest(prompt=np.array([50]), tokens=3, end=END))
    assert engine.waiting == 0


def test_pages_are_taken_once():
    pages = page_pool.FreePages(4)
    taken = pages.take(2)
    assert page_pool.SCRATCH not in taken
    assert pages.take(2) is None
    pages.give_back(taken)
    assert len(pages) == 3


@pytest.mark.slow
def test_on_a_mesh_texts_among_others_are_those_alone(params, asked):
    place = sharding.MeshShape(data=2, tensor=2).build()
    weights = engines.EngineWeights(MODEL, jax.device_put(params, place.replicated), place=place)
    limits = [engines.EngineLimits(rows=rows, length=48) for rows in (1, 8)]
    one, many = (engines.TextEngine(weights, SHAPE, each) for each in limits)
    assert not many._pool[0].sharding.is_fully_replicated
    alone = [content(one.complete([each])[0]) for each in asked[:6]]
    assert [content(each) for each in many.complete(asked[:6])] == alone
    many.warm_up()


@pytest.mark.slow
def test_the_size_of_an_engine_changes_no_bit(params, asked, alone):
    engine = made(params, rows=12, positions=1_000)
    assert [content(each) for each in engine.complete(asked)] == [content(each) for each in alone]
