"""Searches against exhaustive ones in Python, over texts whose next token depends on everything before it."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import drawing
from bigmodel_jax.evaluate.text import beam_search, decoding, decoding_model
from bigmodel_jax.layers import attention, blocks, ffn, positions
from bigmodel_jax.models import seq2seq

STATES, END = 997, 0
PROMPTS = [[1], [2, 1, 1], [1, 2]]


@dataclasses.dataclass(frozen=True)
class Automaton(decoding_model.DecodingModel):
    """A language model without weights: a text leads to a state, and each state has a row of log-probabilities."""

    table: jax.Array

    @classmethod
    def of(cls, table):
        return cls(model=None, apply=None, fixed={}, table=jnp.asarray(table, jnp.float32))

    def begin(self, prompts, *, slots):
        def read(states_B, at):
            tokens_B, place = at
            return jnp.where(place < prompts.lengths_B, successor(states_B, tokens_B), states_B), None

        start_B = jnp.zeros_like(prompts.lengths_B)
        places = jnp.arange(prompts.tokens_BT.shape[1])
        states_B, _ = jax.lax.scan(read, start_B, (prompts.tokens_BT.T, places))
        return self.table[states_B], states_B[None]

    def next(self, tokens_B, positions_B, cache):
        states_B = successor(cache[0], tokens_B)
        return self.table[states_B], states_B[None]


def successor(state, token):
    return (31 * state + 7 * token + 5) % STATES


def table(vocab, seed=0, end_bonus=0.0):
    """Log-probabilities [states, V]."""
    logits = np.random.default_rng(seed).normal(0, 1.5, (STATES, vocab))
    logits[:, END] += end_bonus
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def prompts(rows):
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens = np.zeros((len(rows), max(lengths)), np.int32)
    for row, ids in zip(tokens, rows):
        row[: len(ids)] = ids
    return decoding_model.Prompts(jnp.asarray(tokens), jnp.asarray(lengths))


def log_probability(log_p, prompt, text):
    state, total = functools.reduce(successor, prompt, 0), 0.0
    for token in text:
        total += log_p[state, token]
        state = successor(state, token)
    return total


def score(log_p, prompt, text, penalty):
    return log_probability(log_p, prompt, text) / ((5 + len(text)) / 6) ** penalty


def found(texts, row):
    """The hypotheses of a row as (tokens, score)."""
    count = int(np.isfinite(texts.log_p_BW[row]).sum())
    lengths = np.array(texts.lengths_BW[row])
    tokens = np.array(texts.tokens_BWT[row])
    return [(tuple(tokens[w, : lengths[w]].tolist()), float(texts.scores_BW[row, w])) for w in range(count)]


def beam(log_p, rows, **options):
    run = jax.jit(lambda start: beam_search.beam(Automaton.of(log_p), start, end=END, **options))
    return jax.device_get(run(prompts(rows)))


def all_texts(vocab, tokens):
    """Every text that ends within `tokens`, or is cut there."""
    others = [token for token in range(vocab) if token != END]
    for length in range(tokens):
        yield from ((*text, END) for text in itertools.product(others, repeat=length))
    yield from itertools.product(others, repeat=tokens)


@pytest.mark.parametrize('penalty', [0.0, 2.0])
def test_with_enough_beams_the_search_is_exhaustive(penalty):
    log_p = table(3)
    texts = beam(log_p, PROMPTS, beams=3**4, length_penalty=penalty, tokens=4)
    for row, prompt in enumerate(PROMPTS):
        expected = sorted(((score(log_p, prompt, text, penalty), text) for text in all_texts(3, 4)), reverse=True)
        assert [text for text, _ in found(texts, row)] == [text for _, text in expected]
        np.testing.assert_allclose(texts.scores_BW[row, : len(expected)], [value for value, _ in expected], rtol=1e-5)
        np.testing.assert_allclose(
            texts.log_p_BW[row, : len(expected)],
            [log_probability(log_p, prompt, text) for _, text in expected],
            rtol=1e-5,
        )


VOCAB, TOKENS = 4, 3
PAIRS = seq2seq.Seq2Seq(
    vocab=VOCAB, width=8, encoder_layers=1, decoder_layers=1, positions=positions.Sinusoidal(),
    block=blocks.Block(mixer=attention.Attention(heads=2), ffn=ffn.Mlp(hidden=16)),
)  # fmt: skip
SOURCES = [np.array([1, 3, 2, 1, END]), np.array([2, END])]


@pytest.fixture(scope='module')
def pairs():
    """Weights, and a function (source, texts [n, TOKENS]) -> log-probabilities [n, TOKENS, V] of all next tokens."""
    module, tokens = PAIRS.build(), np.zeros((1, TOKENS), np.int32)
    variables = drawing.variables(module, {'source': tokens, 'inputs': tokens})
    # Larger logits, so that no two texts are nearly equal.
    variables['params']['embedding']['table'] = 4 * variables['params']['embedding']['table']
    apply = jax.jit(lambda batch: jax.nn.log_softmax(module.apply(variables, batch)['logits']))

    def log_p(source, texts):
        inputs = np.concatenate([np.full((len(texts), 1), END), texts[:, :-1]], axis=1)
        return np.array(apply({'source': np.tile(source, (len(texts), 1)), 'inputs': inputs}), np.float64)

    return variables['params'], log_p


@pytest.mark.parametrize(
    ('decoder', 'penalty'),
    [(decoding_model.Cached, 0.6), pytest.param(decoding_model.Recomputing, 0.0, marks=pytest.mark.slow)],
)
def test_with_enough_beams_a_translation_is_the_best_of_all(pairs, decoder, penalty):
    """Every text that an encoder-decoder can write, in the order of its score, from a cache or without."""
    params, log_p = pairs
    texts = list(all_texts(VOCAB, TOKENS))
    found = decoding.decode(
        PAIRS,
        params,
        [np.array([END])] * 2,
        tokens=TOKENS,
        decoding=decoding.Beam(beams=len(texts), length_penalty=penalty),
        end=END,
        source=SOURCES,
        decoder=decoder,
    )
    filled = np.array([[*text, *[END] * (TOKENS - len(text))] for text in texts])
    for source, hypotheses in zip(SOURCES, found):
        gained = np.take_along_axis(log_p(source, filled), filled[:, :, None], axis=2)[:, :, 0]
        totals = [gained[i, : len(text)].sum() for i, text in enumerate(texts)]
        scores = [total / ((5 + len(text)) / 6) ** penalty for text, total in zip(texts, totals)]
        order = np.argsort(scores)[::-1]
        assert [tuple(each.tokens.tolist()) for each in hypotheses] == [texts[i] for i in order]
        # Sums of float32 in another order.
        np.testing.assert_allclose([each.score for each in hypotheses], np.array(scores)[order], rtol=1e-4)
        np.testing.assert_allclose([each.log_p for each in hypotheses], np.array(totals)[order], rtol=1e-4)


def plain_beam(log_p, prompt, *, beams, penalty, tokens):
    """Beam search in Python that never stops early: (score, text), best first."""
    live, kept = [((), 0.0)], []
    for _ in range(tokens):
        grown = [(*text, token) for text, _ in live for token in range(log_p.shape[1])]
        grown = [(text, log_probability(log_p, prompt, text)) for text in grown]
        grown = sorted(grown, key=lambda pair: -pair[1])[: 2 * beams]
        kept += [text for text, _ in grown if text[-1] == END]
        kept = sorted(kept, key=lambda text: -score(log_p, prompt, text, penalty))[:beams]
        live = [(text, total) for text, total in grown if text[-1] != END][:beams]
    everything = kept + [text for text, _ in live]
    return sorted(((score(log_p, prompt, text, penalty), text) for text in everything), reverse=True)[:beams]


@pytest.mark.parametrize(('beams', 'end_bonus'), [(1, 1.0), (2, 2.0), (4, 0.0)])
def test_stopping_early_loses_nothing(beams, end_bonus):
    log_p = table(6, seed=beams, end_bonus=end_bonus)
    texts = beam(log_p, PROMPTS, beams=beams, length_penalty=0.6, tokens=7)
    for row, prompt in enumerate(PROMPTS):
        expected = plain_beam(log_p, prompt, beams=beams, penalty=0.6, tokens=7)
        assert [text for text, _ in found(texts, row)] == [text for _, text in expected]


def test_the_search_stops_when_nothing_can_improve():
    """Reading counts its calls in the cache: with an end of probability near 1, far fewer than 1,000 are needed."""
    log_p = np.log(np.where(np.arange(4) == END, 0.97, 0.01))[None].repeat(STATES, axis=0)

    class Counting(Automaton):
        def next(self, tokens_B, positions_B, cache):
            jax.debug.callback(lambda: calls.append(1))
            return super().next(tokens_B, positions_B, cache)

    for decode in (
        functools.partial(beam_search.beam, beams=2, length_penalty=0.6),
        functools.partial(beam_search.one_by_one, pick=lambda logits_BV, positions_B: logits_BV.argmax(-1)),
    ):
        calls = []
        jax.block_until_ready(
            jax.jit(lambda start: decode(Counting.of(log_p), start, tokens=1_000, end=END))(prompts(PROMPTS))  # noqa: B023
        )
        jax.effects_barrier()
        assert len(calls) < 20


def test_rows_of_padding_find_nothing_and_change_nothing():
    log_p = table(5)
    options = {'beams': 3, 'length_penalty': 0.6, 'tokens': 5}
    alone, padded = beam(log_p, PROMPTS, **options), beam(log_p, [*PROMPTS, []], **options)
    assert [found(padded, row) for row in range(3)] == [found(alone, row) for row in range(3)]
    assert found(padded, 3) == []


def test_length_norm_is_equation_14():
    np.testing.assert_allclose(beam_search.length_norm(jnp.int32(1), 0.6), 1.0)
    np.testing.assert_allclose(beam_search.length_norm(jnp.int32(13), 0.6), 3.0**0.6, rtol=1e-6)


def greedy(log_p, prompt, tokens):
    text = []
    for _ in range(tokens):
        state = functools.reduce(successor, [*prompt, *text], 0)
        text.append(int(log_p[state].argmax()))
        if text[-1] == END:
            break
    return tuple(text)


def test_greedy_takes_the_most_likely_token_until_the_end():
    log_p = table(4, end_bonus=0.3)
    run = jax.jit(
        lambda start: decoding.Greedy().search(Automaton.of(log_p), start, tokens=9, end=END, key=jax.random.key(0))
    )
    texts = jax.device_get(run(prompts(PROMPTS)))
    expected = [greedy(log_p, prompt, 9) for prompt in PROMPTS]
    assert [found(texts, row)[0][0] for row in range(3)] == expected
    assert len({len(text) for text in expected}) > 1  # Rows end at different times.
    totals = [log_probability(log_p, prompt, text) for prompt, text in zip(PROMPTS, expected)]
    np.testing.assert_allclose(texts.log_p_BW[:, 0], totals, rtol=1e-5)


def nucleus(p, *, top_k, top_p):
    """The tokens that may be drawn, one at a time from the most likely."""
    order = sorted(range(len(p)), key=lambda token: -p[token])[:top_k]
    mass, chosen = sum(p[token] for token in order), []
    everything = top_p is None or top_p == 1  # Sums of float32 may reach 1 before the last token.
    while order and (everything or sum(p[token] for token in chosen) < top_p * mass):
        chosen.append(order.pop(0))
    return set(chosen)


@pytest.mark.parametrize('temperature', [1.0, 0.5])
@pytest.mark.parametrize('top_k', [None, 1, 3, 50])
@pytest.mark.parametrize('top_p', [None, 1e-6, 0.7, 1.0])
def test_candidates(temperature, top_k, top_p):
    logits = np.random.default_rng(1).normal(0, 2, (5, 8)).astype(np.float32)
    kept = decoding.candidates(jnp.asarray(logits), temperature=temperature, top_k=top_k, top_p=top_p)
    for row in range(5):
        p = np.exp(logits[row] / temperature)
        expected = nucleus(p / p.sum(), top_k=top_k or 8, top_p=top_p)
        assert set(np.flatnonzero(np.isfinite(kept[row])).tolist()) == expected
        chosen = sorted(expected)
        np.testing.assert_allclose(kept[row, jnp.array(chosen)], logits[row, chosen] / temperature, rtol=1e-6)


def test_samples_have_the_frequencies_of_the_model():
    rows, log_p = 4_000, table(5, seed=3)
    how = decoding.Sampling(temperature=0.8, top_k=4)
    run = jax.jit(lambda start: how.search(Automaton.of(log_p), start, tokens=1, end=END, key=jax.random.key(0)))
    drawn = np.array(run(prompts([[1]] * rows)).tokens_BWT[:, 0, 0])
    p = np.exp(log_p[successor(0, 1)] / 0.8)
    p[p.argmin()] = 0.0
    p /= p.sum()
    frequencies = np.bincount(drawn, minlength=5) / rows
    assert np.all(np.abs(frequencies - p) <= 4 * np.sqrt(p * (1 - p) / rows))  # Four standard errors.
