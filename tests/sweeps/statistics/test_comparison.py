"""Every arm against the baseline: the numbers against independent references, and every degenerate case."""

import math

import numpy as np
import pytest
from scipy import stats

from bigmodel_jax import config
from bigmodel_jax.sweeps.statistics import comparison, designs, estimates, nonparametric, power

NAN = float('nan')


def arm(*values):
    return dict(enumerate(values))


BASE = arm(2.10, 2.31, 1.94, 2.22, 2.05)
BETTER = arm(2.02, 2.19, 1.87, 2.11, 1.95)
NOISY = arm(2.20, 2.15, 2.04, 2.02, 2.11)


def one(values, baseline=BASE, **options):
    return comparison.compare({'base': baseline, 'arm': values}, 'base', **({'direction': 'lower'} | options))['arm']


def test_pairs_are_judged_by_the_t_test_of_their_differences():
    x, y = np.array(list(BETTER.values())), np.array(list(BASE.values()))
    reference = stats.ttest_rel(x, y)
    found = one(BETTER)
    assert found.difference == pytest.approx(x.mean() - y.mean())
    assert found.p.t == found.p.holm == pytest.approx(reference.pvalue)
    assert found.interval == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert found.p.rank == stats.wilcoxon(x, y).pvalue == 2 / 2**5
    assert found.finding == 'better'
    assert found.measured.pairing.ratio == pytest.approx((x.var(ddof=1) + y.var(ddof=1)) / (x - y).var(ddof=1))


def test_independent_runs_have_the_statistic_of_welch_and_the_degrees_of_freedom_of_hsu():
    x, y = np.array([2.0, 2.2, 1.9, 2.12]), np.array(list(BASE.values()))
    found = one(arm(*x), design=designs.Independent())
    reference = stats.ttest_ind(x, y, equal_var=False)
    assert found.measured.estimate.noise_dof == pytest.approx(reference.df)
    assert found.p.t == pytest.approx(2 * stats.t.sf(abs(reference.statistic), 3))
    assert found.p.t > reference.pvalue
    assert found.p.rank == stats.mannwhitneyu(x, y, method='exact').pvalue
    assert found.measured.counts == (4, 5)
    assert found.measured.pairing is None


def test_known_noise_makes_a_z_test():
    found = one(BETTER, design=designs.Paired(known_sd=0.1))
    assert found.p.t == pytest.approx(2 * stats.norm.sf(abs(found.difference) / (0.1 / math.sqrt(5))))
    independent = one(BETTER, design=designs.Independent(known_sd=0.1))
    assert independent.p.t == pytest.approx(2 * stats.norm.sf(abs(found.difference) / (0.1 * math.sqrt(2 / 5))))
    assert one(arm(1.5), design=designs.Paired(known_sd=0.1)).finding == 'better', 'one seed is enough'


def test_the_direction_says_which_sign_is_better():
    lower, higher = one(BETTER), one(BETTER, direction='higher')
    assert (lower.finding, higher.finding) == ('better', 'worse')
    assert lower.gain == -higher.gain > 0
    assert lower.interval == higher.interval
    assert lower.verdict == 'better by 0.096 (95% 0.070 to 0.122), p = 0.00049'
    assert higher.verdict == 'worse by 0.096 (95% 0.070 to 0.122), p = 0.00049'


def test_arms_are_corrected_together():
    found = comparison.compare(
        {'base': BASE, 'better': BETTER, 'noisy': NOISY, 'same': BASE}, 'base', direction='lower'
    )
    assert list(found) == ['better', 'noisy', 'same']
    assert found['better'].p.holm == pytest.approx(3 * found['better'].p.t)
    assert found['noisy'].p.holm == min(1.0, 2 * found['noisy'].p.t)
    assert found['better'].verdict.endswith('p = 0.0015 after Holm over 3 arms')
    assert found['noisy'].power.level == pytest.approx(0.05 / 3)


def test_a_difference_that_only_the_correction_hides_is_not_settled():
    edge = arm(*(value - shift for value, shift in zip(BASE.values(), (0.01, 0.02, 0.06, 0.06, 0.02), strict=True)))
    arms = {'base': BASE, 'edge': edge, 'a': NOISY, 'b': NOISY}
    found = comparison.compare(arms, 'base', direction='lower')['edge']
    assert found.p.t < 0.05 < found.p.holm
    assert found.finding == 'open'
    assert found.verdict.startswith('not settled: better by 0.034 (95% 0.004 to 0.064), p = 0.034 alone, p = 0.1 after')


def test_an_open_arm_says_what_the_seeds_can_see_and_how_many_would_settle_it():
    found = one(NOISY)
    assert found.finding == 'open'
    seeds = f'5 seeds detect {found.power.detectable:.2g}, and {found.power.seeds:,} would settle an effect'
    assert found.verdict.startswith('no difference found: better by 0.02 (95% ')
    assert seeds in found.verdict


def test_a_run_that_diverged_is_a_result_and_never_hidden():
    found = one({**BETTER, 3: NAN, 4: math.inf})
    assert found.finding == 'diverged'
    assert found.diverged == ((3, 4), ())
    assert found.measured.seeds == (0, 1, 2)
    assert found.verdict.startswith('diverged on 2 seeds (3, 4) (base on none); on the rest: better by 0.090')
    assert found.p.rank == 24 / 2**5, 'gains of ranks 1, 2 and 3, and two losses that share 4.5'
    assert one(arm(*[NAN] * 5)).verdict == 'diverged on 5 seeds (0, 1, 2, 3, 4) (base on none)'
    assert one(arm(*[NAN] * 5)).p.rank == 2 / 2**5
    assert one(BETTER, {**BASE, 0: -math.inf}).diverged == ((), (0,)), 'minus infinity is no good loss'
    assert one({**BETTER, 0: NAN}, {**BASE, 0: NAN}).p.rank == 2 / 2**4, 'where both diverged neither is better'


@pytest.mark.parametrize('design', [designs.Paired(), designs.Independent()])
def test_too_few_seeds_have_no_interval(design):
    found = one(arm(2.0), arm(2.1), design=design)
    assert found.finding == 'untested'
    assert found.difference == pytest.approx(-0.1)
    assert np.isnan(found.interval).all()
    assert math.isnan(found.p.t)
    assert found.p.holm == 1.0
    assert math.isnan(found.power.detectable)
    assert found.power.seeds is None
    two = one(arm(2.0, 2.1), arm(2.1, 2.3), design=design)
    assert two.finding == 'open'
    assert np.isfinite(two.interval).all()
    assert one({}, design=design).verdict.startswith('nothing to compare with base')


def test_values_that_do_not_vary():
    assert one(BASE).verdict == 'equal on 5 seeds'
    assert one(BASE).p.holm == 1.0
    shifted = {seed: value + 0.1 for seed, value in BASE.items()}
    found = one(shifted)
    assert found.finding == 'open', 'rounding in the last place is no noise, and 5 seeds cannot say more by ranks'
    assert found.interval == (pytest.approx(0.1), pytest.approx(0.1))
    assert found.verdict.startswith('not settled: worse by 0.1 (the same on every seed), p = 0.062 by ranks')
    many = arm(*range(6))
    assert one({seed: value + 0.1 for seed, value in many.items()}, many).finding == 'worse'


def test_seeds_that_only_one_of_both_has_are_left_out_and_named():
    found = one({**BETTER, 7: 5.0}, {**BASE, 9: 1.0})
    assert found.measured.left_out == (7, 9)
    assert found.difference == one(BETTER).difference
    assert found.verdict.endswith('; not compared, as only one of the two has it: 2 seeds (7, 9)')


def test_the_order_of_seeds_changes_nothing():
    assert one(dict(reversed(BETTER.items()))) == one(BETTER)


def test_bad_input_is_answered():
    values = {'base': BASE, 'arm': BETTER}
    with pytest.raises(config.InputError, match=r"No arm is called 'bse', the baseline\. Did you mean 'base'"):
        comparison.compare(values, 'bse', direction='lower')
    with pytest.raises(config.InputError, match='only arm'):
        comparison.compare({'base': BASE}, 'base', direction='lower')
    with pytest.raises(config.InputError, match=r'confidence=95 is not between 0 and 1\. The usual value is 0.95'):
        comparison.compare(values, 'base', direction='lower', confidence=95)
    with pytest.raises(config.InputError, match='known_sd=0 is not a positive number'):
        designs.Paired(known_sd=0)


# ---- the parts ----------------------------------------------------------------------------------------------------


def test_power_is_that_of_the_noncentral_t_distribution():
    for n in (2, 3, 5, 10, 20):
        for size in (0.2, 0.7, 1.5):
            ratio, critical = size * math.sqrt(n), stats.t.isf(0.025, n - 1)
            expected = stats.nct.sf(critical, n - 1, ratio) + stats.nct.cdf(-critical, n - 1, ratio)
            assert power.power(ratio, n - 1, level=0.05) == pytest.approx(expected, abs=5e-6)
    assert power.power(0.0, 4, level=0.01) == pytest.approx(0.01, abs=5e-6), 'without an effect it is the level'


def test_the_number_of_seeds_is_the_first_that_reaches_the_power():
    for noise in (power.Noise(0.2), power.Noise(0.2, 1.7), power.Noise(0.2, np.inf)):
        for effect in (1.0, 0.2, 0.1, -0.1):
            n = power.seeds_needed(effect, noise, level=0.05)

            def reached(seeds, effect=effect, noise=noise):
                dof = np.inf if np.isinf(noise.dof_ratio) else seeds - 1
                ratio = abs(effect) * math.sqrt(seeds) / noise.sd
                noise_dof = noise.dof_ratio * dof if seeds > 1 else dof
                return seeds > 1 and power.power(ratio, dof, level=0.05, noise_dof=noise_dof) >= 0.8

            assert (np.isinf(noise.dof_ratio) and n == 1) or (reached(n) and not reached(n - 1))
    assert power.seeds_needed(0.2 * 2.8, power.Noise(0.2, np.inf), level=0.05) == 2
    assert power.seeds_needed(1e-9, power.Noise(0.2), level=0.05) is None
    assert power.seeds_needed(0.0, power.Noise(0.2), level=0.05) is None


def test_the_detectable_effect_is_found_with_power_0_8():
    for estimate in (estimates.DifferenceEstimate(0.0, 0.3, 4, 4), estimates.DifferenceEstimate(0.0, 0.3, 1, 1.6)):
        effect = power.detectable(estimate, level=0.01)
        assert power.power(effect / 0.3, estimate.dof, level=0.01, noise_dof=estimate.noise_dof) == pytest.approx(0.8)


def test_ranks_agree_with_scipy():
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 12):
        x, y = rng.normal(size=(2, n)), rng.normal(size=n + 3)
        assert nonparametric.rank_differences(x[0]) == pytest.approx(stats.wilcoxon(x[0], method='exact').pvalue)
        reference = stats.mannwhitneyu(x[0], y, method='exact').pvalue
        assert nonparametric.rank_groups(x[0], y) == pytest.approx(reference)
    # Ties, against every permutation. More runs than are enumerated have the normal distribution.
    x, y = np.array([1.0, 2, 2, 3]), np.array([2.0, 3, 3, 4, 5])
    every = stats.PermutationMethod(n_resamples=np.inf)
    assert nonparametric.rank_groups(x, y) == pytest.approx(stats.mannwhitneyu(x, y, method=every).pvalue)
    x = rng.normal(size=600) + 0.05
    assert nonparametric.rank_differences(x) == stats.wilcoxon(x, method='asymptotic').pvalue
    exact, normal = nonparametric.rank_differences(x[:500]), stats.wilcoxon(x[:500], method='asymptotic').pvalue
    assert exact == pytest.approx(normal, rel=0.01)
    assert nonparametric.rank_groups(x[:60], x[60:]) == stats.mannwhitneyu(x[:60], x[60:], method='asymptotic').pvalue


def test_ranks_with_ties_are_judged_by_all_signs():
    assert nonparametric.rank_differences(np.ones(6)) == 2 / 2**6
    assert nonparametric.rank_differences(np.array([1.0, 1.0, -1.0, 2.0, 0.0])) == 8 / 2**4, (
        'ranks 2, 2 and 4 against 2'
    )


def test_the_bootstrap_is_studentised_and_the_same_at_every_call():
    values = np.random.default_rng(0).normal(size=(3, 6))
    first, again = (nonparametric.bootstrap(values, confidence=0.9) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    # Moved and stretched values have the moved and stretched interval.
    moved = nonparametric.bootstrap(5 + 3 * values, confidence=0.9)
    np.testing.assert_allclose(moved, 5 + 3 * np.array(first))
    assert np.isnan(nonparametric.bootstrap(values[:, :3], confidence=0.9)).all()
    # Of many normal values, the quantiles of t* are those of t: 2% are the noise of 9,999 resamples.
    many = np.random.default_rng(1).normal(size=400)
    low, high = nonparametric.bootstrap(many, confidence=0.95)
    assert high - low == pytest.approx(2 * 1.96 * many.std(ddof=1) / 20, rel=0.05)
