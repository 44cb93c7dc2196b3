"""Held-out prediction: a law is fitted to the small runs alone, and then asked for the loss of the large ones.

An interval is for the logarithm of the loss of one run: Student's t times the root of two variances, that of the law at
this run over the bootstrap, and that of the small runs around the law. Only the variance of their residuals is used and
not their distribution, because that is not the one of larger runs: of the runs of Hoffmann et al. (2022) the smallest
have long tails, upwards, and an interval drawn from them was too short below.
"""

import dataclasses

import numpy as np
from scipy import stats

from bigmodel_jax import config
from bigmodel_jax.console import quantities
from bigmodel_jax.sweeps.scaling import intervals, laws
from bigmodel_jax.sweeps.scaling.observations import Observations


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut(config.Value):
    """One large run: its loss, and what was predicted for it."""

    parameters: float
    tokens: float
    loss: float
    predicted: intervals.Estimate  # The interval is that of one run's loss: of the law, and of the noise around it.

    @property
    def error(self) -> float:
        """Predicted minus measured loss, as a share of the measured one."""
        return self.predicted.value / self.loss - 1

    @property
    def inside(self) -> bool:
        """Whether the measured loss lies in the interval."""
        return self.loss in self.predicted


def held_out(
    observations: Observations, above_flops: float, *, draws: int = intervals.DRAWS, seed: int = 0
) -> tuple[HeldOut, ...]:
    """Predictions for the runs of more than `above_flops` FLOPs, by approach 3 on the others.

    Args:
      observations: one for each run.

    Raises:
      InputError: no run is larger, or too few are smaller.
    """
    large = observations.flops > above_flops
    if not large.any():
        raise config.InputError(
            f'above_flops={quantities.number(above_flops)}: no run has more FLOPs; the largest has '
            f'{quantities.number(float(observations.flops.max()))}.'
        )
    small, rest = observations.take(~large), observations.take(large)
    fitted = intervals.by_parametric_loss(small, draws=draws, seed=seed)
    numbers = len(dataclasses.fields(laws.ParametricLaw))
    free = max(len(small) - numbers, 1)
    noise = np.log(small.losses) - _log_losses(fitted.law, small)
    of_law = np.var([_log_losses(each, rest) for each in fitted.draws], axis=0, ddof=1)
    half = float(stats.t.ppf((1 + fitted.level) / 2, free)) * np.sqrt(of_law + (noise**2).sum() / free)
    ends = [np.exp(_log_losses(fitted.law, rest) + side) for side in (0, -half, half)]
    return tuple(
        HeldOut(parameters=parameters, tokens=tokens, loss=loss, predicted=intervals.Estimate(*predicted))
        for parameters, tokens, loss, *predicted in zip(
            *(each.tolist() for each in (rest.parameters, rest.tokens, rest.losses, *ends))
        )
    )


def _log_losses(law: laws.Law, observations: Observations) -> np.ndarray:
    return np.log(_parametric(law).loss(observations.parameters, observations.tokens))


def _parametric(law: laws.Law) -> laws.ParametricLaw:
    assert isinstance(law, laws.ParametricLaw)
    return law
