"""Simulated sweeps with planted and null effects: how often intervals cover them, and how often a verdict is false."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

from bigmodel_jax.sweeps.statistics import estimates, nonparametric

Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]  # Of mean 0.


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal."""
    return rng.normal(size=shape)


def heavy_tailed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Student's t with 3 degrees of freedom: some seeds are far off on either side."""
    return rng.standard_t(3, size=shape)


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Exponential: some seeds are much worse. The difference of two such arms is symmetric."""
    return rng.exponential(size=shape) - 1


def skewed_arms_only(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Exponential in the arms, and a tenth of that in the baseline: the differences themselves are skewed."""
    noise = skewed(rng, shape)
    noise[:, 0] /= 10
    return noise


NOISES: tuple[Noise, ...] = (normal, heavy_tailed, skewed, skewed_arms_only)
# In units of the noise of one run: two arms without an effect, a small one and a large one.
PLANTED = np.array([0.0, 0.0, 0.5, -2.0])


class Rates(NamedTuple):
    """Of many simulated sweeps.

    Attributes:
      coverage, bootstrap: the parts of the intervals that contain the true effect: Student's, and the bootstrap's.
      false_of_nulls: the part of the sweeps in which an arm was called different, where none has an effect.
      false_of_mixed: the same where half of the arms have an effect.
      found: the part of the large effects that was found.
    """

    coverage: float
    bootstrap: float
    false_of_nulls: float
    false_of_mixed: float
    found: float


def draw(noise: Noise, effects: np.ndarray, *, sweeps: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """(arms, baseline), [sweeps, arms, seeds] and [sweeps, 1, seeds]; the seeds differ by three times the noise."""
    rng = np.random.default_rng(seeds)
    shared = 3 * rng.normal(size=(sweeps, 1, seeds))
    values = noise(rng, (sweeps, effects.size + 1, seeds)) + shared
    return values[:, 1:] + effects[:, None], values[:, :1]


def rates(noise: Noise, *, sweeps: int, seeds: int, resamples: int = 499) -> Rates:
    """The rates of paired comparisons of four arms with a baseline."""
    arms, baseline = draw(noise, PLANTED, sweeps=sweeps, seeds=seeds)
    estimate = estimates.paired(arms, np.broadcast_to(baseline, arms.shape))
    first = (arms - baseline)[: min(sweeps, 1_000), 0]
    nulls = estimates.paired(arms - PLANTED[:, None], np.broadcast_to(baseline, arms.shape))
    mixed_p, null_p = corrected(estimate.p_value()), corrected(nulls.p_value())
    return Rates(
        coverage=covers(estimate.interval(0.95), PLANTED),
        bootstrap=covers(nonparametric.bootstrap(first, confidence=0.95, resamples=resamples), PLANTED[0]),
        false_of_nulls=float((null_p <= 0.05).any(axis=1).mean()),
        false_of_mixed=float((mixed_p[:, PLANTED == 0] <= 0.05).any(axis=1).mean()),
        found=float((mixed_p[:, -1] <= 0.05).mean()),
    )


def covers(interval: estimates.ConfidenceInterval, truth: np.ndarray) -> float:
    """The part of the intervals that contain the truth; nan where there are no intervals."""
    if np.isnan(interval.low).all():
        return float('nan')
    return float(np.mean((interval.low <= truth) & (truth <= interval.high)))


def bca_covers(noise: Noise, *, comparisons: int, seeds: int) -> float:
    """The part of SciPy's BCa bootstrap intervals that contain the true effect."""
    arms, baseline = draw(noise, PLANTED[:1], sweeps=comparisons, seeds=seeds)
    rng = np.random.default_rng(0)
    options = {'axis': -1, 'n_resamples': 499, 'method': 'BCa', 'rng': rng}
    low, high = stats.bootstrap(((arms - baseline)[:, 0],), np.mean, **options).confidence_interval
    return float(np.mean((low <= 0) & (high >= 0)))


def corrected(p_values: np.ndarray) -> np.ndarray:
    """Holm's correction of each row of [sweeps, arms], as comparison.holm() makes it of one."""
    order = np.argsort(p_values, axis=1)
    factors = p_values.shape[1] - np.arange(p_values.shape[1])
    ordered = np.maximum.accumulate(factors * np.take_along_axis(p_values, order, axis=1), axis=1)
    return np.minimum(np.take_along_axis(ordered, np.argsort(order, axis=1), axis=1), 1)
