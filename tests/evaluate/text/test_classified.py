"""Scores of a classifier, against the same on its own outputs; and the way from pretraining to fine-tuning."""

import json

import jax
import numpy as np
import pytest
from flax import linen as nn
from sklearn import metrics

from bigmodel_jax import config
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import labelled, masking, questions, sentence_pairs, tokenizers
from bigmodel_jax.evaluate import evaluation
from bigmodel_jax.evaluate.text import answers, classified
from bigmodel_jax.experiment import Checkpoints, Experiment, Watch
from bigmodel_jax.models import bert
from bigmodel_jax.objectives import answer_spans, classification, masked, regression
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.runs import directory
from bigmodel_jax.train import initial_state, loop

GOOD, BAD = ('good', 'fine', 'great', 'lovely'), ('bad', 'dull', 'poor', 'awful')
SENTENCES = [f'a {one} film and a {other} plot' for words in (GOOD, BAD) for one in words for other in words]
LABELS = [1] * 16 + [0] * 16
VOCAB = tokenizers.WordPiece(vocab=300, trained_on=sources.Texts(texts=tuple(SENTENCES)))
LENGTH = 12
MODEL = bert.bert(vocab=300, width=16, layers=1, heads=2, length=LENGTH)
BATCH = 12  # Does not divide the rows.


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp('table') / 'table.tsv'
    path.write_text(''.join(f'{text}\t{label}\n' for text, label in zip(SENTENCES, LABELS)))
    fields = {'source': sources.Tsv(path=str(path)), 'sentences': (0,), 'label': 1}
    return labelled.Labelled(**fields, tokenizer=VOCAB, batch=BATCH, length=LENGTH)


def experiment(name, **parts):
    return Experiment(
        name=name,
        optimizer=optimizers.AdamW(schedule=schedules.Constant(peak=3e-3)),
        mesh=sharding.MeshShape(data=1),
        checkpoints=Checkpoints(every_steps=parts['steps']),
        watch=Watch(log_every=parts['steps'], fingerprints_every=parts['steps']),
        **parts,
    )


def said(model, params, rows):
    """The label that the model gives each row."""
    built, apply = rows.build(0), jax.jit(model.build().apply)
    logits = [apply({'params': params}, built.eval_batch(index))['logits'] for index in range(built.steps_per_pass)]
    return np.concatenate(logits).argmax(axis=-1)[: len(LABELS)]


def test_every_row_counts_once(rows):
    model = bert.Classifier(encoder=MODEL, classes=2)
    scores = (classified.Accuracy(), classified.Matthews(), classified.F1())
    setting = evaluation.EvaluationContext(
        model=model, module=model.build(), objective=classification.Classification(),
        data=rows, open_training=lambda: rows.build(0), tokenizer=None,
        place=sharding.MeshShape(data=2).build(), seed=0,
    )  # fmt: skip
    params = nn.meta.unbox(jax.jit(setting.module.init)(jax.random.key(0), rows.build(0).eval_batch(0)))['params']
    # Untrained, it gives all rows one label; so that some get the other, by what is in them:
    params['classifier']['weight'] = params['classifier']['weight'] * 100
    found = classified.Classified(data=rows, scores=scores, every_steps=1).build(setting).run(params, {})
    truth = said(model, params, rows)
    wanted = metrics.accuracy_score, metrics.matthews_corrcoef, metrics.f1_score
    assert [found.values[score.name] for score in scores] == pytest.approx([score(LABELS, truth) for score in wanted])
    assert all(each.signature.startswith('sklearn ') for each in found.metrics.values())


@pytest.mark.slow
def test_from_pretraining_to_scores(rows, tmp_path):
    pairs = sentence_pairs.SentencePairs(
        source=sources.Texts(texts=tuple(SENTENCES)), tokenizer=VOCAB, batch=8, length=LENGTH,
        masking=masking.Masking(max_predictions=3),
    )  # fmt: skip
    loop.train(
        experiment('before', steps=2, data=pairs, model=MODEL, objective=masked.MaskedLanguageModel()),
        tmp_path / 'before',
    )
    scores = (classified.Accuracy(), classified.Matthews(), classified.F1())
    steps = 30
    tuned = experiment(
        'after', steps=steps, data=rows, model=bert.Classifier(encoder=MODEL, classes=2),
        objective=classification.Classification(), initialization=initial_state.FromRun(run=str(tmp_path / 'before')),
        evaluations=(classified.Classified(data=rows, scores=scores, every_steps=steps),),
    )  # fmt: skip
    result = loop.train(tuned, tmp_path / 'after')
    run = directory.open_run(tmp_path / 'after')
    assert run.environment[0]['start']['by_chance'] == ['classifier.bias', 'classifier.weight']
    labels = said(tuned.model, run.params(), rows)
    found = {name: result.metrics[f'dev/{name}'] for name in ('accuracy', 'matthews', 'f1')}
    wanted = metrics.accuracy_score, metrics.matthews_corrcoef, metrics.f1_score
    assert found == pytest.approx({name: score(LABELS, labels) for name, score in zip(found, wanted)})
    assert found['accuracy'] > 0.9  # Four words say it all.


@pytest.mark.parametrize(
    ('score', 'wanted'),
    [
        (classified.Accuracy(), 0.75),
        (classified.Matthews(), 1 / np.sqrt(3)),  # (1 x 2 - 0) / sqrt(2 x 2 x 1 x 3).
        (classified.F1(), 0.8),
    ],
)
def test_scores_of_labels(score, wanted):
    assert score(np.array([1, 1, 0, 0]), np.array([1, 1, 1, 0])) == pytest.approx(wanted)


@pytest.mark.parametrize(('score', 'wanted'), [(classified.Pearson(), 0.9819805), (classified.Spearman(), 1.0)])
def test_scores_of_numbers(score, wanted):
    assert score(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 4.0])) == pytest.approx(wanted)
    assert score(np.array([1.0, 2.0, 3.0]), np.ones(3)) == 0


@pytest.fixture(scope='module')
def asked(tmp_path_factory):
    path = tmp_path_factory.mktemp('questions') / 'dev.json'
    context = SENTENCES[1]
    answer = {'text': 'fine plot', 'answer_start': context.index('fine plot')}
    paragraph = {'context': context, 'qas': [{'question': 'a good?', 'answers': [answer]}]}
    path.write_text(json.dumps({'data': [{'paragraphs': [paragraph] * 5}]}))
    return questions.Questions(
        source=sources.SquadFile(path=str(path)), tokenizer=VOCAB, batch=2, length=LENGTH, question=4, stride=2
    )


@pytest.mark.slow
def test_numbers_and_answers_are_learnt_and_scored(rows, asked, tmp_path):
    numbers = config.vary(rows, {'classes': 1})
    of_numbers = experiment(
        'numbers', steps=1, data=numbers, model=bert.Classifier(encoder=MODEL, classes=1),
        objective=regression.Regression(),
        evaluations=(classified.Classified(data=numbers, scores=(classified.Pearson(),), every_steps=1),),
    )  # fmt: skip
    of_answers = experiment(
        'answers', steps=60, data=asked, model=bert.QuestionAnswering(encoder=MODEL),
        objective=answer_spans.AnswerSpans(),
        evaluations=(answers.Answers(data=asked, every_steps=60),),
    )  # fmt: skip
    assert -1 <= loop.train(of_numbers, tmp_path / 'numbers').metrics['dev/pearson'] <= 1
    found = loop.train(of_answers, tmp_path / 'answers').metrics
    assert found['dev/exact_match'] == found['dev/f1'] == 100
