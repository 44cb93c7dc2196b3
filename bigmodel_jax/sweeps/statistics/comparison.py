"""Every arm of a sweep against its baseline: the difference, its interval, its tests and a verdict.

    values = {'layer_norm': {0: 1.93, 1: 1.95, 2: 1.91}, 'rms_norm': {0: 1.90, 1: 1.93, 2: 1.88}}
    found = compare(values, 'layer_norm', direction='lower')
    found['rms_norm'].interval       # of the mean paired difference, rms_norm - layer_norm
    found['rms_norm'].verdict        # 'better by 0.027 (95% 0.012 to 0.041), p = 0.015'

The family is all arms but the baseline: a verdict of 'better' or 'worse' needs p <= 0.05 after Holm's correction, so
that the probability of one or more false verdicts in a sweep is at most 5%. The intervals are those of single arms.

This holds where the paired differences are about symmetric: for normal noise, and for heavy-tailed or skewed noise that
is alike in both arms. Where the noise of the arms is skewed and that of the baseline is ten times smaller, intervals of
5 seeds cover 88%, and 20% of the sweeps have a false verdict; the bootstrap interval covers 94% there.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.evaluate import metric
from bigmodel_jax.sweeps.statistics import designs, estimates, power

# What is found of an arm. 'open': neither better nor worse so far. 'equal': the very same values. 'diverged': a run of
# the arm or of the baseline gave no finite value, so that the mean is that of the other seeds only. 'untested': too few
# seeds for an interval.
Finding = Literal['better', 'worse', 'equal', 'open', 'diverged', 'untested']

PAIRED = designs.Paired()
MOST_DECIMALS = 12
MOST_LISTED = 8  # Seeds that a verdict names.


class PowerAnalysis(NamedTuple):
    """What the seeds can and could show, with power 0.8.

    Attributes:
      level: of one test: 5% divided by the number of arms. This is the strictest step of Holm's correction, so the
        power is at least 0.8 whatever the other arms show.
      detectable: the smallest effect that so many seeds detect, at the noise seen; nan where no noise is known.
      seeds: how many seeds of each arm an effect of the size seen would need at the noise seen; None if over 100,000,
        or if no noise is known. From few seeds both are rough: 5 know the noise within a factor of 0.6 to 2.9.
    """

    level: float
    detectable: float
    seeds: int | None


class PValues(NamedTuple):
    """Two-sided p-values; nan where a test is not defined.

    Attributes:
      t: Student's t-test of the mean difference (a z-test where the noise is known).
      rank: Wilcoxon's signed-rank test of pairs, the Mann-Whitney test of independent runs. A run that diverged counts
        as worse than any number. With n pairs it is never below 2^(1 - n): 5 seeds cannot reach 0.05.
      holm: `t` after Holm's correction over the arms; `rank` takes the place of `t` where the differences do not vary.
    """

    t: float
    rank: float
    holm: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArmComparison(config.Value):
    """One arm against the baseline. Differences are arm minus baseline, in the unit of the metric.

    Attributes:
      arms: how many arms the family has, which Holm's correction counts.
      measured: the seeds, the counts and what was estimated from them.
      diverged: (seeds of the arm, seeds of the baseline) with nan or an infinity. They are not in the difference.
      interval: Student's, of the difference, for this arm alone.
    """

    arm: str
    baseline: str
    direction: metric.Direction
    confidence: float
    arms: int
    measured: designs.MeasuredDifference
    diverged: tuple[tuple[int, ...], tuple[int, ...]]
    interval: estimates.ConfidenceInterval
    p: PValues
    power: PowerAnalysis

    @property
    def difference(self) -> float:
        """Mean of the arm minus mean of the baseline over the seeds that count; nan if there are none."""
        return float(self.measured.estimate.difference) if self.measured.estimate is not None else math.nan

    @property
    def gain(self) -> float:
        """The difference with the sign that makes more of it better."""
        return -self.difference if self.direction == 'lower' else self.difference

    @property
    def gain_interval(self) -> estimates.ConfidenceInterval:
        """The interval of `gain`."""
        low, high = self.interval
        return estimates.ConfidenceInterval(-high, -low) if self.direction == 'lower' else self.interval

    @property
    def finding(self) -> Finding:
        """What is found, in one word."""
        return 'diverged' if any(self.diverged) else self.finding_of_finite

    @property
    def finding_of_finite(self) -> Finding:
        """What is found on the seeds with finite values, whatever the others did."""
        estimate = self.measured.estimate
        if estimate is None or math.isnan(estimate.standard_error):
            return 'untested'
        if estimate.standard_error == 0 and self.difference == 0:
            return 'equal'
        if self.p.holm <= 1 - self.confidence:
            return 'better' if self.gain > 0 else 'worse'
        return 'open'

    @property
    def verdict(self) -> str:
        """What is found, in a sentence."""
        return _verdict(self)


def compare(
    values: Mapping[str, designs.Values],
    baseline: str,
    *,
    direction: metric.Direction,
    design: designs.Design = PAIRED,
    confidence: float = 0.95,
) -> dict[str, ArmComparison]:
    """Every arm but the baseline, against it, in the order of `values`.

    Args:
      values: by arm and seed. Seeds that the arm and the baseline both have are compared; nan and infinities are runs
        that diverged.
      design: how the runs belong together: pair by pair, or not at all.

    Raises:
      InputError: there is no such baseline, or nothing to compare with it, or `confidence` is no probability.
    """
    _check(values, baseline, confidence)
    reference = values[baseline]
    arms = [arm for arm in values if arm != baseline]
    found = {arm: design.measure(values[arm], reference, direction=direction, confidence=confidence) for arm in arms}
    raw = [_p_values(found[arm]) for arm in arms]
    adjusted = holm([t if not math.isnan(t) else rank for t, rank in raw])
    return {
        arm: ArmComparison(
            arm=arm,
            baseline=baseline,
            direction=direction,
            confidence=confidence,
            arms=len(arms),
            measured=found[arm],
            diverged=_diverged(values[arm], reference),
            interval=_interval(found[arm].estimate, confidence),
            p=PValues(t, rank, corrected),
            power=_power(found[arm], (1 - confidence) / len(arms)),
        )
        for arm, (t, rank), corrected in zip(arms, raw, adjusted, strict=True)
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values after Holm's correction for their number m.

    The i-th smallest, counted from 0, becomes the largest over j <= i of (m - j) * p_(j), and at most 1. A nan is a
    hypothesis that was not tested; it is one of the m, and its p is 1.

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    p = np.nan_to_num(np.asarray(p_values, float), nan=1.0)
    order = np.argsort(p, kind='stable')
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate((p.size - np.arange(p.size)) * p[order]), 1)
    return adjusted.tolist()


def _check(values: Mapping[str, designs.Values], baseline: str, confidence: float) -> None:
    if baseline not in values:
        raise config.InputError(f'No arm is called {baseline!r}, the baseline.{config.nearest(baseline, values)}')
    if len(values) < 2:
        raise config.InputError(f'{baseline!r} is the only arm. Add one that is compared with it.')
    if not 0 < confidence < 1:
        raise config.InputError(f'confidence={confidence} is not between 0 and 1. The usual value is 0.95.')


def _diverged(arm: designs.Values, reference: designs.Values) -> tuple[tuple[int, ...], tuple[int, ...]]:
    def seeds(values: designs.Values) -> tuple[int, ...]:
        return tuple(seed for seed in sorted(values) if not math.isfinite(values[seed]))

    return seeds(arm), seeds(reference)


def _p_values(measured: designs.MeasuredDifference) -> tuple[float, float]:
    t = float(measured.estimate.p_value()) if measured.estimate is not None else math.nan
    return t, float(measured.rank_p)


def _interval(estimate: estimates.DifferenceEstimate | None, confidence: float) -> estimates.ConfidenceInterval:
    if estimate is None:
        return estimates.ConfidenceInterval(math.nan, math.nan)
    low, high = estimate.interval(confidence)
    return estimates.ConfidenceInterval(float(low), float(high))


def _power(measured: designs.MeasuredDifference, level: float) -> PowerAnalysis:
    if measured.estimate is None or measured.noise is None:
        return PowerAnalysis(level, math.nan, None)
    detectable = power.detectable(measured.estimate, level=level)
    return PowerAnalysis(
        level, detectable, power.seeds_needed(float(measured.estimate.difference), measured.noise, level=level)
    )


# ---- verdicts as sentences ----------------------------------------------------------------------------------------


def _verdict(found: ArmComparison) -> str:
    """'better by 0.031 (95% 0.012 to 0.050), p = 0.004 after Holm over 4 arms', or what else is found of an arm."""
    sentence = _of_finite(found)
    arm, reference = found.diverged
    if arm or reference:
        others = f'; on the rest: {sentence}' if found.measured.estimate is not None else ''
        sentence = f'diverged on {_seeds(arm)} ({found.baseline} on {_seeds(reference)}){others}'
    left_out = found.measured.left_out
    return f'{sentence}; not compared, as only one of the two has it: {_seeds(left_out)}' if left_out else sentence


def _of_finite(found: ArmComparison) -> str:
    measured, finding = found.measured, found.finding_of_finite
    if measured.estimate is None:
        return f'nothing to compare with {found.baseline}'
    if finding == 'equal':
        return f'equal on {_counts(measured.counts)}'
    side = 'better by ' if found.gain > 0 else 'worse by ' if found.gain < 0 else ''
    if finding == 'untested':
        return f'{side}{abs(found.gain):.3g} on {_counts(measured.counts)}: no interval'
    size = f'{side}{_size(found)}, {_p(found)}'
    if finding in ('better', 'worse'):
        return size
    low, high = found.interval
    return f'{"not settled" if low > 0 or high < 0 else "no difference found"}: {size}; {_outlook(found)}'


def _size(found: ArmComparison) -> str:
    """'0.031 (95% 0.012 to 0.050)', to two digits of half the interval's width."""
    low, high = sorted(math.copysign(1, found.gain) * end for end in found.gain_interval)
    half = (high - low) / 2
    if half == 0:
        return f'{abs(found.gain):.3g} (the same on every seed)'
    digits = min(max(1 - math.floor(math.log10(half)), 0), MOST_DECIMALS)
    percent = f'{100 * found.confidence:g}%'
    return f'{abs(found.gain):.{digits}f} ({percent} {low:.{digits}f} to {high:.{digits}f})'


def _p(found: ArmComparison) -> str:
    """'p = 0.031, 0.062 after Holm over 2 arms' where Holm's correction changes the verdict; otherwise its p alone."""
    alone = found.p.rank if math.isnan(found.p.t) else found.p.t
    test = ' by ranks' if math.isnan(found.p.t) else ''
    if found.arms == 1:
        return f'{_probability(found.p.holm)}{test}'
    before = f'{_probability(alone)} alone, ' if alone <= 1 - found.confidence < found.p.holm else ''
    return f'{before}{_probability(found.p.holm)}{test} after Holm over {found.arms} arms'


def _probability(p: float) -> str:
    return f'p = {p:.2g}' if p >= 1e-4 else 'p < 0.0001'


def _outlook(found: ArmComparison) -> str:
    """'5 seeds detect 0.05, and 14 would settle an effect of the size seen'."""
    detectable, seeds = found.power.detectable, found.power.seeds
    if not detectable > 0 or math.isinf(detectable):
        return 'the seeds do not vary, so that their noise is not known'
    needed = 'over 100,000' if seeds is None else f'{seeds:,}'
    seen = f'{needed} would settle an effect of the size seen'
    return f'{_counts(found.measured.counts)} detect {detectable:.2g}, and {seen}'


def _counts(counts: tuple[int, int]) -> str:
    arm, reference = counts
    if arm != reference:
        return f'{arm} and {reference} runs'
    return '1 seed' if arm == 1 else f'{arm} seeds'


def _seeds(seeds: Sequence[int]) -> str:
    if not seeds:
        return 'none'
    listed = ', '.join(map(str, seeds[:MOST_LISTED])) + (', ...' if len(seeds) > MOST_LISTED else '')
    return f'seed {listed}' if len(seeds) == 1 else f'{len(seeds)} seeds ({listed})'
