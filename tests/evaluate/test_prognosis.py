"""Survival: the partial likelihood against statsmodels, concordance pair by pair, Kaplan-Meier, and the evaluation."""

import math

import jax
import numpy as np
import pytest
from scipy import special

from bigmodel_jax import config, verbs
from bigmodel_jax.data import sources
from bigmodel_jax.data.tabular import survival
from bigmodel_jax.evaluate import survival as evaluations
from bigmodel_jax.evaluate import survival_scores as scores
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.models import perceptron
from bigmodel_jax.objectives import survival as objectives
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding

RNG = np.random.default_rng(0)
N = 60
X = RNG.normal(size=(N, 2))
TIMES = np.ceil(RNG.exponential(6, size=N) * np.exp(-X[:, 0]))  # Whole numbers: many are equal.
EVENTS = RNG.random(N) < 0.6
RISKS = X @ np.array([0.8, -0.3]) + 0.2 * RNG.normal(size=N)


def test_the_partial_likelihood_and_its_gradient_are_those_of_statsmodels_with_efrons_ties():
    import statsmodels.duration.hazard_regression as reference

    coefficients = np.array([0.7, -0.4])
    model = reference.PHReg(TIMES, X, status=EVENTS.astype(int), ties='efron')

    def total(of):
        return objectives.cox_losses(X @ of, TIMES, EVENTS, np.ones(N)).sum()

    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(total)(coefficients)
    np.testing.assert_allclose(value, -model.loglike(coefficients), rtol=1e-10)
    np.testing.assert_allclose(gradient, -model.score(coefficients), rtol=1e-8, atol=1e-10)


@pytest.mark.slow
def test_padding_and_the_level_of_the_risks_change_nothing_and_large_risks_are_finite():
    pad = ((0, 4),)
    whole = [np.pad(each, pad, constant_values=value) for each, value in ((RISKS, np.nan), (TIMES, 99), (EVENTS, 1))]
    weights = np.pad(np.ones(N), pad)
    with jax.enable_x64(True):
        plain = objectives.cox_losses(RISKS, TIMES, EVENTS, np.ones(N))
        np.testing.assert_allclose(objectives.cox_losses(*whole, weights)[:N], plain, rtol=1e-12)
        np.testing.assert_allclose(objectives.cox_losses(RISKS + 1e4, TIMES, EVENTS, np.ones(N)), plain, atol=1e-9)
        slope = jax.grad(lambda risks: objectives.cox_losses(risks, *whole[1:], weights).sum())(whole[0])
    assert np.isfinite(slope[:N]).all()


def pairs(chosen):
    """Concordance of some rows, one pair after another."""
    right = known = 0.0
    for i in chosen:
        for j in chosen:
            if EVENTS[i] and (TIMES[i] < TIMES[j] or (TIMES[i] == TIMES[j] and not EVENTS[j])):
                known += 1
                right += 1.0 if RISKS[i] > RISKS[j] else 0.5 if RISKS[i] == RISKS[j] else 0.0
    return right / known


def test_concordance_is_that_of_all_pairs_and_its_interval_that_of_the_jackknife():
    found = scores.concordance(RISKS, TIMES, EVENTS)
    assert found.value == pytest.approx(pairs(range(N)), rel=1e-12)
    left_out = np.array([pairs([j for j in range(N) if j != i]) for i in range(N)])
    jackknife = np.sqrt((N - 1) / N * np.square(left_out - left_out.mean()).sum())
    ours = (special.logit(found.high) - special.logit(found.low)) / 2 / scores.Z * found.value * (1 - found.value)
    assert ours == pytest.approx(jackknife, rel=0.05)  # They differ by terms of the order 1 / N.
    assert scores.concordance(-TIMES, TIMES, np.ones(N, bool)).value == 1.0
    assert math.isnan(scores.concordance(RISKS, TIMES, np.zeros(N, bool)).value)


def test_kaplan_meier_is_that_of_statsmodels():
    import statsmodels.duration.survfunc as reference

    found = reference.SurvfuncRight(TIMES, EVENTS.astype(int))
    for time in (2, 5, 9):
        place = np.searchsorted(found.surv_times, time, side='right') - 1
        assert scores.kaplan_meier(TIMES, EVENTS, time).value == pytest.approx(found.surv_prob[place], rel=1e-12)
    low, high = scores.kaplan_meier(TIMES, EVENTS, 5)[1:]
    assert 0 < low < scores.kaplan_meier(TIMES, EVENTS, 5).value < high < 1


def test_without_censoring_brier_is_the_mean_square_and_the_baseline_counts_events():
    all_events, predicted = np.ones(N, bool), special.expit(RISKS)
    wanted = np.square(predicted - (TIMES > 5)).mean()
    assert scores.brier(predicted, TIMES, all_events, 5) == pytest.approx(wanted, rel=1e-12)
    nelson_aalen = sum(1 / (time <= TIMES).sum() for time in TIMES[TIMES <= 5])
    assert scores.baseline_hazard(np.zeros(N), TIMES, all_events, 5) == pytest.approx(nelson_aalen, rel=1e-12)


def written(folder, change=('', '')):
    rows = [
        f'{x[0]:.4f},{x[1]:.4f},{"ab"[i % 2]},{int(t)},{int(e)}' for i, (x, t, e) in enumerate(zip(X, TIMES, EVENTS))
    ]
    text = 'x,y,sex,time,event\n' + '\n'.join(rows) + '\n'
    (folder / 'table.csv').write_text(text.replace(*change, 1) if change[0] else text)
    source = sources.Csv(path=str(folder / 'table.csv'))
    return survival.Survival(source=source, columns=('x', 'y'), fitted_on=source, batch=64)


@pytest.mark.parametrize(
    ('new', 'message'),
    [('0,1', "line 2: 'time' is 0; it must be above 0"), ('3,2', "line 2: the label '2' is not one of 0 to 1")],
)
def test_a_time_or_an_event_that_cannot_be_is_named(tmp_path, new, message):
    first = f'a,{int(TIMES[0])},{int(EVENTS[0])}'
    with pytest.raises(config.InputError, match=message):
        written(tmp_path, (first, f'a,{new}')).build(0)


def test_a_model_of_risks_is_trained_and_its_subgroups_are_shown(tmp_path):
    data = written(tmp_path)
    experiment = Experiment(
        name='risks',
        steps=40,
        data=data,
        model=perceptron.Perceptron(hidden=(), classes=1),
        objective=objectives.Cox(),
        optimizer=optimizers.AdamW(schedule=schedules.Constant(peak=0.1), weight_decay=0.0),
        mesh=sharding.MeshShape(data=1),
        evaluations=(evaluations.Prognosis(data=data, horizon=5.0, groups=1, every_steps=40, subgroups=('sex', 'y')),),
        checkpoints=Checkpoints(every_steps=40),
    )
    verbs.train(experiment, tmp_path / 'run')
    run = verbs.open_run(tmp_path / 'run')
    found = run.restore().evaluate()['test']
    assert found.values['concordance'] > 0.65
    # Of the rows that it was fitted to, a model with Breslow's baseline predicts the mean survival.
    assert found.values['calibration_error'] < 0.03
    *_, table = found.artifacts
    assert [row[0] for row in table.rows][:2] == ['sex = a', 'sex = b']
    assert [row[1] for row in table.rows] == [30, 30, 30, 30]
