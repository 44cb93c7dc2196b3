"""Distillation: the losses against formulas in float64, and a student whose teacher is nowhere in its state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from bigmodel_jax import config
from bigmodel_jax.checkpoints import checkpoints
from bigmodel_jax.objectives import distillation, language
from bigmodel_jax.runs import directory
from bigmodel_jax.train import loop
from bigmodel_jax.train.weights import teacher


def logits(seed, shape=(5, 7)):
    return jax.random.normal(jax.random.key(seed), shape) * 3


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize('temperature', [1.0, 2.0, 5.0])
def test_the_soft_loss_and_its_gradient_are_the_formula(temperature):
    student, taught = logits(0), logits(1)
    p, q = (softmax(np.asarray(each, np.float64) / temperature) for each in (taught, student))
    expected = temperature**2 * (p * (np.log(p) - np.log(q))).sum(axis=-1)
    found = distillation.soft_loss(student, taught, temperature=temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    grad = jax.grad(lambda x: distillation.soft_loss(x, taught, temperature=temperature).sum())(student)
    # Hinton et al. (2015), equation 2: (q - p) / T, times T^2.
    np.testing.assert_allclose(grad, temperature * (q - p), atol=1e-5)


def test_for_a_high_temperature_it_is_the_squared_difference_of_centred_logits():
    student, taught = (np.asarray(logits(seed), np.float64) for seed in (0, 1))
    grad = jax.grad(lambda x: distillation.soft_loss(x, jnp.asarray(taught), temperature=1e3).sum())(
        jnp.asarray(student)
    )
    centred = [each - each.mean(axis=-1, keepdims=True) for each in (student, taught)]
    # Hinton et al. (2015), equation 4, times T^2; the next term of the series is smaller by logits / T.
    np.testing.assert_allclose(grad, (centred[0] - centred[1]) / student.shape[-1], atol=1e-2)


def test_the_hidden_loss_is_that_of_the_best_projection():
    student, taught = logits(2, (40, 4)), logits(3, (40, 6))
    weights = jnp.where(jnp.arange(40) < 30, 1.0, 0.0)
    x, y = (np.asarray(each, np.float64)[:30] for each in (student, taught))
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    expected = np.square(x @ best - y).mean(axis=-1) / np.square(y).mean()
    found = distillation.hidden_loss(student, taught, weights)[:30]
    np.testing.assert_allclose(found, expected, rtol=1e-2)  # The ridge.

    def total(x):
        return (distillation.hidden_loss(x, taught, weights) * weights).sum()

    grad, way = jax.grad(total)(student), logits(4, student.shape)
    moved = [float(total(student + step * way)) for step in (1e-2, -1e-2)]
    # The derivative of the loss at its best projection, though none passes through the projection.
    assert float((grad * way).sum()) == pytest.approx((moved[0] - moved[1]) / 2e-2, rel=2e-2)


@pytest.mark.slow
def test_a_student_learns_from_a_teacher_that_its_state_does_not_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Runs record the repository around them.
    loop.train(config.vary(tiny.experiment(), {'steps': 4}), tmp_path / 'teacher')
    taught = distillation.Distillation(teacher=teacher.TrainedTeacher(run=str(tmp_path / 'teacher')), hidden=0.1)
    student = config.vary(tiny.experiment(), {'steps': 4, 'objective': taught, 'model.width': 8})
    loop.train(student, tmp_path / 'student', stop_after=3)
    run = directory.open_run(tmp_path / 'student')
    assert {'loss', 'soft_loss', 'hidden_loss'} <= set(run.metric_names)
    alone = config.vary(student, {'objective': language.LanguageModel()})
    assert run.environment[-1]['parameters'] == sum(
        each.size for each in jax.tree.leaves(directory.open_run(tmp_path / 'student').params())
    )
    assert alone.model == run.experiment.model
    assert not [name for name in checkpoints.flatten(run.params()) if 'teacher' in name]
    assert run.environment[-1]['teacher']['step'] == 4
    # Another teacher at the same place is another run.
    loop.train(config.vary(tiny.experiment(), {'steps': 4, 'seed': 1}), tmp_path / 'other')
    (tmp_path / 'teacher').rename(tmp_path / 'kept')
    (tmp_path / 'other').rename(tmp_path / 'teacher')
    with pytest.raises(config.InputError, match='teacher'):
        loop.train(student, tmp_path / 'student')
    with pytest.raises(config.InputError, match='holds no run'):
        config.vary(taught, {'teacher.run': str(tmp_path / 'nowhere')}).teacher.identity()
