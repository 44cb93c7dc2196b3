"""How small an effect so many seeds detect, and how many seeds an effect of a given size needs.

The power of a two-sided t-test is the probability that |t| exceeds its critical value c when t follows the noncentral
t-distribution: t = (Z + effect / standard error) / S, with Z normal and S the estimated noise divided by the true one.
Given S, that is Phi(d - c S) + Phi(-d - c S), with d the noncentrality; it is integrated over the distribution of S.

Source: Cohen (1988), "Statistical power analysis for the behavioral sciences", chapter 2.
"""

from typing import NamedTuple

import numpy as np

from bigmodel_jax.sweeps.statistics import estimates

POWER = 0.8  # The probability with which an effect of the stated size is found; Cohen's convention.
MOST_SEEDS = 100_000
# Gauss and Legendre's nodes on 0 to 1: the integral is right to 5e-6.
_NODES, _DOUBLE_WEIGHTS = np.polynomial.legendre.leggauss(200)
QUANTILES, WEIGHTS = (_NODES + 1) / 2, _DOUBLE_WEIGHTS / 2


class Noise(NamedTuple):
    """The noise of a difference of means of n seeds each.

    Attributes:
      sd: the standard error is sd / sqrt(n).
      dof_ratio: the degrees of freedom of the estimated noise, as a multiple of n - 1; infinite for known noise.
    """

    sd: float
    dof_ratio: float = 1.0


def power(noncentrality: float, dof: float, *, level: float, noise_dof: float | None = None) -> float:
    """The probability that a two-sided t-test at `level` finds an effect.

    Args:
      noncentrality: effect / standard error.
      dof: the degrees of freedom that the critical value is taken at; infinite for the normal.
      noise_dof: those of the estimated standard error, if they are others.
    """
    from scipy import special

    critical = estimates.critical_value(level, dof)
    deviation = _relative_deviations(dof if noise_dof is None else noise_dof)
    above = special.ndtr(noncentrality - critical * deviation)
    below = special.ndtr(-noncentrality - critical * deviation)
    return float(WEIGHTS @ (above + below))


def _relative_deviations(dof: float) -> np.ndarray:
    """Estimated noise divided by true noise at the QUANTILES: sqrt(chi-squared(dof) / dof)."""
    from scipy import special

    if np.isinf(dof):
        return np.ones_like(QUANTILES)
    return np.sqrt(special.gammaincinv(dof / 2, QUANTILES) / (dof / 2))


def detectable(estimate: estimates.DifferenceEstimate, *, level: float) -> float:
    """The smallest effect that a test at `level` finds with power 0.8, for the standard error of `estimate`.

    It is infinite where the standard error is not known, and 0 where it is 0.
    """
    from scipy import optimize

    error, dof = float(estimate.standard_error), float(estimate.dof)
    if not np.isfinite(error) or dof < 1:
        return np.inf
    noise_dof = float(estimate.noise_dof)

    def missing(ratio: float) -> float:
        return power(ratio, dof, level=level, noise_dof=noise_dof) - POWER

    high = 2.0
    while missing(high) < 0:
        high *= 2
    return error * float(optimize.brentq(missing, 0.0, high))


def seeds_needed(effect: float, noise: Noise, *, level: float) -> int | None:
    """How many seeds of each arm find an effect with power 0.8.

    It is None if that takes over 100,000, or if the effect or the noise is 0.
    """
    if not (noise.sd > 0 and effect):
        return None

    def enough(n: int) -> bool:
        known = np.isinf(noise.dof_ratio)
        dof, noise_dof = (np.inf, np.inf) if known else (n - 1, noise.dof_ratio * (n - 1))
        return power(abs(effect) * np.sqrt(n) / noise.sd, dof, level=level, noise_dof=noise_dof) >= POWER

    low, high = (0 if np.isinf(noise.dof_ratio) else 1), MOST_SEEDS
    if not enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
