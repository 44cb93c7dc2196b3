"""Few-shot accuracy: each rule picks what it says, and prompts and batches follow from the seed alone."""

import json

import numpy as np
import pytest

import drawing
from bigmodel_jax import config
from bigmodel_jax.data import batches, sources
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.evaluate import evaluation
from bigmodel_jax.evaluate.text import choices, likelihood, task_records, tasks
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.parallel import sharding

BYTES = tokenizers.ByteTokenizer()
MODEL = decoder.gpt(vocab=257, width=16, layers=1, heads=2, length=64)
TASK = tasks.Task(
    train=task_records.Sums(count=20, below=10),
    test=task_records.Sums(count=6, below=10, seed=1),
    context='$a+$b=',
    choices='choices',
    answer='label',
    completion='$choice',
    answer_context='=',
    separator='\n',
)
SHOTS = choices.Choices(task=TASK, shots=2, every_steps=5, name='sums', batch=4)


class TextExamples(batches.ArrayExamples):
    """Examples with a tokenizer, as those of text have."""

    tokenizer = BYTES


def setting(kind=TextExamples, model=MODEL):
    arrays = {'inputs': np.zeros((4, 8), np.int32)}
    fields = {'inputs': batches.Field((8,), np.dtype(np.int32), ('length',), 257)}
    data = batches.Batches(kind(arrays, fields, fingerprint={}), rows=2, seed=0)
    return evaluation.EvaluationContext(
        model=model,
        module=model.build(),
        objective=language.LanguageModel(),
        data=text.Text(source=sources.TextFile(path='text.txt'), tokenizer=tokenizers.Bytes(), batch=2, length=8),
        open_training=lambda: data,
        tokenizer=data.examples.tokenizer,
        place=sharding.MeshShape(data=1).build(),
        seed=0,
    )


def score(log_p, tokens=1, dropped=0):
    return likelihood.SequenceScore(log_p, tokens, False, dropped)


def test_each_rule_picks_what_it_says():
    """One question for each rule, of which this rule alone is right, and one of equal scores, for the first."""
    request = likelihood.Request(np.array([1]), np.array([2]))
    pair = (request, request)
    # (log p, tokens, log p alone) of the right completion, which is the first, and of the wrong one.
    cases = [
        ((-4.0, 1, -1.0), (-6.0, 2, -9.0)),
        ((-6.0, 3, -2.0), (-4.0, 1, -3.0)),
        ((-6.0, 2, -9.0), (-4.0, 2, -1.0)),
        ((-5.0, 1, -1.0), (-5.0, 1, -1.0)),
    ]
    examples = [choices.Example(pair, pair, 0) for _ in cases]
    scores = [
        each
        for case in cases
        for each in (*(score(log_p, tokens) for log_p, tokens, _ in case), *(score(alone) for *_, alone in case))
    ]
    scores[0] = scores[0]._replace(dropped=3)
    assert choices.metrics(examples, scores) == {
        'accuracy': 2 / 4,
        'accuracy_per_token': 2 / 4,
        'accuracy_unconditional': 2 / 4,
        'examples': 4.0,
        'truncated': 1.0,
    }


def test_prompts_are_made_of_the_training_examples_that_were_drawn():
    train, test = TASK.train.open(), TASK.test.open()
    for number, example in enumerate(choices.encoded(SHOTS, BYTES, seed=5)):
        shown = [train[index] for index in tasks.drawn(5, number, count=2, available=20)]
        solved = [f'{each["a"]}+{each["b"]}={each["a"] + each["b"]}' for each in shown]
        expected = '\n'.join([*solved, f'{test[number]["a"]}+{test[number]["b"]}='])
        assert {BYTES.decode(request.context) for request in example.conditional} == {expected}
        assert {BYTES.decode(request.context) for request in example.unconditional} == {'='}
        assert all(request.context[0] == BYTES.end for request in example.requests)
        assert [BYTES.decode(request.completion) for request in example.conditional] == test[number]['choices']


def test_a_question_is_never_shown_its_own_answer(tmp_path):
    path = tmp_path / 'sums.jsonl'
    path.write_text('\n'.join(map(json.dumps, task_records.Sums(count=3, below=100, seed=2).open())))
    same = sources.JsonLines(pattern=str(path))
    encoded = choices.encoded(config.vary(SHOTS, {'task.train': same, 'task.test': same}), BYTES, seed=0)
    for example in encoded:
        *shown, asked = BYTES.decode(example.conditional[0].context).split('\n')
        assert len(shown) == 2
        assert not any(line.startswith(asked) for line in shown)


def test_the_metrics_are_those_of_the_scores():
    params = drawing.variables(MODEL.build(), {'inputs': np.zeros((1, 64), np.int32)})['params']
    found = SHOTS.build(setting()).run(params, {}).values
    examples = choices.encoded(SHOTS, BYTES, seed=0)
    scores = likelihood.Scorer(MODEL, params, rows=4)([each for example in examples for each in example.requests])
    assert found == choices.metrics(examples, scores)
    assert found['examples'] == 6


@pytest.mark.parametrize(
    ('changes', 'place', 'message'),
    [
        ({}, {'kind': batches.ArrayExamples}, 'the training data has no tokenizer'),
        ({}, {'model': config.vary(MODEL, {'vocab': 60})}, "'sums', example 0: The token ids of request 0 .* 0 to 59"),
        ({'shots': 21}, {}, 'shots=21 examples are to be shown, but there are 20'),
        ({'task.context': '$c'}, {}, "sums: test example 0 has no field 'c'"),
        ({'task.completion': '$choice' * 70}, {}, 'tokens, but the model reads 64 at most'),
    ],
)
def test_what_cannot_be_asked_is_refused_before_it_runs(changes, place, message):
    with pytest.raises(config.InputError, match=message):
        config.vary(SHOTS, changes).build(setting(**place))


def test_scores_that_are_no_numbers_are_no_accuracy():
    """np.argmax takes nan for the largest, so that a broken model would be right wherever the first choice is."""
    request = likelihood.Request(np.array([1]), np.array([2]))
    example = choices.Example((request, request), (request, request), 0)
    found = choices.metrics([example], [score(np.nan), score(-1.0), score(-1.0), score(-1.0)])
    assert [np.isnan(found[rule]) for rule in choices.RULES] == [True, True, True]
