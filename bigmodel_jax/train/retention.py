"""Which checkpoints are kept."""

import math
from collections.abc import Mapping

from bigmodel_jax import experiment


def superseded(metrics: Mapping[int, Mapping[str, float]], policy: experiment.Checkpoints) -> list[int]:
    """The steps that `policy` does not keep.

    Args:
      metrics: those saved with the checkpoint of each step.
    """
    steps = sorted(metrics)
    kept = set(steps[-policy.keep_last :])
    if policy.keep_every is not None:
        kept |= {step for step in steps if step % policy.keep_every == 0}
    values = {step: metrics[step].get(policy.keep_best, math.nan) for step in steps} if policy.keep_best else {}
    finite = {step: value for step, value in values.items() if math.isfinite(value)}
    if finite:
        kept.add(min(finite, key=lambda step: (finite[step], -step)))
    return [step for step in steps if step not in kept]
