"""The evaluation of the objective: equal to it over all examples, whatever the batches and the mesh."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import drawing
from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.evaluate import evaluation, loss
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language, objective
from bigmodel_jax.parallel import sharding

MODEL = decoder.gpt(vocab=19, width=16, layers=1, heads=2, length=6)
DROPPING = config.vary(MODEL, {'embedding.dropout': 0.5})
COUNT = 21


@functools.cache
def examples():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 19, (COUNT, 7)).astype(np.int32)
    return {
        'inputs': tokens[:, :-1],
        'targets': tokens[:, 1:],
        'loss_weights': (rng.random((COUNT, 6)) < 0.8).astype(np.float32),
        'bytes': rng.integers(1, 20, COUNT).astype(np.float32),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens(batches.Data):
    """The examples; without weights if `silent`."""

    batch: config.Positive
    upper_bound: int = 19
    silent: bool = False

    @property
    def fields(self):
        integers, floats = (np.dtype(name) for name in ('int32', 'float32'))
        tokens = batches.Field((6,), integers, ('length',), self.upper_bound)
        floats = {'loss_weights': batches.Field((6,), floats, ('length',)), 'bytes': batches.Field((), floats, ())}
        return {'inputs': tokens, 'targets': tokens, **floats}

    def build(self, seed):
        arrays = examples() | ({'loss_weights': np.zeros((COUNT, 6), np.float32)} if self.silent else {})
        return batches.Batches(batches.ArrayExamples(arrays, self.fields, fingerprint={}), rows=self.batch, seed=seed)


@functools.cache
def params():
    return drawing.variables(MODEL.build(), {'inputs': examples()['inputs']})['params']


def setting(place=None):
    return evaluation.EvaluationContext(
        model=DROPPING,
        module=DROPPING.build(),
        objective=language.LanguageModel(label_smoothing=0.1),
        data=Tokens(batch=4),
        open_training=lambda: Tokens(batch=4).build(0),
        tokenizer=None,
        place=place or sharding.MeshShape(data=1).build(),
        seed=0,
    )


@functools.cache
def expected(count=COUNT):
    data = {name: value[:count] for name, value in examples().items()} | {'example_weights': np.ones(count, np.float32)}
    apply = objective.Apply(MODEL.build(), params(), {})
    metrics = jax.jit(
        lambda data: language.LanguageModel(label_smoothing=0.1)(apply, data, train=False, rngs={}).metrics
    )(data)
    means = {name: float(mean.total / mean.count) for name, mean in metrics.items()}
    return means | {'perplexity': np.exp(means['nll'])}


def close(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(type(value) is float for value in found.values())
    np.testing.assert_allclose(list(found.values()), [wanted[name] for name in found], rtol=1e-5)


@pytest.mark.parametrize('rows', [4, 21])
def test_the_last_batch_may_be_short(rows):
    evaluator = loss.Loss(data=Tokens(batch=rows), every_steps=1).build(setting())
    close(evaluator.run(params(), {}).values, expected())


def test_only_the_first_batches():
    evaluator = loss.Loss(data=Tokens(batch=4), every_steps=1, max_batches=3).build(setting())
    close(evaluator.run(params(), {}).values, expected(12))


def test_the_mesh_changes_nothing():
    place = sharding.MeshShape(data=2, fsdp=2, tensor=2).build()
    evaluator = loss.Loss(data=Tokens(batch=8), every_steps=1).build(setting(place))
    close(evaluator.run(jax.device_put(params(), place.replicated), {}).values, expected())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traced(language.LanguageModel):
    """Counts how often it is traced."""

    def __call__(self, apply, batch, *, train, rngs):
        TRACES.append(train)
        return super().__call__(apply, batch, train=train, rngs=rngs)


TRACES: list[object] = []


def test_it_compiles_once_and_is_not_in_training():
    evaluator = loss.Loss(data=Tokens(batch=4), every_steps=1).build(dataclasses.replace(setting(), objective=Traced()))
    evaluator.run(params(), {})
    traces = len(TRACES)
    evaluator.run(params(), {})
    assert len(TRACES) == traces <= 2  # Once for the shapes of the sums, once for the step.
    assert set(TRACES) == {False}


def test_what_does_not_fit_is_refused_before_it_runs():
    with pytest.raises(config.InputError, match=r'model\.vocab=19 is too small'):
        loss.Loss(data=Tokens(batch=4, upper_bound=20), every_steps=1).build(setting())
    place = sharding.MeshShape(data=8).build()
    with pytest.raises(config.InputError, match='batch=4 does not divide over the 8'):
        loss.Loss(data=Tokens(batch=4), every_steps=1).build(setting(place))


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithRare(language.LanguageModel):
    """And the share of a token that the data never has."""

    def __call__(self, apply, batch, *, train, rngs):
        outcome = super().__call__(apply, batch, train=train, rngs=rngs)
        here = (batch['targets'] == 99) * batch['loss_weights']
        return outcome._replace(metrics=outcome.metrics | {'rare': objective.Mean.weighted(here, here)})


def test_a_metric_without_a_weight_is_nan_and_the_others_are_as_they_are():
    rare = dataclasses.replace(setting(), objective=WithRare(label_smoothing=0.1))
    found = loss.Loss(data=Tokens(batch=4), every_steps=1).build(rare).run(params(), {}).values
    assert np.isnan(found.pop('rare'))
    close(found, expected())
    silent = loss.Loss(data=Tokens(batch=21, silent=True), every_steps=1).build(setting()).run(params(), {}).values
    assert np.isnan(silent['loss'])
    assert np.isnan(silent['perplexity'])


def test_it_declares_what_it_gives():
    how = loss.Loss(data=Tokens(batch=4), every_steps=1)
    given, asked = setting(), []
    of_objective = expected().keys() - {'perplexity'}
    declared = how.metrics(given.objective, lambda data: asked.append(data) or of_objective)
    assert asked == [how.data]
    assert declared.keys() == expected().keys()
    assert {name for name, each in declared.items() if each.direction == 'higher'} == {'accuracy'}
    assert {name: each.unit for name, each in declared.items()} == {
        'loss': '', 'nll': 'nats', 'accuracy': '', 'perplexity': '', 'bits_per_byte': 'bits',
    }  # fmt: skip
    found = how.build(given).run(params(), {}).metrics
    assert {name: (each.direction, each.unit) for name, each in found.items()} == {
        name: (each.direction, each.unit) for name, each in declared.items()
    }


def test_a_hopeless_model_has_infinite_perplexity():
    totals = {'nll': objective.Mean(np.float32(8_000), np.float32(10))}
    assert loss.means(totals) == {'nll': 800.0, 'perplexity': np.inf}
