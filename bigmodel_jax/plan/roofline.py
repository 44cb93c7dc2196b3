"""Step time from counts: the slowest of arithmetic, memory and links, and what the computation must wait for."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

from bigmodel_jax.plan import estimates
from bigmodel_jax.plan.hardware import calibration, links, slices

Bound = Literal['compute', 'memory', 'links']


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of one step, and what they are made of."""

    compute_s: float  # Matrix products at the calibrated share of the peak.
    memory_s: float  # HBM traffic at the full bandwidth.
    hidden_s: float  # Collectives that run beside the computation.
    exposed_s: float  # Collectives that the computation waits for.
    slowdown: float  # Of many slices, by experience: they wait for the slowest.
    seconds: float  # Expected.
    low_s: float  # The error bar: the worst published run that the fit has not seen; see calibration.py.
    high_s: float
    bound: Bound
    mfu: float  # Model FLOPs / (peak x seconds): causal attention at one half, without what is computed again.
    # By the conventions of others, with their names; see mfu.py. Empty for models of which these do not speak.
    other_mfus: tuple[tuple[str, float], ...] = ()


def step_time(counts: estimates.Counts, on: slices.Slice, mesh: Mapping[str, int], *, across: str = 'data') -> StepTime:
    """The time of a step whose counts are known.

    Args:
      mesh: size of each mesh axis, over all slices.
      across: the mesh axis that joins the slices.

    Raises:
      InputError: as of links.dimensions().
    """
    factors = calibration.factors(on.chip.name)
    laid = links.dimensions(on, mesh, across)
    compute_s = counts.matmul_flops / (on.chip.flops * factors.compute)
    memory_s = counts.hbm_bytes / on.chip.hbm_bandwidth
    hidden_s, exposed_s = links.seconds(counts.collectives, on, laid)
    slowdown = (1 + factors.per_doubling) ** math.log2(on.count)
    seconds = (max(compute_s, memory_s, hidden_s) + exposed_s) * slowdown
    terms: dict[Bound, float] = {'compute': compute_s, 'memory': memory_s, 'links': hidden_s + exposed_s}
    return StepTime(
        compute_s=compute_s,
        memory_s=memory_s,
        hidden_s=hidden_s,
        exposed_s=exposed_s,
        slowdown=slowdown,
        seconds=seconds,
        low_s=seconds * factors.low,
        high_s=seconds * factors.high,
        bound=max(terms, key=lambda name: terms[name]),
        mfu=counts.model_flops / (on.chip.flops * seconds) if seconds else 0.0,
    )
