"""Questions on a text: every window, and where in it the answer is."""

import json

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import questions, tokenizers

CONTEXT = 'The bridge, built by the Norman Duke in 1042, fell; the king (an old man) had it built once more in 1070.'
ASKED = (('Who built the bridge?', 'Norman Duke'), ('When did the king build it?', '1070'))
VOCAB = tokenizers.WordPiece(vocab=300, trained_on=sources.Texts(texts=(CONTEXT, *(text for text, _ in ASKED))))


@pytest.fixture
def path(tmp_path):
    asked = [
        {'question': text, 'answers': [{'text': answer, 'answer_start': CONTEXT.index(answer)}]}
        for text, answer in ASKED
    ]
    file = tmp_path / 'dev.json'
    file.write_text(json.dumps({'data': [{'paragraphs': [{'context': CONTEXT, 'qas': asked}]}]}))
    return str(file)


def data(path, **changes):
    source = sources.SquadFile(path=path)
    base = questions.Questions(source=source, tokenizer=VOCAB, batch=2, length=64, question=12, stride=4)
    return config.vary(base, changes)


@pytest.mark.parametrize('length', [64, 32, 20])
def test_the_places_of_an_answer_hold_its_text(path, length):
    examples = data(path, length=length).build(0).examples
    batch = examples.gather(np.arange(len(examples)), np.zeros(len(examples), np.int64), 0)
    found = {}
    for row, window in enumerate(examples.windows):
        start, end = int(batch['starts'][row]), int(batch['ends'][row])
        assert (start > 0) == (end > 0)
        if start:
            found.setdefault(window.question, set()).add(examples.text(row, start, end))
    assert found == {0: {'Norman Duke'}, 1: {'1070'}}


@pytest.mark.parametrize('length', [32, 20])
def test_every_token_of_the_text_is_in_a_window(path, length):
    examples = data(path, length=length).build(0).examples
    ids, _ = examples.context(CONTEXT)
    held = {window.first + i for window in examples.windows if window.question == 0 for i in range(window.tokens)}
    assert held == set(range(len(ids)))


@pytest.mark.parametrize(('tokens', 'starts'), [(5, [0]), (10, [0]), (11, [0, 4]), (14, [0, 4]), (15, [0, 4, 8])])
def test_windows_reach_the_end_and_no_further(tokens, starts):
    assert list(questions.starts_of_windows(tokens, room=10, stride=4)) == starts


def test_every_token_is_in_a_window_and_no_window_is_empty():
    for tokens in range(1, 40):
        for room in (1, 2, 7, 10, 40):
            for stride in (1, 3, 7, 10, 11, 128):
                windows = [
                    range(start, min(start + room, tokens))
                    for start in questions.starts_of_windows(tokens, room=room, stride=stride)
                ]
                assert all(windows)
                assert set().union(*windows) == set(range(tokens))


@pytest.mark.parametrize(('length', 'question', 'stride'), [(20, 12, 128), (20, 12, 1), (32, 4, 128), (64, 12, 64)])
def test_every_answer_is_in_a_window(path, length, question, stride):
    examples = data(path, length=length, question=question, stride=stride).build(0).examples
    batch = examples.gather(np.arange(len(examples)), np.zeros(len(examples), np.int64), 0)
    assert {examples.windows[row].question for row in np.flatnonzero(batch['starts'])} == {0, 1}
    assert all(window.tokens for window in examples.windows)


@pytest.mark.parametrize(
    ('context', 'answer', 'start', 'words'),
    [
        (CONTEXT, 'Norman Duke', 3, "'Norman Duke' should be at character 3, but ' bridge, bu' is there"),
        (CONTEXT, 'Norman Duke', -1, 'at character -1 is not within the 105 characters'),
        (CONTEXT, '1070.', 900, 'at character 900 is not within'),
        (CONTEXT, ' ', 3, "Question 0 \\('Who\\?'\\) has no answer"),
        ('  ', '  ', 0, 'has no answer'),
    ],
)
def test_answers_are_where_the_data_says(tmp_path, context, answer, start, words):
    asked = {'question': 'Who?', 'answers': [{'text': answer, 'answer_start': start}]}
    (tmp_path / 'a.json').write_text(json.dumps({'data': [{'paragraphs': [{'context': context, 'qas': [asked]}]}]}))
    with pytest.raises(config.InputError, match=words):
        data(str(tmp_path / 'a.json')).build(0)


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(config.InputError, match='There is no file'):
        data(str(tmp_path / 'none.json')).build(0)
    (tmp_path / 'other.json').write_text('{"version": "1.1"}')
    with pytest.raises(config.InputError, match="not a file of SQuAD: KeyError: 'data'"):
        data(str(tmp_path / 'other.json')).build(0)
    unanswered = {'context': CONTEXT, 'qas': [{'question': 'Why?', 'answers': []}]}
    (tmp_path / 'two.json').write_text(json.dumps({'data': [{'paragraphs': [unanswered]}]}))
    with pytest.raises(config.InputError, match=r'use those of 1\.1'):
        data(str(tmp_path / 'two.json')).build(0)
