"""Tasks: the text of a prompt to the letter, what is drawn for it, and templates that compute nothing."""

import collections
import json

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import records, sources
from bigmodel_jax.evaluate.text import task_records, tasks

RECORDS = [
    {'question': 'Is ice cold', 'choices': {'text': ['yes', 'no'], 'label': ['A', 'B']}, 'key': 'A', 'right': 0},
    {'question': 'Is fire $cold {x}', 'choices': {'text': ['yes', 'no'], 'label': ['A', 'B']}, 'key': 'B', 'right': 1},
]
PLACE = sources.JsonLines(pattern='nowhere')
LABELLED = tasks.Task(
    train=PLACE,
    test=PLACE,
    context='Q: $question?\nA:',
    choices='choices.text',
    labels='choices.label',
    answer='key',
    description='Answer.',
)


def test_a_prompt_is_description_examples_and_question():
    first, second = (LABELLED.question(record, 'here') for record in RECORDS)
    assert LABELLED.prompt(second, [first, second]) == (
        'Answer.\n\nQ: Is ice cold?\nA: yes\n\nQ: Is fire $cold {x}?\nA: no\n\nQ: Is fire $cold {x}?\nA:'
    )
    assert second == tasks.Question('Q: Is fire $cold {x}?\nA:', (' yes', ' no'), 1)


def test_zero_shots_without_description_are_the_question_alone():
    task = config.vary(LABELLED, {'description': '', 'separator': '\n'})
    first, second = (task.question(record, 'here') for record in RECORDS)
    assert task.prompt(first, []) == first.context
    assert task.prompt(first, [second]) == second.solved + '\n' + first.context


def test_choices_may_be_templates():
    task = config.vary(LABELLED, {'labels': None, 'answer': 'right', 'choices': ('${question}', 'not $$5 ${choices}')})
    record = {'question': 'x', 'choices': 3, 'right': '1'}
    assert task.question(record, 'here') == tasks.Question('Q: x?\nA:', (' x', ' not $5 3'), 1)


@pytest.mark.parametrize(
    'template',
    [
        '${question.__class__}',
        '${question.upper}',
        '{0.__class__}$choices',
        '${choices.text.0}',
        '$__class__',
        '${q!r}',
    ],
)
def test_a_template_reaches_nothing_but_fields(template):
    with pytest.raises(config.InputError, match=r'has no field|is a dict, not text|malformed'):
        tasks.filled(template, RECORDS[0], 'here')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'context': '$qestion'}, "here has no field 'qestion'. Did you mean 'question'"),
        ({'choices': 'question'}, "'question' is a str, not a list"),
        ({'choices': ('one',)}, 'two choices at least'),
        ({'answer': 'question'}, "the answer 'Is ice cold' is not one of the labels"),
        ({'answer': 'key', 'labels': None}, "key='A' is not the number of a choice"),
        ({'context': 'costs $ 5'}, r'malformed: Invalid placeholder.* A plain \$ is \$\$'),
    ],
)
def test_a_record_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(config.InputError, match=message):
        config.vary(LABELLED, changes).question(RECORDS[0], 'here')


def test_an_answer_beyond_the_choices_is_refused():
    with pytest.raises(config.InputError, match='choice 2 \\(from 0\\) of 2'):
        config.vary(LABELLED, {'labels': None, 'answer': 'right'}).question({**RECORDS[0], 'right': 2}, 'here')


def test_draws_follow_from_seed_and_example():
    drawn = [tasks.drawn(seed, example, count=3, available=10) for seed in (0, 1) for example in (0, 1)]
    assert drawn == [tasks.drawn(seed, example, count=3, available=10) for seed in (0, 1) for example in (0, 1)]
    assert len(set(map(tuple, drawn))) == 4
    assert tasks.drawn(0, 0, count=2, available=10) == drawn[0][:2]


def test_draws_are_different_and_even():
    counts = collections.Counter(
        number for example in range(1_000) for number in tasks.drawn(7, example, count=3, available=6, without=2)
    )
    assert counts[2] == 0
    # Each of the five others in 3/5 of 1,000 draws; the deviation of such a count is 15.
    assert all(abs(counts[number] - 600) < 75 for number in (0, 1, 3, 4, 5))
    assert sorted(tasks.drawn(0, 0, count=5, available=6, without=2)) == [0, 1, 3, 4, 5]
    with pytest.raises(config.InputError, match='shots=6 examples are to be shown, but there are 5'):
        tasks.drawn(0, 0, count=6, available=6, without=2)


def test_lines_of_json(tmp_path):
    lines = [json.dumps(record) for record in RECORDS]
    (tmp_path / 'a.jsonl').write_text(lines[0] + '\n\n')
    (tmp_path / 'b.jsonl').write_text(lines[1])
    assert list(sources.JsonLines(pattern=f'{tmp_path}/*.jsonl').open()) == RECORDS
    for broken, message in (('{', 'line 2 is not JSON'), ('[1]', 'line 2 is a JSON list')):
        (tmp_path / 'c.json').write_text('{}\n' + broken)
        with pytest.raises(config.InputError, match=message):
            list(sources.JsonLines(pattern=f'{tmp_path}/*.json').open())


def test_records_of_tfds():
    source = sources.Tfds(name='python_docs', split='train[:5]')
    plain = [task_records.plain(record)['text'] for record in source.open().read(0, 3)]
    assert plain == records.texts(source).read(0, 3)
    assert task_records.plain({'a': np.array([b'x', b'y']), 'b': np.int64(3), 'c': b'z'}) == {
        'a': ['x', 'y'],
        'b': 3,
        'c': 'z',
    }


def test_sums_have_one_right_result_among_four():
    found = task_records.Sums(count=400, below=20, seed=3).open()
    for record in found:
        choices = [int(choice) for choice in record['choices']]
        assert len(set(choices)) == 4
        assert min(choices) >= 0
        assert choices[record['label']] == record['a'] + record['b']
    ranks = [sorted(map(int, record['choices'])).index(record['a'] + record['b']) for record in found]
    assert len({record['label'] for record in found}) == len(set(ranks)) == 4
