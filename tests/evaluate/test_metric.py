"""Which way a metric is better: the best is a number, and in the direction that the evaluation declares."""

import math

import pytest

import tiny
from bigmodel_jax import config
from bigmodel_jax.evaluate import evaluation, metric
from bigmodel_jax.objectives import language
from bigmodel_jax.train import preparation
from bigmodel_jax.train.evaluating import best

NAN = math.nan


@pytest.mark.parametrize(
    ('direction', 'values', 'wanted'),
    [
        ('lower', [3.0, 1.0, 2.0], 1),
        ('higher', [3.0, 1.0, 2.0], 0),
        ('lower', [NAN, 5.0, NAN], 1),
        ('higher', [NAN, -5.0, NAN], 1),
        ('higher', [math.inf, 0.5], 1),  # An infinite score is a fault, not a record.
        ('lower', [-math.inf, 0.5], 1),
        ('lower', [1.0, 1.0], 1),  # Of equal values the last.
        ('higher', [1.0, 1.0], 1),
        ('lower', [NAN, math.inf], None),
        ('lower', [], None),
    ],
)
def test_the_best_is_a_number_in_its_direction(direction, values, wanted):
    assert metric.best(dict(enumerate(values)), direction) == wanted


def test_better_is_strict_and_never_nan():
    assert metric.is_better(1.0, 2.0, 'lower')
    assert metric.is_better(2.0, 1.0, 'higher')
    assert not metric.is_better(1.0, 1.0, 'lower')
    assert not metric.is_better(1.0, 1.0, 'higher')
    assert not metric.is_better(NAN, 1.0, 'lower')
    assert not metric.is_better(NAN, NAN, 'higher')
    assert metric.is_better(1e9, NAN, 'lower')


class Own(evaluation.Evaluation):
    """An evaluation that declares what it is given, or nothing."""

    name = 'own'

    def __init__(self, declared):
        self._declared = declared

    def metrics(self, of, measured):
        return self._declared


def direction(name, declared, field='checkpoints.keep_best'):
    of = language.LanguageModel()
    return evaluation.direction(name, [Own(declared)], of=of, measured=lambda data: {}, field=field)


@pytest.mark.parametrize(
    ('name', 'declared', 'message'),
    [
        ('own/cost', {'cost': metric.Definition()}, "whether a high or a low 'cost' is better. Declare it"),
        ('own/cost', None, "whether a high or a low 'cost' is better. Declare it"),
        (
            'own/cots',
            {'cost': metric.Definition('lower')},
            "has no metric 'cots'. Did you mean 'cost'?",
        ),
        ('own/x', {}, 'It measures nothing that is a number'),
        ('own', {'cost': metric.Definition('lower')}, 'is not of the form evaluation/metric'),
        ('onw/cost', {'cost': metric.Definition('lower')}, "Did you mean 'own'?"),
    ],
)
def test_a_metric_that_cannot_be_compared_is_refused(name, declared, message):
    with pytest.raises(config.InputError) as error:
        direction(name, declared)
    assert str(error.value).startswith(f'checkpoints.keep_best={name!r}')
    assert message in str(error.value)


def test_a_direction_is_declared_or_known_by_name():
    assert direction('own/cost', {'cost': metric.Definition('lower')}) == 'lower'
    assert direction('own/accuracy', None) == 'higher'
    assert direction('own/balance_loss', None) == 'lower'


def test_a_run_knows_the_direction_of_its_best_checkpoint():
    kept = {'checkpoints.every_steps': 10, 'checkpoints.keep_best': 'validation/accuracy'}
    run = preparation.build(config.vary(tiny.experiment(), kept))
    assert run.directions == ('higher', 'lower')  # It does not stop early.


def test_an_evaluation_that_gave_another_metric_is_said():
    def found(*names):
        return evaluation.EvaluationResult({name: metric.Metric(1.0) for name in names})

    said = best.missing('own/cost', 'own', found('costs'))
    assert said is not None
    assert "no metric 'cost'" in said
    assert "'costs'" in said
    assert best.missing('own/cost', 'own', found('cost')) is None
    assert best.missing('own/cost', 'other', found()) is None
    assert best.missing(None, 'own', found()) is None
