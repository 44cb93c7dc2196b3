"""A difference of means, its interval and its p-value: Student's t, or the normal where the noise is known.

Every function takes arrays whose last axis runs over seeds and gives one estimate for each of the leading ones, so that
thousands of simulated sweeps are judged at once.
"""

from typing import Any, NamedTuple

import numpy as np

# A standard deviation below so many units in the last place of the values is rounding, and counts as zero.
ROUNDING = 16


class ConfidenceInterval(NamedTuple):
    """Both ends of an interval, in the unit of the metric; nan where it is not defined."""

    low: Any  # float, or an array of them.
    high: Any


class DifferenceEstimate(NamedTuple):
    """A difference of two means and how well it is known; floats, or arrays of one value for each comparison.

    Attributes:
      difference: mean of the arm minus mean of the baseline.
      standard_error: of the difference; 0 where the values do not vary, nan where one seed cannot say it.
      dof: degrees of freedom of the test and of the interval; infinite where the noise is known.
      noise_dof: degrees of freedom of the estimated variance itself; more than `dof` where `dof` is a lower bound.
    """

    difference: Any
    standard_error: Any
    dof: Any
    noise_dof: Any

    def interval(self, confidence: float) -> ConfidenceInterval:
        """Student's interval, difference -+ t(dof) * standard error."""
        half = critical_value(1 - confidence, self.dof) * self.standard_error
        return ConfidenceInterval(self.difference - half, self.difference + half)

    def p_value(self) -> Any:
        """Two-sided p-value of Student's test that the difference is 0; nan where the standard error is 0 or nan."""
        from scipy import special

        error = np.where(np.asarray(self.standard_error) > 0, self.standard_error, np.nan)
        return 2 * special.stdtr(self.dof, -np.abs(self.difference) / error)


def critical_value(level: Any, dof: Any) -> Any:
    """The value that |t| exceeds with probability `level` under the null hypothesis; nan for less than 1 dof."""
    from scipy import special  # Takes over a second to import, which other commands need not wait for.

    dof = np.where(np.asarray(dof) >= 1, dof, np.nan)
    return np.where(np.isinf(dof), -special.ndtri(level / 2), special.stdtrit(dof, 1 - level / 2))


def variance(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Unbiased variance over the last axis; nan for one value, and exactly 0 where the values differ by rounding only.

    Args:
      values: [..., n].
      scale: [...], the magnitude of the numbers that the values were computed from, which bounds their rounding.
    """
    if values.shape[-1] < 2:
        return np.full(values.shape[:-1], np.nan)
    found = values.var(axis=-1, ddof=1)
    return np.where(found > (ROUNDING * np.spacing(scale)) ** 2, found, 0.0)


def magnitude(*values: np.ndarray) -> np.ndarray:
    """[...]: the largest absolute value over the last axis of every argument."""
    return np.max([np.abs(each).max(axis=-1, initial=0.0) for each in values], axis=0)


def paired(arm: np.ndarray, baseline: np.ndarray, known_sd: float | None = None) -> DifferenceEstimate:
    """The mean difference over seeds that both have: mean(d) -+ t(n - 1) * sd(d) / sqrt(n), with d = arm - baseline.

    Args:
      arm, baseline: [..., n], the same seeds in the same order.
      known_sd: standard deviation of d, if it is known from elsewhere.

    Source: Student (1908), "The probable error of a mean".
    """
    n = arm.shape[-1]
    differences = arm - baseline
    spread = variance(differences, magnitude(arm, baseline)) if known_sd is None else known_sd**2
    dof = n - 1 if known_sd is None else np.inf
    return DifferenceEstimate(differences.mean(axis=-1), np.sqrt(spread / n) + np.zeros(arm.shape[:-1]), dof, dof)


def independent(arm: np.ndarray, baseline: np.ndarray, known_sd: float | None = None) -> DifferenceEstimate:
    """The difference of the means of runs that share nothing: Welch's statistic, with Hsu's degrees of freedom.

    The standard error is sqrt(s1^2/n1 + s2^2/n2). Its degrees of freedom as Welch approximates them,

        (s1^2/n1 + s2^2/n2)^2 / (s1^4/(n1^2 (n1 - 1)) + s2^4/(n2^2 (n2 - 1))),

    let the test exceed its level for few seeds: halves of one set of 8 to 17 real seeds were called different in up to
    5.9% of the splits. min(n1, n2) - 1 is a lower bound of that number, and with it the test keeps its level for normal
    noise whatever the two variances are (Mickey and Brown, 1966); 95% intervals cover 95% or more.

    Args:
      arm, baseline: [..., n1] and [..., n2].
      known_sd: standard deviation of one run, if it is known from elsewhere.

    Source: Welch (1947), "The generalization of Student's problem when several different population variances are
    involved"; Hsu (1938), "Contribution to the theory of Student's t-test as applied to the problem of two samples".
    """
    n1, n2 = arm.shape[-1], baseline.shape[-1]
    if known_sd is not None:
        error = np.full(arm.shape[:-1], known_sd * np.sqrt(1 / n1 + 1 / n2))
        return DifferenceEstimate(arm.mean(axis=-1) - baseline.mean(axis=-1), error, np.inf, np.inf)
    a, b = variance(arm, magnitude(arm)) / n1, variance(baseline, magnitude(baseline)) / n2
    with np.errstate(invalid='ignore', divide='ignore'):
        noise_dof = (a + b) ** 2 / (a**2 / (n1 - 1) + b**2 / (n2 - 1))
    return DifferenceEstimate(arm.mean(axis=-1) - baseline.mean(axis=-1), np.sqrt(a + b), min(n1, n2) - 1, noise_dof)
