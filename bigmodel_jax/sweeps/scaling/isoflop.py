"""Approach 2: the best model size at each of several fixed budgets, from a parabola through the losses at that budget.

Source: Hoffmann et al. (2022), arXiv:2203.15556, section 3.2.
"""

import dataclasses

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.console import quantities
from bigmodel_jax.sweeps.scaling import laws
from bigmodel_jax.sweeps.scaling.observations import Observations

SAME_BUDGET = 0.1  # The FLOPs of the runs of one budget are at most this share above the smallest.
FEWEST_SIZES = 3  # Of a parabola.


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Profile(config.Value):
    """The losses of the models of one budget, and the parabola in the logarithm of their size; arrays are [n]."""

    flops: float
    parameters: np.ndarray
    losses: np.ndarray
    coefficients: np.ndarray  # [3], of (log N - log_centre)^2, of log N - log_centre, and of 1.
    log_centre: float

    @property
    def best(self) -> laws.Allocation | None:
        """The minimum of the parabola; None where it has none between the smallest and the largest model."""
        curvature, slope, _ = self.coefficients
        if curvature <= 0:
            return None
        parameters = float(np.exp(self.log_centre - slope / (2 * curvature)))
        if not self.parameters.min() <= parameters <= self.parameters.max():
            return None
        return laws.Allocation(self.flops, parameters, self.flops / (laws.FLOPS_PER_PARAMETER_AND_TOKEN * parameters))

    def loss(self, parameters: np.ndarray) -> np.ndarray:
        """The parabola at some sizes, [m]."""
        return np.polyval(self.coefficients, np.log(parameters) - self.log_centre)

    def redrawn(self, random: np.random.Generator) -> 'Profile':
        """The profile of other losses: those of the parabola, with its residuals drawn with replacement.

        The residuals are enlarged as much as the three numbers of the parabola made them too small.
        """
        fitted, count = self.loss(self.parameters), len(self.losses)
        residuals = (self.losses - fitted) * np.sqrt(count / max(count - FEWEST_SIZES, 1))
        return profile(self.flops, self.parameters, fitted + random.choice(residuals, count))


def profile(flops: float, parameters: np.ndarray, losses: np.ndarray) -> Profile:
    """The least-squares parabola through losses of models of several sizes, [n] each."""
    logs = np.log(parameters)
    coefficients = np.polyfit(logs - logs.mean(), losses, 2)
    return Profile(
        flops=flops, parameters=parameters, losses=losses, coefficients=coefficients, log_centre=float(logs.mean())
    )


def profiles(observations: Observations) -> tuple[Profile, ...]:
    """One profile for each budget that at least three model sizes were trained for, smallest budget first."""
    order, start, members = np.argsort(observations.flops, kind='stable'), 0, []
    flops = observations.flops[order]
    while start < len(order):
        stop = int(np.searchsorted(flops, flops[start] * (1 + SAME_BUDGET), side='right'))
        members.append(observations.take(order[start:stop]))
        start = stop
    return tuple(
        profile(float(np.exp(np.log(each.flops).mean())), each.parameters, each.losses)
        for each in members
        if len(np.unique(each.parameters)) >= FEWEST_SIZES
    )


def fit(observations: Observations) -> laws.Frontier:
    """The power law through the minima of the profiles.

    Raises:
      InputError: fewer than two budgets have a minimum between their smallest and largest model.
    """
    return through(profiles(observations))


def through(found: tuple[Profile, ...]) -> laws.Frontier:
    """As fit(), of profiles."""
    minima = tuple(each.best for each in found if each.best is not None)
    if len(minima) < 2:
        budgets = ', '.join(
            f'{quantities.number(each.flops)} FLOPs ({len(each.losses)} models: '
            f'{"a minimum" if each.best else "no minimum between them"})'
            for each in found
        )
        raise config.InputError(
            f'A power law needs the minima of at least 2 budgets, but there are {len(minima)}. Budgets that at least '
            f'{FEWEST_SIZES} model sizes were trained for: {budgets or "none"}. Train smaller or larger models at '
            'these budgets until the loss rises at both ends.'
        )
    return laws.Frontier.through(minima)
