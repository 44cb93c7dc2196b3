"""Entities against a search of all spans; sentences of tagged words as rows; and training on them, until F1 is high."""

import itertools
import json

import numpy as np
import pytest

from bigmodel_jax import config, verbs
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.data.text.tags import tagged
from bigmodel_jax.evaluate.text.tags import entities
from bigmodel_jax.experiment import Checkpoints, Experiment, Watch
from bigmodel_jax.models import bert
from bigmodel_jax.objectives import token_classification
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding

TAGS = ('O', 'B-PER', 'I-PER', 'B-LOC', 'I-LOC')
NAMES, PLACES, REST = (
    ('ann', 'bob', 'carl', 'dora'),
    ('rome', 'oslo', 'lima', 'bonn'),
    ('saw', 'in', 'the', 'old', 'met'),
)
LENGTH = 16
STILL = {'dropout': 0.0, 'block.mixer.dropout': 0.0, 'block.residual.dropout': 0.0}


def by_search(tags):
    """Every span that begins where an entity begins, goes on with its type, and ends where that ends."""

    def begins(i):
        kind = tags[i][2:]
        before = tags[i - 1] if i else 'O'
        return tags[i][0] == 'B' or (tags[i][0] == 'I' and before[2:] != kind)

    return {
        (first, last, tags[first][2:])
        for first, last in itertools.combinations(range(len(tags) + 1), 2)
        if tags[first] != 'O'
        and begins(first)
        and all(tags[i] == f'I-{tags[first][2:]}' for i in range(first + 1, last))
        and (last == len(tags) or tags[last] != f'I-{tags[first][2:]}')
    }


def test_entities_are_those_of_a_search_through_all_spans():
    for tags in itertools.product(TAGS, repeat=4):
        assert entities.entities(tags) == by_search(tags), tags


def test_scores_are_those_of_the_paper():
    truth = [['B-PER', 'I-PER', 'O', 'B-LOC'], ['O', 'B-LOC']]
    predicted = [['B-PER', 'O', 'O', 'B-LOC'], ['O', 'O']]
    found = entities.scores(predicted, truth)
    # One of two that are said is right, and one of three that are there: 2 * 1/2 * 1/3 / (1/2 + 1/3) = 2/5.
    assert found == {'precision': 50.0, 'recall': pytest.approx(100 / 3), 'f1': pytest.approx(40.0)}
    assert entities.scores([['O']], [['O']]) == {'precision': 0.0, 'recall': 0.0, 'f1': 0.0}


def sentences(count, seed):
    generator, made = np.random.default_rng(seed), []
    for _ in range(count):
        words, tags = [], []
        for kind in generator.integers(0, 3, 3):
            some, name = ((REST, 'O'), (NAMES, 'PER'), (PLACES, 'LOC'))[kind]
            size = int(generator.integers(1, 3))
            words += [str(word) for word in generator.choice(some, size)] + ['saw']
            tags += ['O'] * size if kind == 0 else [f'B-{name}', *[f'I-{name}'] * (size - 1)]
            tags += ['O']
        made.append({'words': words, 'tags': tags})
    return made


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tagged')
    for name, some in (('train', sentences(64, 0)), ('dev', sentences(16, 1))):
        (folder / f'{name}.jsonl').write_text(''.join(json.dumps(each) + '\n' for each in some))
    vocabulary = tokenizers.WordPiece(vocab=258, trained_on=sources.Texts(texts=(' '.join((*NAMES, *PLACES, *REST)),)))
    made = tagged.Tagged(
        source=sources.JsonLines(pattern=str(folder / 'train.jsonl')), tokenizer=vocabulary, batch=16, length=LENGTH,
        tags=TAGS,
    )  # fmt: skip
    return made, config.vary(made, {'source': sources.JsonLines(pattern=str(folder / 'dev.jsonl')), 'batch': 12})


def test_the_first_token_of_a_word_has_its_tag(data):
    train, _ = data
    built, (first, *_) = train.build(0), sentences(64, 0)
    batch, tokenizer = built.eval_batch(0), built.examples.tokenizer
    has_tag = batch['loss_weights'][0] > 0
    assert [TAGS[i] for i in batch['labels'][0][has_tag]] == first['tags']
    firsts = [int(tokenizer.encode(word)[0]) for word in first['words']]
    assert batch['inputs'][0][has_tag].tolist() == firsts
    assert not (batch['loss_weights'][0] * (batch['segments'][0] == 0)).any()


@pytest.mark.parametrize(
    ('record', 'changes', 'message'),
    [
        ({'words': ['ann'], 'tags': []}, {}, 'has 1 words and .* 0 tags'),
        ({'words': ['ann'], 'tags': ['B-ORG']}, {}, "the tag 'B-ORG' is none of"),
        ({'words': ['ann'] * 20, 'tags': ['O'] * 20}, {}, 'Use a larger length'),
        ({'words': ['ann', ' '], 'tags': ['O', 'O']}, {}, "makes nothing of the word ' '"),
        ({'words': ['ann'], 'tags': ['O']}, {'tags': ('O', 'O')}, 'name every tag once'),
    ],
)
def test_sentences_that_cannot_be_rows_are_refused(data, record, changes, message, tmp_path):
    path = tmp_path / 'one.jsonl'
    path.write_text(json.dumps(record) + '\n')
    with pytest.raises(config.InputError, match=message):
        config.vary(data[0], {'source': sources.JsonLines(pattern=str(path))} | changes).build(0)


@pytest.mark.slow
def test_training_finds_the_entities(data, tmp_path):
    train, dev = data
    encoder = bert.bert(vocab=258, width=32, layers=1, heads=2, length=LENGTH, **STILL)
    model = bert.TokenClassifier(encoder=encoder, classes=len(TAGS), dropout=0.0)
    steps = 300
    experiment = Experiment(
        name='tags', steps=steps, data=train, model=model,
        objective=token_classification.TokenClassification(),
        optimizer=optimizers.AdamW(schedule=schedules.Constant(peak=3e-3)),
        evaluations=(entities.Entities(data=dev, every_steps=steps),), mesh=sharding.MeshShape(data=1),
        checkpoints=Checkpoints(every_steps=steps), watch=Watch(log_every=steps, fingerprints_every=steps),
    )  # fmt: skip
    verbs.train(experiment, tmp_path / 'run')
    trained = verbs.open_run(tmp_path / 'run').restore()
    (found,) = trained.evaluate().values()
    # Every word says its tag but for whether it goes on with the one before it; 'saw' stands between all groups.
    assert found.metrics['f1'].value > 95, found
