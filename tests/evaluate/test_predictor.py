"""Predictors: batching and padding change nothing, and what cannot be predicted is answered in one message."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from flax import linen as nn

from bigmodel_jax import config, experiment_file
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import labelled, text, tokenizers
from bigmodel_jax.data.text.chats import chat_templates, instructions
from bigmodel_jax.evaluate import artifacts, predictor
from bigmodel_jax.evaluate.text import decoding
from bigmodel_jax.layers import positions
from bigmodel_jax.models import decoder, model
from bigmodel_jax.parallel import sharding

FILE = pathlib.Path(__file__).parents[2] / 'experiments' / 'digits.py'
RANDOM = np.random.default_rng(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(model.Model):
    """Logits of a row are a linear map of its field; of text, the counts of its tokens."""

    gives: str = 'logits'

    def build(self, name=None):
        return LinearModule(self, name=name)


class LinearModule(nn.Module):
    config: Linear

    @nn.compact
    def __call__(self, batch):
        x_BD = (
            batch['image'].reshape(len(batch['image']), -1)
            if 'image' in batch
            else jax.nn.one_hot(batch['inputs'], 40).sum(axis=1)
        )
        logits_BV = nn.Dense(10, name='dense')(x_BD)
        return {'values': logits_BV[:, 0]} if self.config.gives == 'values' else {self.config.gives: logits_BV}


@pytest.fixture(scope='module')
def digits():
    return experiment_file.load(f'{FILE}:smoke').data


def weights(chosen=Linear(), place=None, features=64):
    params = {
        'dense': {'kernel': RANDOM.normal(size=(features, 10)).astype(np.float32), 'bias': np.zeros(10, np.float32)}
    }
    return predictor.PredictorWeights(
        chosen, params if place is None else jax.device_put(params, place.replicated), {}, place
    )


@pytest.mark.parametrize('count', [1, 3, 9])
@pytest.mark.parametrize('data', [1, 2])
def test_each_row_is_predicted_as_alone_on_any_mesh(digits, count, data):
    place = sharding.MeshShape(data=data).build()
    found_weights = weights(place=place)
    images = RANDOM.random((count, 8, 8, 1)).astype(np.float32)
    predict = predictor.RowPredictor(found_weights, digits, rows=4)
    found = predict([{'image': image} for image in images])
    logits = images.reshape(count, 64) @ np.asarray(found_weights.params['dense']['kernel'])
    for table, row in zip(found, logits.astype(np.float64), strict=True):
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        assert [int(label) for label, _ in table.rows] == np.argsort(-p)[:5].tolist()
        np.testing.assert_allclose(
            [value for _, value in table.rows], np.sort(p)[::-1][:5], atol=2e-6
        )  # Printed digits.


def test_numbers_are_predicted_too(digits):
    (table,) = predictor.predictor(weights(Linear(gives='values')), digits, tokenizer=None)(
        [{'image': np.ones((8, 8, 1))}]
    )
    assert table.columns == ('value',)


@pytest.mark.parametrize(
    ('records', 'message'),
    [
        ([{'prompt': 'five'}], r"Linear does not read text, but image\. .*predictor\(\)\(\[\{'image': array\}\]\)"),
        ([{'picture': 1}], "lacks 'image': the model reads image"),
        ([{'image': np.ones((7, 8, 1))}], r'has the shape \(7, 8, 1\), not \(8, 8, 1\)'),
        ([], 'no records'),
    ],
)
def test_what_does_not_fit_is_said(digits, records, message):
    with pytest.raises(config.InputError, match=message):
        predictor.predictor(weights(), digits, tokenizer=None)(records)


def test_a_model_that_predicts_nothing_known_is_refused(digits):
    with pytest.raises(config.InputError, match=r'Linear gives boxes \(1, 10\): neither text, nor labels'):
        predictor.predictor(weights(Linear(gives='boxes')), digits, tokenizer=None)


def test_sentences_are_encoded_as_in_training_and_labels_have_names(tmp_path):
    table = tmp_path / 'rows.csv'
    table.write_text('sentence,label\ngood film,ham\nbad film,spam\n')
    vocabulary = tokenizers.WordPiece(vocab=40, trained_on=sources.Texts(texts=('good film', 'bad film')))
    source = sources.Csv(path=str(table))
    data = labelled.Labelled(source=source, tokenizer=vocabulary, batch=2, length=8, labels=('ham', 'spam'))
    rows = data.build(0).examples
    encoded = data.encode([['good film', 'bad film']], rows.tokenizer)
    batch = data.build(0).eval_batch(0)
    for name, array in encoded.items():
        np.testing.assert_array_equal(array, batch[name][:2])
    likely = weights(features=40)
    likely.params['dense']['bias'][:2] = 1e3  # The two labels that have names.
    predict = predictor.predictor(likely, data, tokenizer=rows.tokenizer)
    found = predict([{'prompt': 'good film'}, {'prompt': 'bad film'}])
    assert [{label for label, _ in table.rows[:2]} for table in found] == [{'ham', 'spam'}] * 2
    with pytest.raises(config.InputError, match="Some records have a 'second' sentence"):
        predict([{'prompt': 'good'}, {'prompt': 'good', 'second': 'film'}])


def test_text_needs_a_tokenizer_and_a_prompt(digits):
    gpt = decoder.gpt(vocab=260, width=16, layers=1, heads=2, length=24)
    with pytest.raises(config.InputError, match='without a tokenizer'):
        predictor.predictor(predictor.PredictorWeights(gpt, {}), digits, tokenizer=None)
    predict = predictor.predictor(predictor.PredictorWeights(gpt, {}), digits, tokenizer=tokenizers.Bytes().build())
    with pytest.raises(config.InputError, match="needs a 'prompt'; this one has image"):
        predict([{'image': 1}])


def test_without_a_number_of_tokens_as_many_are_generated_as_there_are_positions():
    known = decoder.gpt(vocab=260, width=16, layers=1, heads=2, length=24)
    assert isinstance(known.positions, positions.Learned)
    assert predictor._room(known, 10) == 15
    assert predictor._room(object(), 10) == predictor.TOKENS
    assert artifacts.Text(text='x').prompt == ''


@pytest.mark.slow
def test_a_prompt_to_a_model_of_conversations_is_written_as_its_data_writes_messages():
    """The answer is that to the same text, written by hand."""
    gpt = decoder.gpt(vocab=320, width=8, layers=1, heads=1, length=32)
    tokens = np.zeros((1, 4), np.int32)
    params = nn.unbox(jax.jit(gpt.build().init)(jax.random.key(0), {'inputs': tokens})['params'])
    template = chat_templates.Plain(user='U:', assistant='A:', separator='|')
    bytes_ = tokenizers.Bytes()
    data = instructions.Instructions(
        source=sources.Texts(texts=('',)), tokenizer=bytes_, batch=1, length=32, template=template
    )

    def answer(prompt, **more):
        found = predictor.PredictorWeights(gpt, params)
        how = {'tokenizer': bytes_.build(), 'how': decoding.Greedy(), 'tokens': 4}
        return predictor.predictor(found, data, **how, **more)([{'prompt': prompt}])[0]

    by_template, by_hand = answer('ab'), answer('U:ab|A:', template=False)
    assert (by_template.prompt, by_template.text) == ('ab', by_hand.text)


def test_a_template_that_is_not_there_cannot_be_left_out():
    data = text.Text(source=sources.Texts(texts=('',)), tokenizer=tokenizers.Bytes(), batch=1, length=8)
    with pytest.raises(config.InputError, match='Text has no template'):
        predictor.predictor(weights(), data, tokenizer=None, template=False)
