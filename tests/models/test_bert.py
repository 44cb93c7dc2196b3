"""BERT: the published sizes, what padding and the second sentence may change, and what fine-tuning takes over."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.models import bert

SMALL = bert.bert(vocab=50, width=16, layers=2, heads=2, length=12)
HEADS = ('masked', 'next_sentence')
B, T, REAL = 2, 10, 7
APPLY = jax.jit(SMALL.build().apply)


@functools.cache
def shapes(model):
    batch = {'inputs': jax.ShapeDtypeStruct((1, 4), jnp.int32)}
    return nn.meta.unbox(jax.eval_shape(model.build().init, jax.random.key(0), batch))['params']


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ('model', 'encoder', 'whole'),
    [(bert.BERT_BASE, 109_482_240, 110_106_428), (bert.BERT_LARGE, 335_141_888, 336_226_108)],
)
def test_published_sizes(model, encoder, whole):
    params = shapes(model)
    assert count(params) == whole
    assert count({name: part for name, part in params.items() if name not in HEADS}) == encoder


@pytest.fixture(scope='module')
def params():
    batch = {'inputs': jnp.zeros((1, T), jnp.int32)}
    return nn.meta.unbox(jax.jit(SMALL.build().init)(jax.random.key(0), batch))['params']


def batch():
    random = np.random.default_rng(0)
    inputs = random.integers(0, 50, (B, T)).astype(np.int32)
    segments = np.broadcast_to(np.arange(T) < REAL, (B, T)).astype(np.int32)
    types = np.broadcast_to(np.arange(T) >= 4, (B, T)).astype(np.int32)
    return {'inputs': inputs, 'segments': segments, 'types': types}


def outputs(params, **changes):
    return APPLY({'params': params}, batch() | changes)


def test_padding_changes_nothing(params):
    changed = batch()['inputs'].copy()
    changed[:, REAL:] = 3
    one, other = outputs(params), outputs(params, inputs=changed)
    np.testing.assert_array_equal(one['mlm_logits'][:, :REAL], other['mlm_logits'][:, :REAL])
    np.testing.assert_array_equal(one['nsp_logits'], other['nsp_logits'])


def test_every_token_sees_every_other(params):
    changed = batch()['inputs'].copy()
    changed[:, REAL - 1] += 1
    apart = np.abs(outputs(params)['mlm_logits'] - outputs(params, inputs=changed % 50)['mlm_logits']).max(axis=-1)
    assert (apart[:, :REAL] > 0).all()


def test_the_second_sentence_has_another_embedding(params):
    one, other = outputs(params), outputs(params, types=np.zeros((B, T), np.int32))
    assert np.abs(one['mlm_logits'] - other['mlm_logits']).max() > 1e-3


def test_only_the_masked_positions_are_predicted(params):
    places = np.array([[1, 6, 0], [5, 2, 2]], np.int32)
    everywhere, there = outputs(params)['mlm_logits'], outputs(params, masked_positions=places)['mlm_logits']
    expected = np.take_along_axis(np.asarray(everywhere), places[..., None], axis=1)
    # Matrices of other shapes are multiplied in another order.
    np.testing.assert_allclose(there, expected, atol=1e-5)


@pytest.mark.parametrize('model', [bert.Classifier(encoder=SMALL, classes=3), bert.QuestionAnswering(encoder=SMALL)])
def test_fine_tuning_has_the_encoder_of_pretraining(model):
    before, after = shapes(SMALL), shapes(model)
    common = {name: part for name, part in after.items() if name in before}
    assert common == {name: part for name, part in before.items() if name not in HEADS}
    assert len(after) == len(common) + 1


def test_one_class_is_a_number():
    model = bert.Classifier(encoder=SMALL, classes=1).build()
    outputs, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), batch())
    assert outputs['values'].shape == (B,)


@pytest.mark.parametrize(
    ('changes', 'fields', 'words'),
    [
        ({'length': T - 1}, {}, 'model.length=9 is shorter than the data'),
        ({'vocab': 40}, {}, 'model.vocab=40 is too small'),
        ({'types': 1}, {}, 'model.types=1'),
        ({'block.mixer.heads': 3}, {}, 'does not divide'),
        ({}, {'labels': batches.Field((), np.dtype(np.int32), (), 2)}, 'model.classes=3, but the data has 2 labels'),
    ],
)
def test_a_model_that_does_not_fit_is_refused(changes, fields, words):
    known = {name: batches.Field((T,), np.dtype(np.int32), ('length',), 2) for name in ('types', 'segments')}
    known |= {'inputs': batches.Field((T,), np.dtype(np.int32), ('length',), 50)} | fields
    with pytest.raises(config.InputError, match=words):
        bert.Classifier(encoder=config.vary(SMALL, changes), classes=3).check(known)
