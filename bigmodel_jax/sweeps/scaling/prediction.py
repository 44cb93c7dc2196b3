"""Held-out prediction: a law is fitted to the small runs alone, and then asked for the loss of the large ones."""

import dataclasses

import numpy as np

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
    small = observations.take(~large)
    fitted = intervals.by_parametric_loss(small, draws=draws, seed=seed)
    noise = np.log(small.losses) - np.log(_parametric(fitted.law).loss(small.parameters, small.tokens))
    # As many numbers were fitted as the law has.
    noise *= np.sqrt(len(noise) / max(len(noise) - len(dataclasses.fields(laws.ParametricLaw)), 1))
    random = np.random.default_rng([seed, 1])
    added = np.exp(random.choice(noise, len(fitted.draws)))
    rest = observations.take(large)
    return tuple(
        _predicted(fitted, added, parameters, tokens, loss=loss)
        for parameters, tokens, loss in zip(rest.parameters.tolist(), rest.tokens.tolist(), rest.losses.tolist())
    )


def _predicted(
    fitted: intervals.Fitted, added: np.ndarray, parameters: float, tokens: float, *, loss: float
) -> HeldOut:
    drawn = added * [float(_parametric(each).loss(parameters, tokens)) for each in fitted.draws]
    tail = 50 * (1 - fitted.level)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    value = float(_parametric(fitted.law).loss(parameters, tokens))
    predicted = intervals.Estimate(value, float(low), float(high))
    return HeldOut(parameters=parameters, tokens=tokens, loss=loss, predicted=predicted)


def _parametric(law: laws.Law) -> laws.ParametricLaw:
    assert isinstance(law, laws.ParametricLaw)
    return law
