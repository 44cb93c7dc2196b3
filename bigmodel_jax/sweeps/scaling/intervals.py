"""Bootstrap intervals of a scaling law: of its exponents, and of the allocation and the loss that it predicts."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.sweeps.scaling import envelope, isoflop, laws, parametric
from bigmodel_jax.sweeps.scaling.observations import Observations

LEVEL = 0.95
DRAWS = 200
MOST_FAILED = 0.1  # Share of the draws that may give no law, as where the sizes that were drawn are too few.


class Estimate(NamedTuple):
    """A number with its interval."""

    value: float
    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, (int, float)) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f'{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]'


class AllocationEstimate(NamedTuple):
    """The compute-optimal number of parameters and tokens for a budget, each with its interval."""

    flops: float
    parameters: Estimate
    tokens: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted(config.Value):
    """A law and the laws of resampled observations, from which all intervals come."""

    approach: str
    law: laws.Law
    draws: tuple[laws.Law, ...]
    level: float = LEVEL

    @property
    def size_exponent(self) -> Estimate:
        """a of N = G C^a; that of D is 1 - a."""
        return self.estimate(lambda law: law.size_exponent)

    def optimal(self, flops: float) -> AllocationEstimate:
        """The compute-optimal number of parameters and tokens for a budget."""
        size = self.estimate(lambda law: law.optimal(flops).parameters)
        return AllocationEstimate(flops, size, self.estimate(lambda law: law.optimal(flops).tokens))

    def estimate(self, of: Callable[..., float]) -> Estimate:
        """A quantity of the law, with the percentile interval of the draws."""
        tail = 50 * (1 - self.level)
        low, high = np.percentile([of(draw) for draw in self.draws], [tail, 100 - tail])
        return Estimate(float(of(self.law)), float(low), float(high))


def by_envelope(observations: Observations, *, draws: int = DRAWS, seed: int = 0) -> Fitted:
    """Approach 1, with runs drawn with replacement.

    Args:
      observations: several for each run, along its training.
    """

    def one(random: np.random.Generator) -> laws.Law:
        return envelope.fit(observations.resampled(random))

    return Fitted(approach='training curves', law=envelope.fit(observations), draws=_draws(one, draws, seed))


def by_isoflop(observations: Observations, *, draws: int = DRAWS, seed: int = 0) -> Fitted:
    """Approach 2, with the residuals of each parabola drawn with replacement.

    Runs are not: a budget has only a handful of sizes, chosen by hand, and a parabola through those drawn twice would
    often have no minimum.

    Args:
      observations: one for each run.
    """
    found = isoflop.profiles(observations)

    def one(random: np.random.Generator) -> laws.Law:
        return isoflop.through(tuple(each.redrawn(random) for each in found))

    return Fitted(approach='isoFLOP profiles', law=isoflop.through(found), draws=_draws(one, draws, seed))


def by_parametric_loss(
    observations: Observations, *, draws: int = DRAWS, seed: int = 0, delta: float = parametric.HUBER_DELTA
) -> Fitted:
    """Approach 3, with runs drawn with replacement.

    Args:
      observations: one for each run.
      delta: of the Huber loss.
    """
    law = parametric.fit(observations, delta=delta)

    def one(random: np.random.Generator) -> laws.Law:
        return parametric.fit(observations.resampled(random), delta=delta, start=law)

    return Fitted(approach='parametric loss', law=law, draws=_draws(one, draws, seed))


def _draws(one: Callable[[np.random.Generator], laws.Law], draws: int, seed: int) -> tuple[laws.Law, ...]:
    """Laws of `draws` resamples.

    Raises:
      InputError: too many resamples have no law, so that the interval would leave out the uncertain ones.
    """
    if draws < 2:
        raise config.InputError(f'draws={draws}: an interval needs at least 2 resamples; 200 are usual.')
    random, found, reason = np.random.default_rng(seed), [], ''
    for _ in range(draws):
        try:
            found.append(one(random))
        except config.InputError as error:
            reason = str(error)
    if draws - len(found) > MOST_FAILED * draws:
        raise config.InputError(
            f'{draws - len(found)} of {draws} resamples of the runs have no scaling law, so there are too few runs for '
            f'an interval. Of the last of them: {reason}'
        )
    return tuple(found)
