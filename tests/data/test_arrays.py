"""Arrays of one's own are what the data declares, or refused in one message before anything is computed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.evaluate import loss
from bigmodel_jax.models import model as models
from bigmodel_jax.objectives import answer_spans, classification, objective, regression
from bigmodel_jax.train import preparation
from tests import tiny

V, T, COUNT = tiny.VOCAB, tiny.LENGTH, 6


def changed(name, value, index=(2, 3)):
    def change(arrays):
        arrays[name][index] = value
        return arrays

    return change


CHANGES = {
    'large id': (changed('inputs', 99), "'inputs' is 99 in example 2 at [3], but must be at least 0 and below 64"),
    'negative id': (changed('targets', -1), "'targets' is -1 in example 2 at [3], but must be at least 0"),
    'ignored': (changed('targets', -100), 'Labels of -100 do not count in Hugging Face; here write any id'),
    'nan': (changed('loss_weights', np.nan), "'loss_weights' is nan in example 2 at [3], which is not a finite number"),
    'inf': (changed('loss_weights', np.inf, 0), "'loss_weights' is inf in example 0 at [0]"),
    'short': (lambda arrays: arrays | {'targets': arrays['targets'][:-2]}, "lengths differ: 'inputs' 6, 'targets' 4"),
    'narrow': (
        lambda arrays: arrays | {'targets': arrays['targets'][:, :-1]},
        'shape [16] of an example, but has [15]',
    ),
    'dtype': (lambda arrays: arrays | {'inputs': arrays['inputs'].astype(np.int64)}, '.astype(np.int32)'),
    'missing': (
        lambda arrays: {name: arrays[name] for name in ('inputs', 'loss_weights')},
        "'targets' is declared, but",
    ),
    'empty': (lambda arrays: {name: array[:0] for name, array in arrays.items()}, 'The arrays hold no example'),
    'none': (lambda arrays: {}, 'There is no array'),
    'blank': (
        changed('loss_weights', 0, slice(3)),
        '3 of the 6 examples, such as example 0, do not count, as all their weights are 0',
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows(batches.Data):
    """Rows of random ids with one fault. The fields declare V; the arrays are checked with it if `is_bounded`."""

    batch: config.Positive = 2
    fault: str = ''
    is_bounded: bool = True

    @property
    def fields(self):
        return tiny.Counting(batch=2).fields

    def build(self, seed):
        ids = np.random.default_rng(0).integers(0, V, (COUNT, T)).astype(np.int32)
        arrays = {'inputs': ids.copy(), 'targets': ids.copy(), 'loss_weights': np.ones((COUNT, T), np.float32)}
        arrays = CHANGES[self.fault][0](arrays) if self.fault else arrays
        bounds = {} if self.is_bounded else {'upper_bound': None}
        fields = {name: dataclasses.replace(field, **bounds) for name, field in self.fields.items()}
        return batches.Batches(batches.ArrayExamples(arrays, fields, fingerprint={}), rows=self.batch, seed=seed)


def build(**data):
    return preparation.build(config.vary(tiny.experiment(), {'data': Rows(**data), 'evaluations': ()}))


@pytest.mark.parametrize('is_bounded', [True, False], ids=['bounded', 'declared'])
@pytest.mark.parametrize('fault', CHANGES)
def test_a_fault_of_the_arrays_is_told_before_the_start(fault, is_bounded):
    with pytest.raises(config.InputError) as caught:
        build(fault=fault, is_bounded=is_bounded)
    assert CHANGES[fault][1] in str(caught.value)


def test_the_data_of_an_evaluation_is_checked_too():
    evaluations = (loss.Loss(data=Rows(fault='large id', is_bounded=False), every_steps=1),)
    with pytest.raises(config.InputError, match="'inputs' is 99 in example 2"):
        preparation.build(config.vary(tiny.experiment(), {'evaluations': evaluations}))


def test_all_faults_are_one_message():
    arrays = {'a': np.array([5, -1]), 'b': np.array([0.0, np.nan])}
    fields = {'a': batches.Field((), np.dtype(np.int64), (), 5), 'b': batches.Field((), np.dtype(np.float64), ())}
    with pytest.raises(config.InputError, match=r"(?s)'a' is 5 in example 0.*'b' is nan in example 1"):
        batches.ArrayExamples(arrays, fields, fingerprint={})


def test_examples_that_do_not_count_may_be_among_others():
    assert len(build(fault='blank', batch=4).data.examples) == COUNT


class Wild(batches.Examples):
    """Examples of which the one with number 4 is wrong, or cannot be read."""

    def __init__(self, wrong):
        self._wrong, self.fingerprint = wrong, {}
        self.fields = {'x': batches.Field((2,), np.dtype(np.int32), ('length',), 9)}

    def __len__(self):
        return 5

    def gather(self, indices, epochs, seed):
        rows = [self._wrong() if index == 4 else np.zeros(2, np.int32) for index in indices]
        return {'x': np.stack(rows)}


@pytest.mark.parametrize('read', ['training', 'eval_batch'])
def test_an_example_that_is_read_wrong_is_named(read):
    wild = batches.Batches(Wild(lambda: np.array([3, 9], np.int32)), rows=5, seed=0)
    with pytest.raises(config.InputError, match=r"'x' is 9 in example 4 at \[1\], but must be at least 0 and below 9"):
        getattr(wild, read)(0)
    broken = batches.Batches(Wild(lambda: np.array([])[1]), rows=5, seed=0)
    with pytest.raises(IndexError) as caught:
        getattr(broken, read)(0)
    assert any('while reading the examples' in note and '4' in note for note in caught.value.__notes__)


def test_ids_that_a_model_looks_up_need_a_bound():
    fields = tiny.Counting(batch=2).fields
    unbounded = dataclasses.replace(fields['inputs'], upper_bound=None)
    with pytest.raises(config.InputError, match="gives no upper bound for the ids of 'inputs'"):
        models.check_opened(tiny.experiment().model, {**fields, 'inputs': unbounded})
    models.check_opened(tiny.experiment().model, {**fields, 'note': unbounded})


ODD = {
    'classification': (
        classification.Classification(),
        {'labels': np.array([1, -100, 2], np.int32)},
        {'logits': (3, 4)},
    ),
    'regression': (regression.Regression(), {'values': np.array([1, np.nan, 2], np.float32)}, {'values': (3,)}),
    'answer_spans': (
        answer_spans.AnswerSpans(),
        {'starts': np.array([1, -100, 2], np.int32), 'ends': np.array([3, 99, 2], np.int32)},
        {'start_logits': (3, 4), 'end_logits': (3, 4)},
    ),
}


@pytest.mark.parametrize('name', ODD)
def test_what_has_weight_0_counts_neither_in_the_loss_nor_in_its_gradient(name):
    kind, labels, shapes = ODD[name]
    outputs = {key: jnp.asarray(np.random.default_rng(0).normal(size=shape)) for key, shape in shapes.items()}

    def total(outputs, batch):
        found = kind(lambda batch, **how: (outputs, objective.Auxiliary({}, {})), batch, train=False, rngs={})
        return found.loss.total, found.loss.count

    weights = {'example_weights': jnp.array([1.0, 0.0, 0.5])}
    (odd, count), odd_grads = jax.value_and_grad(total, has_aux=True)(outputs, labels | weights)
    plain = {key: np.where(np.arange(3) == 1, 0, value).astype(value.dtype) for key, value in labels.items()}
    (even, _), grads = jax.value_and_grad(total, has_aux=True)(outputs, plain | weights)
    assert (float(odd), float(count)) == (float(even), 1.5)
    assert np.isfinite(odd)
    jax.tree.map(np.testing.assert_array_equal, odd_grads, grads)


def test_a_weighted_mean_leaves_out_what_has_no_weight():
    values, weights = jnp.array([jnp.nan, 2.0, jnp.inf, 4.0]), jnp.array([0.0, 1.0, 0.0, -0.5])
    mean = objective.Mean.weighted(values, weights)
    assert (float(mean.total), float(mean.count)) == (0.0, 0.5)


@pytest.mark.parametrize('axes', [(), ('length',), ('height', 'width', 'channels'), 'hw', 64, (0, 1)])
def test_axes_that_do_not_name_every_dimension_are_refused(axes):
    with pytest.raises(config.InputError, match=r'a tuple with a name for each of the 2 dimensions of shape=\(8, 9\)'):
        batches.Field((8, 9), np.dtype(np.float32), axes)
    assert batches.Field((8, 9), np.dtype(np.float32), ('height', 'width')).sizes('width') == (9,)


def test_an_array_that_no_field_describes_is_refused():
    fields = {'a': batches.Field((), np.dtype(np.int64), (), 5)}
    with pytest.raises(config.InputError, match="'b' is not described by any field of the data"):
        batches.ArrayExamples({'a': np.arange(3), 'b': np.arange(3)}, fields, fingerprint={})
