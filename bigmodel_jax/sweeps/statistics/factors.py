"""What each factor of a grid does: main effects, two-way interactions and sensitivity curves, with intervals.

The model of a grid is linear, with the seed as a block, so that what the runs of one seed share is no noise:

    y = mean + sum over factors a[f, level] + sum over pairs b[f, g, level, level] + c[seed] + noise

fitted by least squares; every effect is a contrast of its coefficients, w beta, with standard error
s sqrt(w (X'X)^+ w'), s^2 = RSS / (N - rank X). Effects are coded so that they add up to 0 over the levels of a factor:
a main effect is averaged over the levels of the other factors with equal weights, however many runs each cell has.
Interactions of three factors and more are not in the model; where there are any, they widen the intervals.

Source: Searle, Speed and Milliken (1980), "Population marginal means in the linear model"; Montgomery, "Design and
analysis of experiments", chapters 4 and 5.
"""

import dataclasses
import itertools
from collections.abc import Hashable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.sweeps.statistics import comparison, designs, estimates

Levels = Mapping[str, Mapping[str, Hashable]]  # arm -> factor -> level.
ESTIMABLE = 1e-8


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorEffect(config.Value):
    """A main effect of one factor, or an interaction of two.

    Attributes:
      factors: one name, or two.
      levels, reference: of each factor a level, and the one it is compared with: the first among the arms.
      estimate: of one factor, the mean at `levels` minus the mean at `reference`. Of two, the effect of the first at
        the level of the second minus that at its reference. nan where the runs cannot tell it from other effects.
      interval: Student's; nan where no degrees of freedom are left.
      p: of Student's test that the effect is 0.
      holm: the same after Holm's correction over all effects of the grid.
    """

    factors: tuple[str, ...]
    levels: tuple[Hashable, ...]
    reference: tuple[Hashable, ...]
    estimate: estimates.DifferenceEstimate
    interval: estimates.ConfidenceInterval
    p: float
    holm: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridEffects(config.Value):
    """What the factors of a grid do.

    Attributes:
      main: of each factor, one effect for each level but the first.
      interactions: of each pair of factors.
      noise_sd: standard deviation of one run around the model; nan where no degrees of freedom are left.
      dof: how many there are.
      diverged: (arm, seed) of the runs without a finite value, which are left out.
    """

    main: tuple[FactorEffect, ...]
    interactions: tuple[FactorEffect, ...]
    noise_sd: float
    dof: int
    diverged: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class SensitivityPoint(config.Value):
    """The metric at one value of a numeric field.

    Attributes:
      interval: Student's, of the mean; nan for fewer than 2 seeds.
      count: how many seeds are in the mean.
      diverged: seeds without a finite value, which are not.
    """

    value: float
    mean: float
    interval: estimates.ConfidenceInterval
    count: int
    diverged: tuple[int, ...]


def grid_effects(values: Mapping[str, designs.Values], levels: Levels, *, confidence: float = 0.95) -> GridEffects:
    """Main effects and two-way interactions of a grid; cells and seeds may be missing.

    Args:
      values: the metric by arm and seed.
      levels: of each arm, its level of every factor.

    Raises:
      InputError: an arm has no levels or other factors than the first, or a factor has one level only.
    """
    coding = _Coding.of(values, levels)
    runs = [(arm, seed, value) for arm, seeds in values.items() for seed, value in seeds.items()]
    finite = [run for run in runs if np.isfinite(run[2])]
    if not finite:
        raise config.InputError('No run of the grid has a finite value.')
    blocks = _sum_to_zero(sorted({seed for _, seed, _ in finite}))
    design = np.array([np.r_[coding.row(levels[arm]), blocks[seed]] for arm, seed, _ in finite])
    fit = _Fit.of(design, np.array([value for *_, value in finite]))
    contrasts = list(coding.contrasts())
    found = [fit.estimate(np.r_[weights, np.zeros(design.shape[1] - weights.size)]) for *_, weights in contrasts]
    p_values = [float(estimate.p_value()) for estimate in found]
    effects = tuple(
        FactorEffect(
            factors=factors,
            levels=at,
            reference=reference,
            estimate=estimate,
            interval=estimates.ConfidenceInterval(*map(float, estimate.interval(confidence))),
            p=p,
            holm=holm,
        )
        for (factors, at, reference, _), estimate, p, holm in zip(
            contrasts, found, p_values, comparison.holm(p_values), strict=True
        )
    )
    return GridEffects(
        main=tuple(effect for effect in effects if len(effect.factors) == 1),
        interactions=tuple(effect for effect in effects if len(effect.factors) == 2),
        noise_sd=float(np.sqrt(fit.variance)),
        dof=fit.dof,
        diverged=tuple((arm, seed) for arm, seed, value in runs if not np.isfinite(value)),
    )


def sensitivity(values: Mapping[float, designs.Values], *, confidence: float = 0.95) -> tuple[SensitivityPoint, ...]:
    """The curve of a metric over a numeric field, in the order of its values.

    The intervals are those of the single means. Two points are compared by comparison.compare(), which pairs the seeds.
    """
    points = []
    for value in sorted(values):
        diverged = tuple(sorted(seed for seed, result in values[value].items() if not np.isfinite(result)))
        kept = np.array([result for seed, result in sorted(values[value].items()) if seed not in diverged])
        mean, interval = np.nan, estimates.ConfidenceInterval(np.nan, np.nan)
        if kept.size:
            estimate = estimates.paired(kept, np.zeros_like(kept))
            mean, interval = (
                float(kept.mean()),
                estimates.ConfidenceInterval(*map(float, estimate.interval(confidence))),
            )
        points.append(SensitivityPoint(value, mean, interval, kept.size, diverged))
    return tuple(points)


class _Fit(NamedTuple):
    """Least squares: the pseudo-inverse of the design, the coefficients, and the noise around them."""

    design: np.ndarray
    inverse: np.ndarray
    coefficients: np.ndarray
    variance: float
    dof: int

    @classmethod
    def of(cls, design: np.ndarray, y: np.ndarray) -> '_Fit':
        inverse = np.linalg.pinv(design)
        # Around the mean, so that a large one costs no digits; the first column is the constant.
        coefficients = inverse @ (y - y.mean())
        rest = y - y.mean() - design @ coefficients
        dof = y.size - int(np.linalg.matrix_rank(design))
        scale = estimates.ROUNDING * np.spacing(np.abs(y).max())
        variance = float(rest @ rest) / dof if dof else np.nan
        return cls(design, inverse, coefficients, 0.0 if variance <= scale**2 else variance, dof)

    def estimate(self, weights: np.ndarray) -> estimates.DifferenceEstimate:
        """A contrast of the coefficients; nan if it is no combination of the runs."""
        by_run = weights @ self.inverse
        if np.abs(by_run @ self.design - weights).max() > ESTIMABLE:
            return estimates.DifferenceEstimate(np.nan, np.nan, self.dof, self.dof)
        error = np.sqrt(self.variance * (by_run @ by_run))
        return estimates.DifferenceEstimate(float(weights @ self.coefficients), float(error), self.dof, self.dof)


def _sum_to_zero(levels: list) -> dict:
    """Of each level, its row of the coding whose effects add up to 0: the identity, and -1 throughout for the last."""
    rows = np.vstack([np.eye(len(levels) - 1), -np.ones((1, len(levels) - 1))])
    return dict(zip(levels, rows, strict=True))


class _Coding(NamedTuple):
    """How the levels of factors become columns: a constant, each factor's, each pair's products."""

    factors: dict[str, dict[Hashable, np.ndarray]]

    @classmethod
    def of(cls, arms: Mapping[str, object], levels: Levels) -> '_Coding':
        names: dict[str, dict[Hashable, None]] = {}
        for arm in arms:
            if arm not in levels:
                raise config.InputError(f'{arm!r} has no levels.{config.nearest(arm, levels)}')
            if names and levels[arm].keys() != names.keys():
                raise config.InputError(f'{arm!r} has the factors {sorted(levels[arm])}, and others {sorted(names)}.')
            for factor, level in levels[arm].items():
                names.setdefault(factor, {})[level] = None
        for factor, found in names.items():
            if len(found) < 2:
                raise config.InputError(f'Every arm has {factor}={next(iter(found))!r}. Leave that factor out.')
        if not names:
            raise config.InputError('A grid needs at least one factor.')
        return cls({factor: _sum_to_zero(list(found)) for factor, found in names.items()})

    def row(self, levels: Mapping[str, Hashable]) -> np.ndarray:
        """The columns of one run, without its seed's."""
        main = {factor: codes[levels[factor]] for factor, codes in self.factors.items()}
        pairs = [np.outer(main[f], main[g]).ravel() for f, g in itertools.combinations(main, 2)]
        return np.concatenate([[1.0], *main.values(), *pairs])

    def contrasts(self) -> Iterator[tuple[tuple[str, ...], tuple[Hashable, ...], tuple[Hashable, ...], np.ndarray]]:
        """(factors, levels, reference levels, weights) of each main effect, then of each interaction."""
        width = {factor: len(codes) - 1 for factor, codes in self.factors.items()}
        groups = [*((f,) for f in width), *itertools.combinations(width, 2)]
        sizes = [1, *(int(np.prod([width[f] for f in group])) for group in groups)]
        offsets = np.cumsum(sizes)
        for group, offset in zip(groups, offsets, strict=False):
            ordered = [list(self.factors[f]) for f in group]
            reference = tuple(levels[0] for levels in ordered)
            for at in itertools.product(*(levels[1:] for levels in ordered)):
                steps = [self.factors[f][a] - self.factors[f][r] for f, a, r in zip(group, at, reference, strict=True)]
                product = steps[0] if len(steps) == 1 else np.outer(*steps).ravel()
                weights = np.zeros(sum(sizes))
                weights[offset : offset + product.size] = product
                yield group, at, reference, weights
