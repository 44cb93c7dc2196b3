"""How the runs of an arm and of the baseline belong together: pair by pair, or not at all."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.evaluate import metric
from bigmodel_jax.sweeps.statistics import estimates, nonparametric, power

Values = Mapping[int, float]  # The metric by seed; nan or an infinity where the run diverged.


class PairingGain(NamedTuple):
    """What pairing is worth.

    Attributes:
      paired: variance of the difference of two runs with the same seed.
      unpaired: variance of the difference of two runs with different seeds: the sum of the two variances.
    """

    paired: float
    unpaired: float

    @property
    def ratio(self) -> float:
        """How many times as many seeds an unpaired comparison would need for the same precision; nan if undefined."""
        return self.unpaired / self.paired if self.paired > 0 else float('nan')


class MeasuredDifference(NamedTuple):
    """What a design makes of two sets of values, those that diverged left out but for the rank test.

    Attributes:
      seeds: those whose values enter the difference; of independent runs, the arm's.
      counts: how many values of the arm and of the baseline enter it.
      left_out: seeds that only one of the two has, and that are not used for that reason.
      estimate: None without a value on both sides.
      noise: None where so few seeds do not show it.
    """

    seeds: tuple[int, ...]
    counts: tuple[int, int]
    left_out: tuple[int, ...]
    estimate: estimates.DifferenceEstimate | None
    noise: power.Noise | None
    bootstrap: estimates.ConfidenceInterval
    rank_p: float
    pairing: PairingGain | None


class Design(Protocol):
    """How runs belong together."""

    def measure(
        self, arm: Values, baseline: Values, *, direction: metric.Direction, confidence: float
    ) -> MeasuredDifference:
        """The difference of the two, with all that depends on how they belong together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paired:
    """Runs with the same seed share initial values and batches, and only their difference counts.

    Attributes:
      known_sd: standard deviation of the difference of two runs with the same seed, where it is known from many earlier
        ones: a z-test instead of a t-test.
    """

    known_sd: float | None = None

    def __post_init__(self) -> None:
        _check_sd(self.known_sd)

    def measure(
        self, arm: Values, baseline: Values, *, direction: metric.Direction, confidence: float
    ) -> MeasuredDifference:
        """The mean difference over the seeds that both have."""
        shared = sorted(arm.keys() & baseline.keys())
        x, y = (np.array([values[seed] for seed in shared], float) for values in (arm, baseline))
        finite = np.isfinite(x) & np.isfinite(y)
        a, b = x[finite], y[finite]
        with np.errstate(invalid='ignore'):
            # Where both diverged, neither is better: inf - inf counts as 0.
            ranked = np.nan_to_num(worst(x, direction) - worst(y, direction), nan=0.0, posinf=np.inf, neginf=-np.inf)
        estimate = estimates.paired(a, b, self.known_sd) if a.size else None
        return MeasuredDifference(
            seeds=tuple(seed for seed, kept in zip(shared, finite, strict=True) if kept),
            counts=(a.size, a.size),
            left_out=tuple(sorted(arm.keys() ^ baseline.keys())),
            estimate=estimate,
            noise=_noise(estimate, a.size, self.known_sd),
            bootstrap=_bootstrap(estimate, a - b, confidence=confidence),
            rank_p=nonparametric.rank_differences(ranked) if x.size else np.nan,
            pairing=_gain(a, b) if a.size > 1 else None,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Independent:
    """Runs that share nothing, whatever their seeds are called: other batches, another code base, published results.

    Attributes:
      known_sd: standard deviation of one run, where it is known from many earlier ones: a z-test instead of Welch's.
    """

    known_sd: float | None = None

    def __post_init__(self) -> None:
        _check_sd(self.known_sd)

    def measure(
        self, arm: Values, baseline: Values, *, direction: metric.Direction, confidence: float
    ) -> MeasuredDifference:
        """The difference of the two means."""
        x, y = (np.array([values[seed] for seed in sorted(values)], float) for values in (arm, baseline))
        a, b = x[np.isfinite(x)], y[np.isfinite(y)]
        estimate = estimates.independent(a, b, self.known_sd) if a.size and b.size else None
        return MeasuredDifference(
            seeds=tuple(seed for seed in sorted(arm) if np.isfinite(arm[seed])),
            counts=(a.size, b.size),
            left_out=(),
            estimate=estimate,
            noise=independent_noise(a, b) if self.known_sd is None else power.Noise(self.known_sd * np.sqrt(2), np.inf),
            bootstrap=_bootstrap(estimate, a, b, confidence=confidence),
            rank_p=nonparametric.rank_groups(worst(x, direction), worst(y, direction)),
            pairing=None,
        )


def independent_noise(arm: np.ndarray, baseline: np.ndarray) -> power.Noise | None:
    """The noise of the difference of two means of n independent runs each, from [n1] and [n2] runs.

    Its degrees of freedom are those of Welch for n runs each, (n - 1) (s1^2 + s2^2)^2 / (s1^4 + s2^4). None if one has
    fewer than 2 runs.
    """
    if min(arm.size, baseline.size) < 2:
        return None
    a, b = arm.var(ddof=1), baseline.var(ddof=1)
    return power.Noise(np.sqrt(a + b), (a + b) ** 2 / (a**2 + b**2) if a + b > 0 else 1.0)


def worst(values: np.ndarray, direction: metric.Direction) -> np.ndarray:
    """The values, with an infinity on the worse side for each that is not finite: worse than any number."""
    return np.where(np.isfinite(values), values, np.inf if direction == 'lower' else -np.inf)


def _check_sd(known_sd: float | None) -> None:
    if known_sd is not None and not (np.isfinite(known_sd) and known_sd > 0):
        advice = 'Leave it out to estimate it from the seeds.'
        raise config.InputError(f'known_sd={known_sd} is not a positive number. {advice}')


def _noise(estimate: estimates.DifferenceEstimate | None, n: int, known_sd: float | None) -> power.Noise | None:
    if known_sd is not None:
        return power.Noise(known_sd, np.inf)
    return power.Noise(float(estimate.standard_error) * np.sqrt(n)) if estimate is not None and n > 1 else None


def _gain(arm: np.ndarray, baseline: np.ndarray) -> PairingGain:
    paired = estimates.variance(arm - baseline, estimates.magnitude(arm, baseline))
    return PairingGain(float(paired), float(arm.var(ddof=1) + baseline.var(ddof=1)))


def _bootstrap(
    estimate: estimates.DifferenceEstimate | None, *groups: np.ndarray, confidence: float
) -> estimates.ConfidenceInterval:
    if estimate is None:
        return estimates.ConfidenceInterval(np.nan, np.nan)
    if estimate.standard_error == 0:
        return estimates.ConfidenceInterval(float(estimate.difference), float(estimate.difference))
    low, high = nonparametric.bootstrap(*groups, confidence=confidence)
    return estimates.ConfidenceInterval(float(low), float(high))
