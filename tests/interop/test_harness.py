"""The adapter to lm-eval: likelihoods, whole texts and generation, by themselves and through the harness."""

import functools
import json

import jax
import numpy as np
import pytest

import drawing
from bigmodel_jax import config
from bigmodel_jax.data import sources, tokenizers
from bigmodel_jax.evaluate import decoding, likelihood
from bigmodel_jax.interop import harness
from bigmodel_jax.models import decoder

BYTES = tokenizers.ByteTokenizer()
LENGTH = 16
MODEL = decoder.gpt(vocab=257, width=16, layers=1, heads=2, length=LENGTH)


@functools.cache
def params():
    return drawing.variables(MODEL.build(), {'inputs': np.zeros((1, LENGTH), np.int32)})['params']


@functools.cache
def answers():
    return harness.Answers(likelihood.Scorer(MODEL, params(), rows=4), BYTES, BYTES.end, (BYTES.end,), new_tokens=5)


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
    asked = harness.Answers(answers().scorer, bpe, bpe.end)
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


def test_unknown_wishes_are_refused():
    with pytest.raises(config.InputError, match="'num_beams' is not supported"):
        answers().generate([('ab', {'num_beams': 4})])


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
