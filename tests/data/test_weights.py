"""What counts in a batch, what throughput counts, and what is a sequence: nothing of it follows from rank or name."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import linen as nn

import tiny
from bigmodel_jax import config
from bigmodel_jax.data import batches, mixture, sources
from bigmodel_jax.data.tabular import tabular
from bigmodel_jax.data.text import pairs, span_corruption, text, tokenizers
from bigmodel_jax.data.vision import images
from bigmodel_jax.evaluate import loss
from bigmodel_jax.models import model
from bigmodel_jax.objectives import classification, objective
from bigmodel_jax.parallel import sharding
from bigmodel_jax.runs import directory
from bigmodel_jax.train import loop, state
from runs import quick

FLOATS = np.dtype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plain(batches.Data):
    """The rows of tiny.Counting without weights, as every target counts; `extra` are fields beside them."""

    batch: config.Positive
    extra: tuple[str, ...] = ()

    @property
    def fields(self):
        fields = {name: tiny.Counting(batch=1).fields[name] for name in ('inputs', 'targets')}
        return fields | {name: batches.Field((), FLOATS, ()) for name in self.extra}

    def build(self, seed):
        arrays = tiny.Counting(batch=1).build(0).examples.gather(np.arange(tiny.EXAMPLES), np.zeros(0), 0)
        arrays = {name: arrays[name] for name in ('inputs', 'targets')}
        arrays |= {name: np.arange(tiny.EXAMPLES, dtype=np.float32) for name in self.extra}
        return batches.Batches(batches.ArrayExamples(arrays, self.fields, fingerprint={}), rows=self.batch, seed=seed)


def test_data_without_weights_trains_and_an_evaluation_counts_each_example_once(tmp_path):
    evaluation = loss.Loss(data=Plain(batch=8), every_steps=2)
    changes = {'data': Plain(batch=8), 'steps': 2, 'evaluations': (evaluation,)}
    assert loop.train(config.vary(quick.experiment(), changes), tmp_path).step == 2
    steps, tokens = directory.open_run(tmp_path).metrics('validation/tokens')
    # The mean over 13 batches, of which the last is half padding.
    assert (list(steps), list(tokens)) == ([2], [pytest.approx(tiny.EXAMPLES * tiny.LENGTH / 13, rel=1e-6)])


def test_without_loss_weights_each_position_counts_once_bit_for_bit():
    experiment = tiny.without_dropout()
    module, batch = experiment.model.build(), Plain(batch=8).build(0).eval_batch(12)
    ones = batch | {'loss_weights': np.ones((8, tiny.LENGTH), np.float32)}
    params = nn.meta.unbox(jax.jit(module.init)(jax.random.key(0), batch))['params']

    @jax.jit
    def gradient(params, batch):
        def total(params):
            outcome = experiment.objective(objective.Apply(module, params, {}), batch, train=False, rngs={})
            return outcome.loss.total, outcome

        return jax.grad(total, has_aux=True)(params)

    found = gradient(params, batch)
    assert float(found[1].loss.count) == 4 * tiny.LENGTH
    jax.tree.map(np.testing.assert_array_equal, found, gradient(params, ones))


def test_what_has_weight_0_counts_neither_as_an_example_nor_as_a_position():
    batch = {
        'targets': np.zeros((3, 2), np.int32),
        'example_weights': np.array([1, 0, 0.5], np.float32),
        'loss_weights': np.array([[1, 0], [np.nan, 1], [2, 1]], np.float32),
    }
    np.testing.assert_array_equal(objective.position_weights(batch), [[1, 0], [0, 0], [1, 0.5]])
    del batch['loss_weights']
    np.testing.assert_array_equal(objective.position_weights(batch), [[1, 1], [0, 0], [0.5, 0.5]])


def test_examples_may_have_weights_of_their_own():
    built = Plain(batch=8, extra=('example_weights',)).open(3)
    np.testing.assert_array_equal(built.training(0)['example_weights'], built.ids(0))
    np.testing.assert_array_equal(built.eval_batch(12)['example_weights'], [96, 97, 98, 99, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ('extra', 'words'),
    [
        ('weights', "(?s)'weights' is not a field that anything reads.*'loss_weights'.*'example_weights'"),
        ('loss_weights', "'loss_weights' should have a number for each position that is predicted"),
    ],
)
def test_weights_that_could_mean_two_things_are_refused(extra, words):
    data, place = Plain(batch=8, extra=(extra,)), sharding.MeshShape(data=1).build()
    for refused in (data.open, lambda _: state.specify(config.vary(quick.experiment(), {'data': data}), place)):
        with pytest.raises(config.InputError, match=words):
            refused(0)


def test_units_are_those_of_the_data():
    texts, sizes = sources.Texts(texts=('a', 'b')), {'tokenizer': tokenizers.Bytes(), 'batch': 4, 'length': 64}
    whole = text.Text(source=texts, **sizes)
    corrupted = span_corruption.SpanCorruption(source=texts, **sizes)
    table = tabular.Features(source=sources.Csv(path='x.csv'), columns=('a', 'b'), label='c', batch=4)
    pictures = images.Images(source=sources.Npz(path='x.npz'), shape=(28, 28, 1), classes=10, batch=4)
    assert whole.units == pairs.Pairs(source=texts, target=texts, **sizes).units == ('tokens', 64)
    assert corrupted.units == ('tokens', corrupted.fields['targets'].shape[0])
    assert (pictures.units, pictures.units_per_step) == (('images', 1), 4)
    assert (table.units, Plain(batch=8).units) == (('examples', 1), ('examples', 1))
    parts = [mixture.Part(data=data, weight=1.0) for data in (whole, dataclasses.replace(whole, length=32))]
    assert mixture.Mixture(batch=8, parts=(parts[0],) * 2).units == ('tokens', 64)
    with pytest.raises(config.InputError, match=r'example of parts.1 \(Text\) has 32 tokens, one of parts.0 .* 64 tok'):
        _ = mixture.Mixture(batch=8, parts=tuple(parts)).units


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vectors(batches.Data):
    """Vectors of 5 features, or images of 5 x 5; never read."""

    batch: config.Positive = 8
    axes: tuple[str, ...] = ('features',)

    @property
    def fields(self):
        values = batches.Field((5,) * len(self.axes), FLOATS, self.axes)
        return {'values': values, 'labels': batches.Field((), np.dtype(np.int32), (), 2)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(model.Model):
    def build(self, name=None):
        return LinearModule(name=name)


class LinearModule(nn.Module):
    @nn.compact
    def __call__(self, batch):
        return {'logits': nn.Dense(2)(batch['values'].reshape(len(batch['labels']), -1))}


def test_only_a_sequence_is_split_as_one():
    place = sharding.MeshShape(data=4, sequence=2).build()
    changes = {'model': Linear(), 'objective': classification.Classification(), 'evaluations': ()}
    base = config.vary(tiny.experiment(), {**changes, 'data': Vectors()})
    for axes in (('features',), ('height', 'width')):
        state.specify(config.vary(base, {'data.axes': axes}), place)
    with pytest.raises(config.InputError, match="values of the data: axis 'length' of 5 does not divide over sequence"):
        state.specify(config.vary(base, {'data.axes': ('length',)}), place)
