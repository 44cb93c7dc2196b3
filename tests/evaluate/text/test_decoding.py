"""Generation with real models: the cache, the batch, the mesh and the seed change nothing that they should not."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import drawing
from bigmodel_jax import config
from bigmodel_jax.evaluate.text import decoding, decoding_model
from bigmodel_jax.layers import attention, blocks, ffn, positions, recurrence
from bigmodel_jax.models import decoder, seq2seq
from bigmodel_jax.parallel import sharding

VOCAB, END, TOKENS = 23, 0, 9
GPT = decoder.gpt(vocab=VOCAB, width=16, layers=2, heads=2, length=24)
LLAMA = decoder.llama(vocab=VOCAB, width=16, layers=2, heads=4, kv_heads=2, hidden=24, rope_base=10_000.0)
PAIRS = seq2seq.Seq2Seq(
    vocab=VOCAB, width=16, encoder_layers=1, decoder_layers=2,
    positions=positions.Relative(heads=2, buckets=8, max_distance=10),
    block=blocks.Block(mixer=attention.Attention(heads=2), ffn=ffn.Mlp(hidden=24)),
)  # fmt: skip
ATTENDING = blocks.Block(mixer=attention.Attention(heads=2, rotary=positions.Rotary()), ffn=ffn.Mlp(hidden=24))
RECURRENT = decoder.Decoder(
    vocab=VOCAB, width=16, layers=2, positions=None,
    block=config.vary(ATTENDING, {'mixer': recurrence.GatedRecurrence(heads=2)}), interleaved=(ATTENDING,),
)  # fmt: skip
MODELS = {
    'learned': GPT,
    'rotary_window': config.vary(LLAMA, {'block.mixer.window': 4, 'block.mixer.scores.soft_cap': 10.0}),
    'seq2seq_relative': PAIRS,
    'recurrent': RECURRENT,
}
PROMPTS = [np.array([3, 1, 4, 1, 5]), np.array([9]), np.array([2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4])]
SOURCES = [np.array([2, 7, 1, 8]), np.array([1, 6, 1, 8, 0, 3, 3]), np.array([5])]
SAMPLING = decoding.Sampling(temperature=0.9, top_k=10, top_p=0.95)


@functools.cache
def params(name):
    tokens = np.zeros((1, 4), np.int32)
    return drawing.variables(MODELS[name].build(), {'inputs': tokens, 'source': tokens})['params']


def decode(name, how, rows=slice(None), **options):
    source = SOURCES[rows] if name == 'seq2seq_relative' else None
    options = {'tokens': TOKENS, 'end': END, 'source': source, **options}
    return decoding.decode(MODELS[name], params(name), PROMPTS[rows], decoding=how, **options)


def assert_same(found, expected):
    for texts, others in zip(found, expected, strict=True):
        for text, other in zip(texts, others, strict=True):
            np.testing.assert_array_equal(text.tokens, other.tokens)
            np.testing.assert_allclose(text[1:], other[1:], rtol=1e-4)  # Sums of float32 in another order.


@pytest.mark.parametrize(
    ('name', 'how'),
    [
        ('learned', decoding.Greedy()),
        pytest.param('rotary_window', SAMPLING, marks=pytest.mark.slow),
        ('seq2seq_relative', decoding.Beam(beams=2)),
        pytest.param('recurrent', SAMPLING, marks=pytest.mark.slow),
    ],
)
def test_the_cache_changes_nothing(name, how):
    cached, recomputed = (
        decode(name, how, decoder=decoder) for decoder in (decoding_model.Cached, decoding_model.Recomputing)
    )
    assert_same(cached, recomputed)


def test_a_text_does_not_depend_on_the_others_of_its_batch():
    """The first row alone; its draws go by its place."""
    alone = decode('rotary_window', SAMPLING, rows=slice(0, 1))
    assert_same(alone, decode('rotary_window', SAMPLING)[:1])


def test_log_probability_is_that_of_the_tokens_under_the_model():
    (text,) = decode('rotary_window', SAMPLING)[0]
    whole = np.concatenate([PROMPTS[0], text.tokens])
    apply = jax.jit(MODELS['rotary_window'].build().apply)
    logits = np.array(apply({'params': params('rotary_window')}, {'inputs': whole[None]})['logits'][0], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    places = np.arange(len(PROMPTS[0]) - 1, len(whole) - 1)
    np.testing.assert_allclose(text.log_p, log_p[places, text.tokens].sum(), rtol=1e-4)


def test_a_text_ends_with_the_end_token_or_is_cut():
    texts = [text for seed in range(24) for (text,) in decode('rotary_window', SAMPLING, seed=seed)]
    for text in texts:
        assert END not in text.tokens[:-1]
        assert len(text.tokens) == TOKENS or text.tokens[-1] == END
    assert len({len(text.tokens) for text in texts}) > 1


def test_the_seed_decides_the_text():
    texts = [decode('rotary_window', SAMPLING, seed=seed) for seed in (3, 3, 4)]
    assert_same(texts[0], texts[1])
    different = [not np.array_equal(a.tokens, b.tokens) for (a,), (b,) in zip(texts[0], texts[2])]
    assert any(different)
    same_prompt = decoding.decode(
        MODELS['rotary_window'], params('rotary_window'), [PROMPTS[0]] * 3, tokens=TOKENS, decoding=SAMPLING, end=END
    )
    assert len({text.tokens.tobytes() for (text,) in same_prompt}) > 1


def test_the_mesh_changes_nothing():
    """Three rows on four shards, so that one is padding."""
    place = sharding.MeshShape(data=2, fsdp=2, tensor=1).build(jax.devices()[:4])
    spread, how = jax.device_put(params('seq2seq_relative'), place.replicated), decoding.Beam(beams=2)
    found = decoding.decode(PAIRS, spread, PROMPTS, tokens=TOKENS, decoding=how, end=END, source=SOURCES, place=place)
    assert_same(found, decode('seq2seq_relative', how))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traced(decoding.Greedy):
    """Counts how often it is traced."""

    def search(self, *arguments, **options):
        TRACES.append(1)
        return super().search(*arguments, **options)


TRACES: list[int] = []


def test_similar_prompts_share_one_compiled_program():
    for prompts in (PROMPTS[:2], PROMPTS[1:], [PROMPTS[0][:2], PROMPTS[1]]):
        decoding.decode(GPT, params('learned'), prompts, tokens=TOKENS, decoding=Traced(), end=END)
    assert len(TRACES) == 1


def test_the_last_learned_position_is_used():
    """14 tokens and 11 new ones, the last of which is never read, take 24 positions."""
    (text,) = decode('learned', decoding.Greedy(), rows=slice(2, 3), tokens=11, end=VOCAB - 1)[0]
    assert len(text.tokens) == 11


GPT_CALL = {'tokens': 3, 'decoding': decoding.Greedy(), 'end': END}


@pytest.mark.parametrize(
    ('prompts', 'options', 'message'),
    [
        ([PROMPTS[2]], {'tokens': 12}, '14 tokens and 12 new ones take 25 positions.*learned 24.*at most 11 tokens'),
        ([np.array([], int)], {}, 'is empty; begin it with the end token, 0'),
        ([np.array([VOCAB])], {}, 'reach from 23 to 23, but the model knows 0 to 22'),
        ([np.array([-1])], {}, 'reach from -1 to -1'),
        ([PROMPTS[0]], {'end': VOCAB}, 'reach from 23 to 23'),
        ([], {}, '0 prompts'),
        ([PROMPTS[0]], {'tokens': 0}, 'tokens=0'),
        ([PROMPTS[0]], {'source': SOURCES[:1]}, 'Decoder reads no source'),
    ],
)
def test_impossible_requests_are_refused(prompts, options, message):
    with pytest.raises(config.InputError, match=message):
        decoding.decode(GPT, params('learned'), prompts, **{**GPT_CALL, **options})


def test_an_encoder_needs_its_source():
    with pytest.raises(config.InputError, match='Seq2Seq reads a source for each prompt'):
        decoding.decode(PAIRS, params('seq2seq_relative'), PROMPTS, **GPT_CALL)
    with pytest.raises(config.InputError, match='2 sources for 3 prompts'):
        decoding.decode(PAIRS, params('seq2seq_relative'), PROMPTS, source=SOURCES[:2], **GPT_CALL)
    learned = config.vary(PAIRS, {'positions': positions.Learned(length=6)})
    with pytest.raises(config.InputError, match='A source has 7 tokens, but the model has learned 6'):
        decoding.decode(learned, None, PROMPTS[:2], source=SOURCES[:2], **{**GPT_CALL, 'tokens': 1})


@pytest.mark.parametrize('options', [{'temperature': 0.0}, {'top_p': 0.0}, {'top_p': 1.1}, {'top_k': 0}])
def test_impossible_sampling_is_refused(options):
    with pytest.raises(config.InputError, match=next(iter(options))):
        config.check(decoding.Sampling(**options))


@pytest.mark.parametrize('how', [decoding.Greedy(), decoding.Beam(beams=2)], ids=str)
def test_a_model_of_nan_writes_a_text_of_log_probability_nan(how):
    """A run whose weights went wrong is evaluated like any other, and says so with nan."""
    broken = jax.tree.map(lambda x: x * np.nan, params('learned'))
    found = decoding.decode(MODELS['learned'], broken, PROMPTS, tokens=TOKENS, decoding=how, end=END)
    assert all(np.isnan(texts[0].log_p) for texts in found)


@pytest.mark.parametrize('temperature', [9e-4, 1e-20, 1.2e-38])
def test_a_tiny_temperature_leaves_the_most_likely_token(temperature):
    """Against float64: logits / 1e-38 is beyond float32, and infinity less infinity no number."""
    logits = np.random.default_rng(0).normal(size=(5, VOCAB)).astype(np.float32) * 100
    kept = decoding.candidates(logits, temperature=temperature, top_k=5, top_p=0.9)
    wide = (logits - logits.max(axis=-1, keepdims=True)).astype(np.float64) / temperature
    wanted = np.exp(wide) / np.exp(wide).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(jax.nn.softmax(kept), wanted, atol=1e-6)


def test_a_prompt_that_is_no_text_is_refused():
    with pytest.raises(config.InputError, match='not UTF-8 text: it holds the byte 0xff at character 1'):
        decoding.check_texts([b'a\xffb'.decode(errors='surrogateescape')])


def test_seeds_of_64_bits_give_their_own_texts():
    texts = [decode('rotary_window', SAMPLING, seed=seed) for seed in (3, 3 + 2**32, 2**64 - 1)]
    written = [tuple(text.tokens.tobytes() for (text,) in each) for each in texts]
    assert len(set(written)) == 3


def test_all_the_probability_is_every_token():
    """In float32 the probabilities of many tokens may add up to 1 before the last of them."""
    logits = np.linspace(0, -40, 4_000, dtype=np.float32)
    kept = decoding.candidates(logits, temperature=1.0, top_k=None, top_p=1.0)
    np.testing.assert_array_equal(kept, logits)
