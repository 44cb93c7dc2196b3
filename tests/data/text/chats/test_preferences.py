"""Pairs of answers: the forms of records, the mask, what is too long, and what is no preference."""

import json

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.data.text.chats import chat_templates, preferences

PLAIN = chat_templates.Plain(user='U:', assistant='A:', separator='|')
USER, GOOD, BAD = (
    {'role': role, 'content': text} for role, text in (('user', 'q'), ('assistant', 'yes'), ('assistant', 'n'))
)
EARLIER = [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}, USER]
WANTED = ('U:q|A:yes#', '      ^^^^', 'U:q|A:n#', '      ^^')


def data(tmp_path, found, **fields):
    path = tmp_path / 'pairs.jsonl'
    path.write_text(''.join(json.dumps(record) + '\n' for record in found))
    fields = {'tokenizer': tokenizers.Bytes(), 'batch': 1, 'length': 60, 'template': PLAIN} | fields
    return preferences.Preferences(source=sources.JsonLines(pattern=str(path)), **fields)


def shown(examples, row=0):
    """The targets of both conversations of a row as text, '#' being `end`, and below each whether it counts."""
    rows = examples.rows(np.array([row]))
    found = []
    for segment in (preferences.CHOSEN, preferences.REJECTED):
        here = rows['segments'][0] == segment
        found.append(''.join('#' if i == 256 else chr(i) for i in rows['targets'][0][here]))
        found.append(''.join('^' if weight else ' ' for weight in rows['loss_weights'][0][here]))
        assert rows['positions'][0][here].tolist() == list(range(here.sum()))
        assert rows['inputs'][0][here][0] == 256
    return tuple(found)


@pytest.mark.parametrize(
    'record',
    [
        {'prompt': 'q', 'chosen': 'yes', 'rejected': 'n'},
        {'prompt': [USER], 'chosen': [GOOD], 'rejected': [BAD]},
        {'chosen': [USER, GOOD], 'rejected': [USER, BAD]},
        {'prompt': 'q', 'chosen': [USER, GOOD], 'rejected': [USER, BAD], 'score': 3},
        {'prompt': [USER], 'chosen': 'yes', 'rejected': 'n'},
    ],
)
def test_the_forms_of_a_record(tmp_path, record):
    assert shown(data(tmp_path, [record]).build(0).examples) == WANTED


@pytest.mark.parametrize(
    'record',
    [
        {'prompt': EARLIER, 'chosen': [GOOD], 'rejected': [BAD]},
        {'chosen': [*EARLIER, GOOD], 'rejected': [*EARLIER, BAD]},
    ],
)
def test_earlier_answers_belong_to_the_prompt(tmp_path, record):
    chosen, mask, _, _ = shown(data(tmp_path, [record]).build(0).examples)
    assert chosen == 'U:a|A:b#U:q|A:yes#'
    assert mask == ' ' * 14 + '^^^^'


def test_what_is_too_long_is_refused_or_cut(tmp_path, capsys):
    found = [{'prompt': 'q', 'chosen': 'x' * 40, 'rejected': 'n'}, {'prompt': 'q' * 40, 'chosen': 'a', 'rejected': 'b'}]
    with pytest.raises(config.InputError, match=r'2 of 2 pairs are longer than length=40.*line 2\) has 47 and 47'):
        data(tmp_path, found, length=40).build(0)
    built = data(tmp_path, found, length=40, cut=True).build(0)
    assert 'answer of which nothing is left' in capsys.readouterr().err.replace('\n', ' ')
    assert len(built.examples) == 1
    # The short answer stays whole, and leaves the long one all the rest of the row.
    assert shown(built.examples)[::2] == ('U:q|A:' + 'x' * 26, 'U:q|A:n#')


def test_pairs_of_equal_answers_are_left_out(tmp_path, capsys):
    equal = {'prompt': 'q', 'chosen': 'n', 'rejected': 'n'}
    built = data(tmp_path, [equal, {**equal, 'chosen': 'yes'}]).build(0)
    assert '1 of 2 pairs have two equal answers' in capsys.readouterr().err
    assert [shown(built.examples, row) for row in range(len(built.examples))] == [WANTED]
    with pytest.raises(config.InputError, match='No pair has two different answers'):
        data(tmp_path, [equal]).build(0)


def test_no_row_is_read_without_a_reference(tmp_path):
    built = data(tmp_path, [{'prompt': 'q', 'chosen': 'yes', 'rejected': 'n'}]).open(0)
    with pytest.raises(config.InputError, match='before their reference log-probabilities are computed'):
        built.training(0)


@pytest.mark.parametrize(
    ('record', 'message'),
    [
        ({'prompt': 'q', 'chosen': 'a'}, r"line 1 is not a preference: it has no 'rejected'.*It has: prompt, chosen"),
        ({'chosen': 'a', 'rejected': 'b'}, r'line 1 has no "prompt", and "chosen" and "rejected" do not begin'),
        ({'prompt': 3, 'chosen': 'a', 'rejected': 'b'}, 'line 1: "prompt" is a int, not a list'),
        ({'prompt': 'q', 'chosen': [USER], 'rejected': 'b'}, 'line 1 "chosen" has no message of the role "assistant"'),
        ({'prompt': 'q', 'chosen': [{'role': 'user'}], 'rejected': 'b'}, "line 1, message 1 has no field 'content'"),
        (
            {'prompt': 'other', 'chosen': [USER, GOOD], 'rejected': [USER, BAD]},
            '"chosen" should begin with a message of the role "assistant" after the prompt, but begins with one of',
        ),
        ({'prompt': [USER, GOOD], 'chosen': 'a', 'rejected': 'b'}, 'the prompt ends with a message of the role'),
    ],
)
def test_a_record_that_is_no_preference_is_named(tmp_path, record, message):
    with pytest.raises(config.InputError, match=message):
        data(tmp_path, [record]).build(0)
