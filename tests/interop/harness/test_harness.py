"""The adapter to lm-eval: likelihoods, whole texts and generation, by themselves and through the harness."""

import functools
import json
import types

import jax
import numpy as np
import pytest
from interop import published, reference_harness

import drawing
from bigmodel_jax import config
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.evaluate.text import decoding, likelihood
from bigmodel_jax.interop import huggingface
from bigmodel_jax.interop.harness import generation, harness
from bigmodel_jax.models import decoder

BYTES = tokenizers.ByteTokenizer()
LENGTH = 16
MODEL = decoder.gpt(vocab=257, width=16, layers=1, heads=2, length=LENGTH)


@functools.cache
def params():
    return drawing.variables(MODEL.build(), {'inputs': np.zeros((1, LENGTH), np.int32)})['params']


@functools.cache
def answers():
    return harness.HarnessAnswers(
        likelihood.Scorer(MODEL, params(), rows=4), BYTES, BYTES.end, (BYTES.end,), new_tokens=5
    )


@functools.cache
def compiled():
    return jax.jit(lambda inputs: MODEL.build().apply({'params': params()}, {'inputs': inputs})['logits'])


def by_hand(before, after):
    """The sum of log p of the bytes `after` those before, in float64."""
    ids = np.array([BYTES.end, *before.encode(), *after.encode()])
    inputs = np.pad(ids[:-1], (0, LENGTH + 1 - len(ids)))
    logits_TV = np.asarray(compiled()(inputs[None])[0], np.float64)
    log_p_TV = logits_TV - np.log(np.exp(logits_TV).sum(axis=-1, keepdims=True))
    first = len(before.encode())
    return sum(log_p_TV[place, ids[place + 1]] for place in range(first, len(ids) - 1))


def test_likelihoods_are_those_of_the_model():
    pairs = [('ab', ' cd'), ('', 'hello'), ('ab ', 'cd'), ('long context', 'xyz')]
    found = answers().log_likelihoods(pairs)
    expected = [by_hand('ab', ' cd'), by_hand('', 'hello'), by_hand('ab', ' cd'), by_hand('long context', 'xyz')]
    np.testing.assert_allclose([log_p for log_p, _ in found], expected, atol=2e-5)


def test_a_token_that_reaches_over_the_cut_is_split(tmp_path):
    (tmp_path / 'text').write_text('ab ab ab')
    bpe = tokenizers.Bpe(vocab=258, trained_on=sources.TextFile(path=str(tmp_path / 'text'))).build()
    assert len(bpe.encode('ab')) == 1
    asked = harness.HarnessAnswers(answers().scorer, bpe, bpe.end)
    context, completion = asked._request('a', 'b')
    assert [bpe.decode(part) for part in (context, completion)] == ['a', 'b']


def test_windows_predict_each_token_once_with_all_the_context_there_is_room_for():
    requests = list(harness.windows(np.arange(10), 99, 4))
    assert [request.completion.tolist() for request in requests] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    read = [np.concatenate(request)[:-1][-4:].tolist() for request in requests]
    # The example in the documentation of lm_eval.api.model.LM.loglikelihood_rolling.
    assert read == [[99, 0, 1, 2], [3, 4, 5, 6], [5, 6, 7, 8]]
    assert [len(request.completion) for request in harness.windows(np.arange(10), 99, None)] == [10]
    assert not list(harness.windows(np.arange(0), 99, None))


def test_whole_texts():
    short, long = answers().rolling(['hello', 'hello hello hello hello'])
    assert short == pytest.approx(by_hand('', 'hello'), abs=2e-5)
    assert long < short


def test_generation_stops_where_it_is_told():
    prompt = np.array([BYTES.end, *b'ab'], np.int32)
    ((best,),) = decoding.decode(MODEL, params(), [prompt], tokens=5, decoding=decoding.Greedy(), end=BYTES.end)
    whole = BYTES.decode(best.tokens)
    first, second = answers().generate([('ab', {'until': ['\0\0never']}), ('ab', {'until': whole[2:4]})])
    assert first == whole
    assert second == whole[: whole.index(whole[2:4])]


def test_long_prompts_lose_their_beginning():
    one, other = answers().generate([('x' * 40, {'max_gen_toks': 5}), ('x' * 12, {'max_gen_toks': 5})])
    assert one == answers().generate([('y' + 'x' * 40, {'max_gen_toks': 5})])[0]
    assert len(one) <= 5
    assert isinstance(other, str)


# ---- what the harness's own adapter says ----------------------------------------------------------------------------

RECORDED = json.loads((published.ORACLES / 'harness.json').read_text())
SETTINGS = {'begins': {'begin': (reference_harness.BEGIN,)}, 'bare': {'prefix': reference_harness.BEGIN}, 'ends': {}}
# Sums of up to 170 log-probabilities, in float32 on either side.
ROUNDING = 2e-5


class Ids:
    """The tokenizer of reference_harness.py, of the texts that were recorded."""

    size = len(RECORDED['tokens'])

    def __init__(self, begins=()):
        self.begins = begins

    def encode(self, text):
        return [*self.begins, *RECORDED['ids'][text]]

    def decode(self, ids):
        return ''.join(RECORDED['tokens'][i] for i in ids if i > reference_harness.END)


def of_reference(tokenizer=None, **settings):
    pretrained = huggingface.load_pretrained(reference_harness.ORACLE)
    return harness.of_pretrained(pretrained, tokenizer or Ids(), end=reference_harness.END, **settings)


@pytest.mark.parametrize('name', SETTINGS)
def test_likelihoods_are_those_of_the_harness(name):
    found = of_reference(**SETTINGS[name]).log_likelihoods(reference_harness.PAIRS)
    wanted = RECORDED[name]['log_likelihoods']
    np.testing.assert_allclose([log_p for log_p, _ in found], [log_p for log_p, _ in wanted], rtol=ROUNDING)
    assert [is_greedy for _, is_greedy in found] == [is_greedy for _, is_greedy in wanted]


@pytest.mark.parametrize(('name', 'settings'), [('bare', SETTINGS['bare']), ('bare', SETTINGS['begins']), ('ends', {})])
def test_windows_are_those_of_the_harness(name, settings):
    """As long as max_position_embeddings, though nothing in a rotary model limits them; after the begin token."""
    found = of_reference(**settings).rolling(reference_harness.TEXTS)
    np.testing.assert_allclose(found, RECORDED[name]['rolling'], rtol=ROUNDING)


@pytest.mark.parametrize('name', [pytest.param('begins', marks=pytest.mark.slow), 'bare'])
def test_generated_texts_are_those_of_the_harness(name):
    found = of_reference(**SETTINGS[name]).generate(reference_harness.WISHES)
    assert found == RECORDED[name]['generate']


@pytest.mark.slow
def test_the_installed_harness_says_what_was_recorded():
    for name in ('lm_eval.models.huggingface', 'transformers', 'tokenizers'):
        pytest.importorskip(name)
    found = reference_harness.measured()
    for name in SETTINGS:
        assert found[name]['generate'] == RECORDED[name]['generate']
        found_P, recorded_P = ([log_p for log_p, _ in each[name]['log_likelihoods']] for each in (found, RECORDED))
        np.testing.assert_allclose(found_P, recorded_P, rtol=ROUNDING)


def test_the_longest_window_can_be_said():
    assert of_reference().scorer.longest == 64
    assert of_reference(limit=16).scorer.longest == 16


def test_a_tokenizer_that_adds_tokens_is_refused():
    with pytest.raises(
        config.InputError, match=r'adds tokens to a text: \[1, \d+\] for the text "a", \[1\] for no text'
    ):
        of_reference(Ids(begins=[1]), begin=(1,))


def test_a_tokenizer_that_gives_no_ids_is_refused():
    class Encoding(Ids):
        def encode(self, text):
            return types.SimpleNamespace(ids=super().encode(text))

    with pytest.raises(config.InputError, match='gives SimpleNamespace, not the ids'):
        of_reference(Encoding())


@pytest.mark.parametrize(
    ('wish', 'message'),
    [
        ({'num_beams': 4}, 'num_beams=4 is not supported; only 1 is'),
        ({'repetition_penalty': 1.2}, r'repetition_penalty=1\.2 is not supported; only 1 is'),
        ({'max_length': 4}, "'max_length' is not supported"),
        ({'max_gen_toks': 0}, 'max_gen_toks=0 should be a positive integer'),
        ({'max_gen_toks': 16}, '16 new tokens .* should be fewer than the 16'),
        ({'until': 3}, 'until=3 should be a text or a list of texts'),
        ({'do_sample': 'no'}, "do_sample='no' should be true or false"),
        ({'do_sample': True, 'top_k': -1}, 'top_k=-1 should be a positive integer, or 0'),
        ({'do_sample': True, 'top_p': 0.0}, r'top_p=0\.0 should be a number above 0'),
        ({'do_sample': True, 'top_p': 1.5}, r'top_p=1\.5 should be a number above 0 and at most 1'),
        ({'do_sample': True, 'temperature': None}, 'temperature=None should be a number'),
        ({'do_sample': True, 'temperature': -1.0}, r'temperature=-1\.0 should be a number'),
        ({'do_sample': True, 'temperature': 0.0}, 'asks for two things'),
    ],
)
def test_what_generation_does_not_do_is_refused(wish, message):
    with pytest.raises(config.InputError, match=message):
        answers().generate([('ab', wish)])


@pytest.mark.parametrize(
    ('given', 'how'),
    [
        ({}, decoding.Greedy()),
        ({'temperature': 0.0}, decoding.Greedy()),
        ({'do_sample': False, 'temperature': 0.8, 'top_p': 0.95}, decoding.Greedy()),
        ({'temperature': 0.8}, decoding.Sampling(temperature=0.8, top_k=50)),
        (
            {'do_sample': True, 'temperature': 0.2, 'top_p': 0.95},
            decoding.Sampling(temperature=0.2, top_k=50, top_p=0.95),
        ),
        ({'do_sample': True, 'top_k': 0}, decoding.Sampling()),
    ],
)
def test_sampling_is_asked_for_as_the_harness_asks(given, how):
    assert generation.wish(given, new_tokens=5).how == how


@pytest.mark.slow
def test_through_the_harness(tmp_path):
    lm_eval = pytest.importorskip('lm_eval')
    data = tmp_path / 'task.jsonl'
    rows = [{'q': f'{a}+1=', 'choices': [str(a + 1), str(a + 2)], 'gold': 0} for a in range(6)]
    data.write_text('\n'.join(map(json.dumps, rows)))
    task = {
        'task': 'sums',
        'dataset_path': 'json',
        'dataset_kwargs': {'data_files': {'test': str(data)}, 'cache_dir': str(tmp_path)},
        'test_split': 'test',
        'output_type': 'multiple_choice',
        'doc_to_text': '{{q}}',
        'doc_to_choice': '{{choices}}',
        'doc_to_target': '{{gold}}',
        'target_delimiter': '',
        'metric_list': [{'metric': 'acc'}],
    }
    done = lm_eval.simple_evaluate(model=harness.language_model(answers()), tasks=[task], bootstrap_iters=0)
    right = [by_hand(row['q'], row['choices'][0]) > by_hand(row['q'], row['choices'][1]) for row in rows]
    assert done['results']['sums']['acc,none'] == pytest.approx(np.mean(right))
