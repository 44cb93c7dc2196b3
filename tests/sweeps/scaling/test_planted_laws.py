import dataclasses

import numpy as np
import pytest
from scipy import optimize

from bigmodel_jax import config
from bigmodel_jax.sweeps.scaling import envelope, intervals, isoflop, parametric, prediction
from bigmodel_jax.sweeps.scaling.observations import Observations
from sweeps.scaling import planted

PLANTED = planted.LAW.size_exponent


def test_best_allocation_is_the_minimum_along_a_budget():
    flops = 5.76e23
    found = optimize.minimize_scalar(
        lambda log_size: planted.LAW.loss(np.exp(log_size), flops / 6 / np.exp(log_size)), bounds=(18, 30)
    )
    best = planted.LAW.optimal(flops)
    # The minimum is flat: its place is known to about the root of the machine precision.
    np.testing.assert_allclose(best.parameters, np.exp(found.x), rtol=1e-3)
    np.testing.assert_allclose(6 * best.parameters * best.tokens, flops, rtol=1e-12)


def test_parametric_fit_recovers_a_law_without_noise():
    ladder = planted.isoflop(0)
    exact = Observations.of(ladder.parameters, ladder.tokens, planted.LAW.loss(ladder.parameters, ladder.tokens))
    found = parametric.fit(exact)
    # Five numbers, of which A and E trade against one another: known to fewer digits than the loss is.
    np.testing.assert_allclose(dataclasses.astuple(found), dataclasses.astuple(planted.LAW), rtol=1e-5)


def test_one_wild_run_hardly_moves_the_parametric_fit():
    ladder = planted.isoflop(0)
    losses = ladder.losses.copy()
    losses[len(losses) // 2] *= 1.5
    wild = Observations.of(ladder.parameters, ladder.tokens, losses)
    # Beyond its delta the Huber loss is linear: one run in 56 weighs no more than its sign.
    assert abs(parametric.fit(wild).size_exponent - parametric.fit(ladder).size_exponent) < 0.01


@pytest.mark.parametrize('seed', [0, 1])
def test_planted_exponent_is_inside_the_interval(seed):
    ladder = planted.isoflop(seed)
    for fitted in (intervals.by_isoflop(ladder, draws=100), intervals.by_parametric_loss(ladder, draws=60)):
        assert PLANTED in fitted.size_exponent, fitted.approach
        assert fitted.size_exponent.high - fitted.size_exponent.low < 0.05, fitted.approach


def test_planted_exponent_is_inside_the_interval_of_the_training_curves():
    fitted = intervals.by_envelope(planted.training_curves(1), draws=30)
    assert PLANTED in fitted.size_exponent
    # The envelope jumps from size to size, so that it knows the exponent less well.
    assert fitted.size_exponent.high - fitted.size_exponent.low < 0.15


@pytest.mark.slow
def test_intervals_cover_the_planted_exponent_as_often_as_they_say():
    counts = {'isoFLOP profiles': 0, 'parametric loss': 0}
    for seed in range(100):
        ladder = planted.isoflop(seed)
        for fit in (intervals.by_isoflop, intervals.by_parametric_loss):
            fitted = fit(ladder, draws=100)
            counts[fitted.approach] += PLANTED in fitted.size_exponent
    # 95% of 100, less three standard deviations of that count (2.2), and a little: percentile intervals are short.
    assert min(counts.values()) >= 86, counts


def coverages(ladders, draws):
    of = {'above_flops': 1e21, 'draws': draws}
    return [
        planted.covered(planted.isoflop(seed), planted.LAW, planted.normal_noise(), **of) for seed in range(ladders)
    ]


def test_interval_of_a_prediction_is_that_of_a_new_run():
    # The law alone, without the noise of the new run, would cover about 60%. Over ladders of 42 small runs the coverage
    # has a standard deviation of 2.5%, so that the mean of three is known to 1.5%.
    assert 0.90 < np.mean(coverages(3, draws=40)) < 0.995


@pytest.mark.slow
def test_intervals_of_predictions_cover_as_often_as_they_say():
    # The mean of 40 ladders is known to 0.4%.
    np.testing.assert_allclose(np.mean(coverages(40, draws=60)), 0.95, atol=0.025)


def test_large_runs_are_predicted_from_small_ones():
    found = prediction.held_out(planted.isoflop(2), 1e21, draws=40)
    assert len(found) == 14
    assert max(abs(each.error) for each in found) < 0.02


def test_intervals_depend_on_the_seed_alone():
    ladder = planted.isoflop(0, budgets=4)
    assert intervals.by_isoflop(ladder, draws=20) == intervals.by_isoflop(ladder, draws=20)
    assert intervals.by_isoflop(ladder, draws=20) != intervals.by_isoflop(ladder, draws=20, seed=1)


def test_resampling_keeps_runs_whole():
    curves = planted.training_curves(0)
    drawn = curves.resampled(np.random.default_rng(0))
    assert len(np.unique(drawn.runs)) == len(np.unique(curves.runs))
    for run in np.unique(drawn.runs):
        mine = drawn.take(drawn.runs == run)
        of = curves.runs[curves.losses == mine.losses[0]][0]
        np.testing.assert_array_equal(mine.losses, curves.losses[curves.runs == of])


def test_too_little_to_fit_is_refused():
    ladder = planted.isoflop(0)
    with pytest.raises(config.InputError, match='at least 6 losses'):
        parametric.fit(ladder.take(np.arange(5)))
    with pytest.raises(config.InputError, match=r'minima of at least 2 budgets, but there are 1.*6\.000e\+18'):
        isoflop.fit(ladder.take(np.arange(7)))
    with pytest.raises(config.InputError, match='the loss rises at both ends'):
        isoflop.fit(ladder.take(ladder.parameters < 1e8))
    with pytest.raises(config.InputError, match='too few sizes among them'):
        envelope.fit(ladder)
    with pytest.raises(config.InputError, match='no run has more FLOPs'):
        prediction.held_out(ladder, 1e25)
    with pytest.raises(config.InputError, match='at least 2 resamples'):
        intervals.by_isoflop(ladder, draws=1)
    with pytest.raises(config.InputError, match=r'losses\[1\] is nan'):
        Observations.of([1, 2], [1, 2], [1, float('nan')])
    with pytest.raises(config.InputError, match='one length'):
        Observations.of([1, 2], [1, 2], [1])
