"""Successive halving that stops an arm only when its interval says that it cannot win.

At a few looks during training, every arm is compared with the best one on the seeds that both have. Being worse at a
look is not enough: curves cross, above all where the learning rate is still high. So an arm is allowed to catch up a
share of what the best arm is expected to gain until the end T, extrapolated from its own last steps:

    behind(seed) = arm(t) - best(t) - catch_up * (T - t) * (best(3t/4) - best(t)) / (t/4)

The arm is stopped if the mean of `behind` over the seeds is above 0 by Student's one-sided test, at a level of

    error * ((t/T)^2 - (t'/T)^2) / (arms - 1),    with t' the look before.

The levels of all looks and of all the arms that can be the best at a look add up to less than `error`. So, whatever the
correlation between looks, the arm that ends best is stopped with at most that probability, as long as no arm catches up
more than its allowance. The square spends little at early looks, which say the least about the end.

The rule is a pure function of the curves: an arm that was stopped can be continued, and is judged the same again on the
same steps. The default of `catch_up` comes from 271 public runs (tests/sweeps/statistics/data): of the arms that were
behind, 95% closed less than 0.08 of the expected gain after a quarter of training, and less than 0.25 after 90%. In
replays of those runs, the arm that ends best was stopped in at most 1% of the draws; with catch_up = 0, in 19 to 93%.

Source: Jamieson and Talwalkar (2016), "Non-stochastic best arm identification and hyperparameter optimization", for
successive halving; Lan and DeMets (1983), "Discrete sequential boundaries for clinical trials", for spending the error;
Kim and DeMets (1987), "Design and analysis of group sequential tests based on the type I error spending rate function",
for spending it by a power of time.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.evaluate import metric
from bigmodel_jax.sweeps.statistics import estimates

Curves = Mapping[str, Mapping[int, Mapping[int, float]]]  # arm -> seed -> step -> value.
RECENT = 0.25  # The part of the steps so far over which the best arm's progress is measured.


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuccessiveHalving:
    """When arms are compared, and how sure it must be that one cannot win.

    Attributes:
      looks: when, as increasing fractions of all steps.
      error: the probability with which the best arm may be stopped.
      catch_up: the share of the best arm's expected further gain by which another arm may still catch up.
    """

    looks: tuple[float, ...] = (0.125, 0.25, 0.5, 0.75)
    error: float = 0.05
    catch_up: float = 0.25

    def __post_init__(self) -> None:
        edges = (0.0, *self.looks, 1.0)
        if not self.looks or any(late <= early for early, late in itertools.pairwise(edges)):
            raise config.InputError(f'looks={self.looks} must be increasing fractions between 0 and 1: (0.25, 0.5)')
        if not 0 < self.error < 1:
            raise config.InputError(f'error={self.error} is not between 0 and 1. The usual value is 0.05.')
        if not self.catch_up >= 0:
            raise config.InputError(f'catch_up={self.catch_up} is negative. 0 lets no arm catch up.')

    def level(self, look: int, arms: int) -> float:
        """The level of one arm's test at a look, counted from 0."""
        before = self.looks[look - 1] if look else 0.0
        return self.error * (self.looks[look] ** 2 - before**2) / max(arms - 1, 1)


class EarlyStop(NamedTuple):
    """Why an arm is stopped.

    Attributes:
      step: the step of the comparison.
      against: the arm that was best there; None if this one diverged on every seed.
      gap: mean difference at that step, with the sign that makes more of it worse.
      allowance: how much of it the arm could still have caught up.
      level: of the one-sided test.
      bound: the lower end of the one-sided interval of gap - allowance; above 0.
      runs: how many runs of the arm are stopped.
    """

    step: int
    against: str | None
    gap: float
    allowance: float
    level: float
    bound: float
    runs: int

    def saved_steps(self, total_steps: int) -> int:
        """How many steps are not run."""
        return self.runs * (total_steps - self.step)

    def __str__(self) -> str:
        if self.against is None:
            return f'diverged on every seed by step {self.step:,}'
        sure = f'{100 * (1 - self.level):.4g}%'
        return (
            f'at step {self.step:,} worse than {self.against} by {self.gap:.3g}, of which it could catch up '
            f'{self.allowance:.2g}; with {sure} confidence at least {self.bound:.2g} are left'
        )


class HeldLooks(NamedTuple):
    """What came of the looks that could be held so far.

    Attributes:
      stops: the arms that are to be stopped, and why.
      looks: how many looks were held: every arm that was still in play had reached them.
    """

    stops: dict[str, EarlyStop]
    looks: int


def early_stops(
    curves: Curves, rule: SuccessiveHalving, *, total_steps: int, direction: metric.Direction
) -> dict[str, EarlyStop]:
    """The arms that are to be stopped, and why; see held_looks()."""
    return held_looks(curves, rule, total_steps=total_steps, direction=direction).stops


def held_looks(curves: Curves, rule: SuccessiveHalving, *, total_steps: int, direction: metric.Direction) -> HeldLooks:
    """The looks that can be held, one after another, and the arms that are to be stopped at them.

    A look is held when every arm that is still in play has reached it with each of its seeds. A curve that ends in nan
    or an infinity has diverged, and counts as having reached every later step.

    Args:
      curves: what was measured so far. To be stopped, an arm needs 2 seeds in common with the best one. A look needs a
        step that all arms measured, and one a quarter of the steps earlier; without, it is left out.
      total_steps: of a whole run.
    """
    stops: dict[str, EarlyStop] = {}
    looks = 0
    for look, fraction in enumerate(rule.looks):
        limit = fraction * total_steps
        playing = {arm: curves[arm] for arm in curves if arm not in stops}
        if not all(seeds and all(_reached(curve, limit) for curve in seeds.values()) for seeds in playing.values()):
            break
        gone = [arm for arm, seeds in playing.items() if all(_diverged(curve, limit) for curve in seeds.values())]
        for arm in gone:
            last = max(min(max(curve), int(limit)) for curve in playing[arm].values())
            stops[arm] = EarlyStop(last, None, np.nan, np.nan, 0.0, np.nan, len(playing.pop(arm)))
        stops |= _behind(playing, rule, rule.level(look, len(curves)), _Look(limit, total_steps, direction))
        looks = look + 1
    return HeldLooks(stops, looks)


class _Look(NamedTuple):
    limit: float
    total_steps: int
    direction: metric.Direction


def _reached(curve: Mapping[int, float], limit: float) -> bool:
    """Whether a curve goes as far as `limit`, or ended before by diverging."""
    return bool(curve) and (max(curve) >= limit or not np.isfinite(curve[max(curve)]))


def _diverged(curve: Mapping[int, float], limit: float) -> bool:
    """Whether the last value up to `limit` is not finite."""
    steps = [step for step in curve if step <= limit]
    return bool(steps) and not np.isfinite(curve[max(steps)])


def _behind(playing: Curves, rule: SuccessiveHalving, level: float, look: _Look) -> dict[str, EarlyStop]:
    """The arms that are stopped at one look."""
    whole = {arm: seeds for arm, seeds in playing.items() if not any(_diverged(c, look.limit) for c in seeds.values())}
    shared = sorted(set.intersection(*(set(seeds) for seeds in whole.values()))) if whole else []
    steps = _common_steps(playing, look.limit)
    if not shared or steps is None:
        return {}
    start, step = steps
    sign = 1 if look.direction == 'lower' else -1

    def values(arm: str, seeds: list[int], at: int) -> np.ndarray:
        return sign * np.array([playing[arm][seed][at] for seed in seeds])

    # An arm of which a run diverged is not the best, whatever its other runs do.
    best = min(whole, key=lambda arm: values(arm, shared, step).mean())
    stops = {}
    for arm in playing:
        both = playing[arm].keys() & playing[best].keys()
        seeds = sorted(seed for seed in both if not _diverged(playing[arm][seed], look.limit))
        if arm == best or len(seeds) < 2:
            continue
        progress = np.maximum(values(best, seeds, start) - values(best, seeds, step), 0) / (step - start)
        allowance = rule.catch_up * progress * (look.total_steps - step)
        gap = values(arm, seeds, step) - values(best, seeds, step)
        estimate = estimates.paired(gap, allowance)
        bound = float(estimate.difference - estimates.critical_value(2 * level, estimate.dof) * estimate.standard_error)
        # Differences that do not vary at all show no noise, and nothing can be said.
        if bound > 0 and estimate.standard_error > 0:
            runs = len(playing[arm])
            stops[arm] = EarlyStop(step, best, float(gap.mean()), float(allowance.mean()), level, bound, runs)
    return stops


def _common_steps(playing: Curves, limit: float) -> tuple[int, int] | None:
    """The last step up to `limit` that all runs but those that diverged measured, and one a quarter of it earlier."""
    measured = [
        {step for step, value in curve.items() if step <= limit and np.isfinite(value)}
        for seeds in playing.values()
        for curve in seeds.values()
        if not _diverged(curve, limit)
    ]
    common = set.intersection(*measured) if measured else set()
    earlier = [step for step in common if step <= (1 - RECENT) * max(common)]
    return (max(earlier), max(common)) if earlier else None
