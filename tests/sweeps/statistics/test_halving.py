"""When an arm is stopped early, and when not."""

import math

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.sweeps.statistics import halving

STEPS = range(5, 101, 5)
RULE = halving.SuccessiveHalving(looks=(0.25, 0.5, 0.75))


def curve(final, seed=0, *, height=2.0, until=100):
    """Falls to `final` ever more slowly, as under a decaying learning rate; a seed moves the whole curve."""
    noise = 0.01 * np.random.default_rng([seed, round(100 * abs(final))]).normal()
    return {step: final + seed + noise + height * (1 - step / 100) ** 2 for step in STEPS if step <= until}


def arm(final, seeds=5, **options):
    return {seed: curve(final, seed, **options) for seed in range(seeds)}


def stops(curves, rule=RULE, direction='lower'):
    return halving.early_stops(curves, rule, total_steps=100, direction=direction)


def test_an_arm_that_cannot_win_is_stopped_and_says_why():
    found = stops({'best': arm(1.0), 'near': arm(1.01), 'far': arm(3.0)})
    assert list(found) == ['far']
    stop = found['far']
    assert (stop.step, stop.against, stop.runs) == (25, 'best', 5)
    assert stop.gap == pytest.approx(2.0, abs=0.02)
    # From step 15 to step 25 the best arm gained 2 (0.85^2 - 0.75^2) = 0.32; a quarter of 7.5 times as much.
    assert stop.allowance == pytest.approx(0.25 * 7.5 * 0.32)
    assert 0 < stop.bound < stop.gap - stop.allowance
    assert stop.level == pytest.approx(0.05 * 0.25**2 / 2)
    assert stop.saved_steps(100) == 5 * 75
    assert str(stop).startswith(
        'at step 25 worse than best by 2, of which it could catch up 0.6; with 99.84% confidence'
    )


def test_an_arm_that_may_still_catch_up_is_kept():
    assert not stops({'best': arm(1.0), 'near': arm(1.3, until=25)} | {'best': arm(1.0, until=25)})
    assert stops({'best': arm(1.0), 'near': arm(1.3)})['near'].step == 75, 'later it could not'
    none = halving.SuccessiveHalving(looks=(0.25,), catch_up=0)
    assert stops({'best': arm(1.0), 'near': arm(1.3)}, none)['near'].step == 25


def test_curves_that_cross_stop_nobody_who_ends_best():
    late = arm(1.0, height=3.0)
    early = arm(1.2, height=2.4)
    assert np.mean([late[s][25] for s in late]) > np.mean([early[s][25] for s in early])
    assert 'late' not in stops({'late': late, 'early': early})


def test_higher_can_be_better():
    curves = {'best': arm(1.0), 'far': arm(3.0)}
    negated = {name: {s: {t: -v for t, v in c.items()} for s, c in seeds.items()} for name, seeds in curves.items()}
    assert stops(negated, direction='higher') == stops(curves)


def test_what_is_stopped_depends_on_the_curves_up_to_there_only():
    whole = {'best': arm(1.0), 'near': arm(1.3), 'far': arm(3.0)}
    cut = whole | {'far': arm(3.0, until=25)}
    assert stops(cut) == stops(whole), 'an arm that was continued is judged as before'
    assert stops(dict(reversed(whole.items()))) == stops(whole)


def test_a_look_waits_for_all_that_are_in_play():
    curves = {'best': arm(1.0), 'far': arm(3.0)}
    assert not stops(curves | {'slow': arm(1.0, until=20)})
    assert not stops(curves | {'not_started': {}})
    assert not stops({'best': arm(1.0), 'far': arm(3.0) | {4: curve(3.0, 4, until=20)}})


def test_few_seeds_need_larger_differences():
    assert not stops({'best': arm(1.0, seeds=1), 'far': arm(3.0, seeds=1)})
    assert stops({'best': arm(1.0), 'near': arm(1.12)})
    assert not stops({'best': arm(1.0, seeds=2), 'near': arm(1.12, seeds=2)})
    assert not stops({'best': arm(1.0, seeds=2), 'far': {2: curve(3.0, 2), 3: curve(3.0, 3)}}), 'no seed in common'


def test_runs_that_diverge():
    broken = {**curve(0.5), 20: math.nan}
    broken = {step: value for step, value in broken.items() if step <= 20}
    found = stops({'best': arm(1.0), 'gone': dict.fromkeys(range(3), broken)})
    assert str(found['gone']) == 'diverged on every seed by step 20'
    assert found['gone'].saved_steps(100) == 3 * 80
    # An arm of which one run diverged is never what others are stopped for; it may be stopped itself.
    mixed = arm(-2.0) | {4: broken}
    assert not stops({'mixed': mixed, 'other': arm(1.0)})
    assert list(stops({'mixed': arm(3.0) | {4: broken}, 'other': arm(1.0)})) == ['mixed']


def test_the_levels_of_all_looks_stay_below_the_error():
    rule = halving.SuccessiveHalving(looks=(0.1, 0.4, 0.9), error=0.1)
    levels = [rule.level(look, arms=3) for look in range(3)]
    assert 2 * sum(levels) == pytest.approx(0.1 * 0.9**2)
    assert levels == sorted(levels)


def test_equal_arms_are_rarely_stopped():
    rng = np.random.default_rng(0)
    base = np.array([2 * (1 - step / 100) ** 2 for step in STEPS])
    rule = halving.SuccessiveHalving(looks=(0.25, 0.5, 0.75), catch_up=0)
    wrong = 0
    for _ in range(200):
        walks = np.cumsum(rng.normal(size=(3, 5, len(base))), axis=2) * 0.01 + base
        curves = {str(a): {s: dict(zip(STEPS, walks[a, s], strict=True)) for s in range(5)} for a in range(3)}
        found = stops(curves, rule)
        wrong += str(walks[:, :, -1].mean(axis=1).argmin()) in found
    assert wrong <= 10, 'more than 5% of the draws'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'looks': (0.5, 0.25)}, 'increasing fractions between 0 and 1'),
        ({'looks': ()}, 'increasing fractions'),
        ({'looks': (0.5, 1.0)}, 'increasing fractions'),
        ({'error': 1.0}, 'error=1.0 is not between 0 and 1'),
        ({'catch_up': -0.1}, 'catch_up=-0.1 is negative'),
    ],
)
def test_bad_rules_are_answered(options, message):
    with pytest.raises(config.InputError, match=message):
        halving.SuccessiveHalving(**options)
