"""Survival: the partial likelihood of Cox's proportional hazards."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bigmodel_jax import precision
from bigmodel_jax.objectives import objective, requirements
from bigmodel_jax.objectives.objective import Mean

LEAST = 1e-30  # Of a sum of exponentials, relative to the largest: its logarithm is finite where nobody is at risk.


def cox_losses(risk_B: jax.Array, times_B: jax.Array, events_B: jax.Array, weights_B: jax.Array) -> jax.Array:
    """The negative logarithm of the partial likelihood of each event, [B] float32 or float64; 0 where there is none.

    At the time of an event it is that of the row, among all rows that are still observed then, to which the event came.
    Events of one time are in the order of the rows, each with the mean of the others' risks (Efron).

    Args:
      risk_B: the logarithm of the hazard, relative to that of the other rows.
      events_B: whether the event came at `times_B`; if not, the row was observed until then.
      weights_B: rows of weight 0 do not count.

    Source: Cox (1972), Regression models and life-tables, section 5; ties: Efron (1977), section 4.
    """
    risk_B = precision.raised(risk_B)
    counts_B = weights_B != 0
    events_B = (events_B != 0) & counts_B
    # The likelihood knows differences of risks alone; the largest is subtracted so that exp() stays finite.
    risk_B = risk_B - jax.lax.stop_gradient(jnp.where(counts_B, risk_B, -jnp.inf).max())
    hazard_B = jnp.where(counts_B, jnp.exp(jnp.where(counts_B, risk_B, 0)), 0)
    at_risk_BB = times_B[None, :] >= times_B[:, None]
    tied_BB = (times_B[None, :] == times_B[:, None]) & events_B[None, :] & events_B[:, None]
    before_BB = tied_BB & (jnp.arange(len(times_B))[None, :] < jnp.arange(len(times_B))[:, None])
    share_B = before_BB.sum(axis=1) / jnp.maximum(tied_BB.sum(axis=1), 1)
    sums_B = jnp.where(at_risk_BB, hazard_B, 0).sum(axis=1) - share_B * jnp.where(tied_BB, hazard_B, 0).sum(axis=1)
    losses_B = jnp.log(jnp.maximum(sums_B, LEAST)) - risk_B
    return jnp.where(events_B, losses_B, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cox(objective.Objective):
    """The mean over the events of a batch of the negative log partial likelihood; see cox_losses().

    Batch: 'times' [B] float32 and 'events' [B] int32. The model returns 'values' [B]: the logarithm of the hazard. Rows
    are compared within a batch: with batches of all rows that is Cox's likelihood, with smaller ones that of risk sets
    that are sampled (Kvamme et al., 2019, arXiv:1907.00825, section 3). Every batch should hold some events.
    """

    requires = requirements.SURVIVAL

    def __call__(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> objective.Outcome:
        outputs, auxiliary = apply(batch, train=train, rngs=rngs)
        weights_B = batch['example_weights']
        losses_B = cox_losses(outputs['values'], batch['times'], batch['events'], weights_B)
        events_B = ((batch['events'] != 0) & (weights_B != 0)).astype(jnp.float32)
        # A batch without an event has a loss of 0, and not 0 / 0.
        loss = Mean(losses_B.sum(), jnp.maximum(events_B.sum(), 1))
        return objective.Outcome.of(loss, {}, auxiliary)
