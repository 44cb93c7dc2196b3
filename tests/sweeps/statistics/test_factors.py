"""Effects of factors: against paired differences, another least squares, and grids with holes."""

import itertools
import math

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.sweeps.statistics import comparison, factors

NORMS, PLACES = ('layer', 'rms', 'none'), ('pre', 'post')
LEVELS = {f'{norm}-{place}': {'norm': norm, 'place': place} for norm in NORMS for place in PLACES}


def grid(seeds=4, noise=0.1):
    """A grid with main effects, one interaction and effects of the seeds."""
    rng = np.random.default_rng(0)
    shared = 5 * rng.normal(size=seeds)
    mean = {'layer': 0.0, 'rms': -0.2, 'none': 0.5}
    return {
        arm: {
            seed: 3
            + mean[at['norm']]
            + (at['place'] == 'post') * (0.1 + 0.7 * (at['norm'] == 'none'))
            + shared[seed]
            + noise * rng.normal()
            for seed in range(seeds)
        }
        for arm, at in LEVELS.items()
    }


def by_level(effects):
    return {effect.levels: effect for effect in effects}


def test_a_noiseless_grid_gives_back_what_was_planted():
    found = factors.grid_effects(grid(noise=0), LEVELS)
    main, pairs = by_level(found.main), by_level(found.interactions)
    assert main['rms',].reference == ('layer',)
    assert main['rms',].estimate.difference == pytest.approx(-0.2)
    assert main['none',].estimate.difference == pytest.approx(0.5 + 0.35)
    assert main['post',].estimate.difference == pytest.approx(0.1 + 0.7 / 3)
    assert pairs['rms', 'post'].estimate.difference == pytest.approx(0, abs=1e-9)
    assert pairs['none', 'post'].estimate.difference == pytest.approx(0.7)
    assert found.noise_sd == 0
    assert found.dof == 6 * 4 - 6 - 3


def test_in_a_full_grid_an_effect_is_the_mean_of_the_paired_differences():
    values = grid()
    found = factors.grid_effects(values, LEVELS)
    pairs = [values[f'{norm}-post'][s] - values[f'{norm}-pre'][s] for norm in NORMS for s in range(4)]
    effect = by_level(found.main)['post',]
    assert effect.estimate.difference == pytest.approx(np.mean(pairs))
    assert effect.estimate.standard_error == pytest.approx(found.noise_sd * math.sqrt(2 / 12))
    assert effect.interval.low < effect.estimate.difference < effect.interval.high


def test_two_arms_are_the_paired_comparison():
    values = {'a': {0: 1.0, 1: 1.2, 2: 0.7}, 'b': {0: 1.3, 1: 1.4, 2: 1.2}}
    effect = factors.grid_effects(values, {'a': {'x': 0}, 'b': {'x': 1}}).main[0]
    found = comparison.compare(values, 'a', direction='lower')['b']
    assert effect.p == effect.holm == pytest.approx(found.p.t)
    assert effect.interval == pytest.approx(found.interval)


@pytest.mark.parametrize('missing', [(), (('rms-pre', 2), ('none-post', 0), ('none-post', 3))])
def test_least_squares_agree_with_statsmodels(missing):
    formula = pytest.importorskip('statsmodels.formula.api')
    pandas = pytest.importorskip('pandas')
    multitest = pytest.importorskip('statsmodels.stats.multitest')
    values = {arm: {s: v for s, v in seeds.items() if (arm, s) not in missing} for arm, seeds in grid().items()}
    rows = [{'y': v, 'seed': s, **LEVELS[arm]} for arm, seeds in values.items() for s, v in seeds.items()]
    # Sum codes 1, 0, -1 of layer, rms, none and 1, -1 of pre, post; none - layer is then -2 a1 - a2.
    for row in rows:
        row['a1'] = {'layer': 1, 'rms': 0, 'none': -1}[row['norm']]
        row['a2'] = {'layer': 0, 'rms': 1, 'none': -1}[row['norm']]
        row['b'] = {'pre': 1, 'post': -1}[row['place']]
    fit = formula.ols('y ~ (a1 + a2) * b + C(seed, Sum)', pandas.DataFrame(rows)).fit()
    found = factors.grid_effects(values, LEVELS)
    main, pairs = by_level(found.main), by_level(found.interactions)
    for effect, contrast in (
        (main['none',], '-2 * a1 - a2 = 0'),
        (main['rms',], 'a2 - a1 = 0'),
        (main['post',], '-2 * b = 0'),
        (pairs['none', 'post'], '4 * a1:b + 2 * a2:b = 0'),
    ):
        expected = fit.t_test(contrast)
        assert effect.estimate.difference == pytest.approx(expected.effect.item())
        assert effect.estimate.standard_error == pytest.approx(expected.sd.item())
        assert effect.p == pytest.approx(expected.pvalue.item())
        assert effect.interval == pytest.approx(tuple(expected.conf_int()[0]))
    assert found.dof == fit.df_resid
    effects = [*found.main, *found.interactions]
    holm = multitest.multipletests([effect.p for effect in effects], method='holm')[1]
    np.testing.assert_allclose([effect.holm for effect in effects], holm)


def test_what_the_runs_cannot_tell_apart_is_not_given():
    values = {arm: seeds for arm, seeds in grid().items() if arm != 'none-post'}
    found = factors.grid_effects(values, LEVELS)
    assert math.isnan(by_level(found.interactions)['none', 'post'].estimate.difference), 'its cell is empty'
    assert np.isfinite(by_level(found.interactions)['rms', 'post'].estimate.difference)
    single = factors.grid_effects({arm: {0: seeds[0]} for arm, seeds in grid().items()}, LEVELS)
    assert single.dof == 0
    assert math.isnan(single.noise_sd)
    assert np.isnan([effect.interval for effect in single.main]).all()
    assert np.isfinite([effect.estimate.difference for effect in single.main]).all()


def test_runs_that_diverged_are_left_out_and_named():
    values = grid()
    without = {arm: {s: v for s, v in seeds.items() if (arm, s) != ('rms-pre', 1)} for arm, seeds in values.items()}
    values['rms-pre'][1] = math.inf
    found = factors.grid_effects(values, LEVELS)
    assert found.diverged == (('rms-pre', 1),)
    assert found.main == factors.grid_effects(without, LEVELS).main


def test_intervals_of_effects_cover_the_truth():
    rng = np.random.default_rng(0)
    levels = {f'{a}{b}{c}': {'a': a, 'b': b, 'c': c} for a, b, c in itertools.product((0, 1), repeat=3)}
    covered = []
    for _ in range(150):
        shared = rng.normal(size=3)
        values = {arm: {s: at['a'] + shared[s] + rng.normal() for s in range(3)} for arm, at in levels.items()}
        found = factors.grid_effects(values, levels)
        truth = [1.0 * (effect.factors == ('a',)) for effect in (*found.main, *found.interactions)]
        ends = [effect.interval for effect in (*found.main, *found.interactions)]
        covered += [low <= true <= high for (low, high), true in zip(ends, truth, strict=True)]
    # 900 intervals: three standard deviations of the part that covers are 2.2%.
    assert np.mean(covered) == pytest.approx(0.95, abs=0.022)


def test_a_sensitivity_curve_has_a_point_for_each_value():
    found = factors.sensitivity({0.1: {0: 2.0, 1: 4.0}, 0.01: {0: 1.0, 1: math.nan}, 1.0: {0: math.nan}})
    assert [point.value for point in found] == [0.01, 0.1, 1.0]
    assert [point.count for point in found] == [1, 2, 0]
    assert [point.diverged for point in found] == [(1,), (), (0,)]
    assert found[1].mean == 3.0
    assert found[1].interval == pytest.approx((3 - 12.7062, 3 + 12.7062), abs=1e-4), 't of 1 degree of freedom'
    assert found[0].mean == 1.0
    assert np.isnan([*found[0].interval, found[2].mean, *found[2].interval]).all()


@pytest.mark.parametrize(
    ('levels', 'message'),
    [
        ({'a': {'x': 0}}, "'b' has no levels"),
        ({'a': {'x': 0}, 'b': {'y': 0}}, r"'b' has the factors \['y'\], and others \['x'\]"),
        ({'a': {'x': 0}, 'b': {'x': 0}}, 'Every arm has x=0. Leave that factor out'),
        ({'a': {}, 'b': {}}, 'at least one factor'),
    ],
)
def test_bad_grids_are_answered(levels, message):
    with pytest.raises(config.InputError, match=message):
        factors.grid_effects({'a': {0: 1.0}, 'b': {0: 2.0}}, levels)
