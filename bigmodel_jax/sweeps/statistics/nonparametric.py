"""Tests and intervals that assume no normal noise: ranks and the bootstrap.

The bootstrap is the studentised one. For 4 to 10 seeds other kinds cover far less than they say: a nominal 95% BCa
interval covers 85% for 5 seeds of normal noise, the studentised one 95% (scripts/benchmark/sweep_statistics.py).
"""

import numpy as np

from bigmodel_jax.sweeps.statistics import estimates

RESAMPLES = 9_999
MOST_PAIRS, MOST_RUNS = 500, 100  # Up to which the rank tests are exact.
FEWEST = 4  # With 3 seeds so many resamples repeat one seed only that the interval is infinite.


def rank_differences(differences: np.ndarray) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test, exact with ties too for up to 500 pairs, and normal beyond.

    Args:
      differences: [n]; infinite where one of the two diverged, which counts as larger than any number.

    Source: Wilcoxon (1945), "Individual comparisons by ranking methods"; differences of 0 are left out, as he does.
    """
    kept = differences[differences != 0]
    if not kept.size:
        return 1.0
    if kept.size > MOST_PAIRS:
        from scipy import stats

        return float(stats.wilcoxon(_finite(kept), method='asymptotic').pvalue)
    ranks = _doubled_ranks(np.abs(kept))
    # The probability of each sum of the ranks of positive differences, if every sign is a fair coin: shift algorithm of
    # Streitberg and Roehmel (1986), "Exact distributions for permutation and rank tests".
    chance = np.zeros(ranks.sum() + 1)
    chance[0] = 1
    for rank in ranks:
        chance[rank:] = (chance[rank:] + chance[:-rank]) / 2
        chance[:rank] /= 2
    return _both_tails(chance, ranks[kept > 0].sum())


def rank_groups(arm: np.ndarray, baseline: np.ndarray) -> float:
    """Two-sided p-value of the Mann-Whitney test, exact with ties too for up to 100 runs, and normal beyond.

    Args:
      arm, baseline: [n1] and [n2]; an infinite value is beyond any number.

    Source: Mann and Whitney (1947), "On a test of whether one of two random variables is stochastically larger".
    """
    if not (arm.size and baseline.size):
        return 1.0
    both = np.concatenate([arm, baseline])
    if both.size > MOST_RUNS:
        from scipy import stats

        finite = _finite(both)
        return float(stats.mannwhitneyu(finite[: arm.size], finite[arm.size :], method='asymptotic').pvalue)
    ranks = _doubled_ranks(both)
    # ways[k, s]: of how many subsets of k runs the ranks add up to s, by the same algorithm.
    ways = np.zeros((arm.size + 1, ranks.sum() + 1))
    ways[0, 0] = 1
    for rank in ranks:
        ways[1:, rank:] += ways[:-1, :-rank].copy()
    return _both_tails(ways[-1] / ways[-1].sum(), ranks[: arm.size].sum())


def _doubled_ranks(values: np.ndarray) -> np.ndarray:
    """Twice the ranks, which are integers: values that are equal share the mean of theirs."""
    below = (values[:, None] > values).sum(axis=1)
    equal = (values[:, None] == values).sum(axis=1)
    return 2 * below + equal + 1


def _both_tails(chance: np.ndarray, observed: int) -> float:
    """Twice the smaller tail, with what was observed, of the probabilities of 0, 1, 2, ..."""
    return float(min(1.0, 2 * min(chance[: observed + 1].sum(), chance[observed:].sum())))


def _finite(values: np.ndarray) -> np.ndarray:
    """The same order and the same ties, without infinities."""
    beyond = 2 * estimates.magnitude(values[np.isfinite(values)]) + 1
    return np.clip(values, -beyond, beyond)


def bootstrap(*groups: np.ndarray, confidence: float, resamples: int = RESAMPLES) -> estimates.ConfidenceInterval:
    """The studentised bootstrap interval of a mean, or of the first group's mean minus the second's.

    With t* = (mean* - mean) / error* of each resample, and q its quantiles, the interval is mean - q(1 - a/2) * error
    to mean - q(a/2) * error. It is the same at every call: the resamples come from a generator with a fixed seed.

    Args:
      groups: one or two of [..., n]; each is resampled by itself. nan for fewer than 4 values in one of them.

    Source: Efron and Tibshirani (1993), "An introduction to the bootstrap", section 12.5; Hall (1988), "Theoretical
    comparison of bootstrap confidence intervals".
    """
    shape = groups[0].shape[:-1]
    if min(group.shape[-1] for group in groups) < FEWEST:
        return estimates.ConfidenceInterval(np.full(shape, np.nan), np.full(shape, np.nan))
    rng = np.random.default_rng(0)
    observed = _mean_and_error(*groups)
    drawn = [group[..., rng.integers(0, group.shape[-1], (resamples, group.shape[-1]))] for group in groups]
    mean, error = _mean_and_error(*drawn)
    away = mean - observed[0][..., None]
    with np.errstate(invalid='ignore', divide='ignore'):
        # A resample that repeats one seed only has no error: it is infinitely far, and 0 / 0 is not far at all.
        ratios = np.where(away == 0, 0.0, away / error)
    tail = (1 - confidence) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail], axis=-1, method='inverted_cdf')
    return estimates.ConfidenceInterval(observed[0] - high * observed[1], observed[0] - low * observed[1])


def _mean_and_error(*groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sign = (1, -1)
    mean = sum(side * group.mean(axis=-1) for side, group in zip(sign, groups, strict=False))
    squares = [estimates.variance(group, estimates.magnitude(group)) / group.shape[-1] for group in groups]
    return mean, np.sqrt(np.sum(squares, axis=0))
