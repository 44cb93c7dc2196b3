"""What is promised of the statistics, on simulated sweeps and on real seeds.

These are samples of what scripts/benchmark/sweep_statistics.py measures in full.
"""

import numpy as np
import pytest

from bigmodel_jax.sweeps.statistics import comparison, designs, halving
from sweeps.statistics import simulated, track3


@pytest.mark.parametrize('seeds', [3, 5, 10])
def test_intervals_cover_and_verdicts_are_rarely_false(seeds):
    found = simulated.rates(simulated.normal, sweeps=20_000, seeds=seeds, resamples=99)
    assert found.coverage == pytest.approx(0.95, abs=0.015)
    assert found.false_of_nulls <= 0.05
    assert found.false_of_mixed <= 0.05


@pytest.mark.parametrize('noise', [simulated.heavy_tailed, simulated.skewed])
def test_heavy_tails_and_equal_skews_make_no_more_false_verdicts(noise):
    found = simulated.rates(noise, sweeps=20_000, seeds=5, resamples=99)
    assert found.coverage >= 0.935
    assert max(found.false_of_nulls, found.false_of_mixed) <= 0.05


def test_compare_gives_the_numbers_that_were_simulated():
    arms, baseline = simulated.draw(simulated.normal, simulated.PLANTED, sweeps=3, seeds=5)
    estimate = simulated.estimates.paired(arms, np.broadcast_to(baseline, arms.shape))
    interval, p = estimate.interval(0.95), simulated.corrected(estimate.p_value())
    for sweep in range(3):
        values = {'base': dict(enumerate(baseline[sweep, 0]))}
        values |= {str(a): dict(enumerate(arms[sweep, a])) for a in range(4)}
        found = comparison.compare(values, 'base', direction='lower')
        for a in range(4):
            assert found[str(a)].interval == pytest.approx((interval.low[sweep, a], interval.high[sweep, a]))
            assert found[str(a)].p.holm == pytest.approx(p[sweep, a])


# ---- real seeds -----------------------------------------------------------------------------------------------------


def equal_terms(loss, steps):
    """A loss that counts the steps as the rule of the benchmark does."""
    return loss + track3.LOSS_PER_STEP * steps


def z_test(one, other):
    values = {'one': dict(enumerate(one)), 'other': dict(enumerate(other))}
    design = designs.Independent(known_sd=track3.KNOWN_SD)
    return comparison.compare(values, 'other', direction='lower', design=design, confidence=track3.CONFIDENCE)['one']


def test_published_verdicts():
    same = z_test([equal_terms(3.2785, 3_225)] * 16, [equal_terms(3.2771, 3_250)] * 8)
    assert same.finding == 'open'
    different = z_test([equal_terms(3.2790, 3_325)] * 20, [equal_terms(3.2788, 3_375)] * 20)
    assert different.finding == 'better'
    assert different.gain / np.sqrt(2 / 20) == pytest.approx(0.00648, abs=5e-6)


def test_the_rule_for_pairs_of_submissions():
    for (x_key, x), (y_key, y) in zip(track3.finals().items(), list(track3.finals().items())[1:], strict=False):
        found = z_test(equal_terms(x, x_key[1]), equal_terms(y, y_key[1]))
        statistic = found.gain / np.sqrt(1 / x.size + 1 / y.size)
        rule = 'better' if statistic >= 0.004 else 'worse' if statistic <= -0.004 else 'open'
        assert found.finding == rule


def test_the_rule_for_valid_submissions():
    findings = set()
    for values in track3.finals().values():
        arms = {'target': dict.fromkeys(range(values.size), track3.TARGET), 'runs': dict(enumerate(values))}
        design = designs.Paired(known_sd=track3.KNOWN_SD)
        found = comparison.compare(arms, 'target', direction='lower', design=design, confidence=track3.CONFIDENCE)[
            'runs'
        ]
        valid = (track3.TARGET - values.mean()) * np.sqrt(values.size) >= track3.THRESHOLD
        assert (found.finding == 'better') == valid
        findings.add(found.finding)
    assert findings == {'better', 'open'}


@pytest.mark.parametrize('submission', track3.finals(8), ids=str)
def test_halves_of_equal_seeds_are_rarely_called_different(submission):
    assert track3.splits_called_different(track3.finals(8)[submission], 2_000) <= 0.05


def test_the_degrees_of_freedom_of_welch_would_call_too_many_halves_different():
    rates = [track3.splits_called_different(values, 2_000, welch=True) for values in track3.finals(8).values()]
    assert max(rates) > 0.055


def test_the_number_of_seeds_is_right_within_a_factor_of_one_and_a_half():
    found = track3.seeds_needed(8, 14, draws=400)
    assert len(found) >= 5
    for need in found.values():
        assert 1 / 1.5 <= need.computed / need.resampled <= 1.5


def test_what_is_allowed_for_is_what_arms_caught_up():
    parts = [track3.caught_up(round(look * track3.GRID)) for look in (0.125, 0.25, 0.5, 0.75, 0.9)]
    assert max(parts) <= halving.SuccessiveHalving().catch_up
    assert parts[1] < 0.08


@pytest.mark.parametrize('steps', [None, 2_900])
def test_early_stopping_rarely_stops_the_arm_that_ends_best(steps):
    found = track3.replay(halving.SuccessiveHalving(), steps=steps, arms=4, seeds=5, draws=60)
    assert found.wrong <= 0.05
    if steps:
        assert found.saved >= 0.05, 'among arms that differ it saves steps'
    eager = track3.replay(halving.SuccessiveHalving(catch_up=0), steps=None, arms=4, seeds=5, draws=20)
    assert eager.wrong > 0.2, 'without the allowance it is wrong often'
