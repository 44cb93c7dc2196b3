"""Which checkpoints are kept."""

import math
from collections.abc import Mapping

from bigmodel_jax import experiment
from bigmodel_jax.evaluate import metric


def superseded(
    metrics: Mapping[int, Mapping[str, float]], policy: experiment.Checkpoints, direction: metric.Direction = 'lower'
) -> list[int]:
    """The steps that `policy` does not keep.

    Args:
      metrics: those saved with the checkpoint of each step.
      direction: in which the metric of `policy.keep_best` is better. Of equal values the newest counts.
    """
    steps = sorted(metrics)
    kept = set(steps[-policy.keep_last :])
    if policy.keep_every is not None:
        kept |= {step for step in steps if step % policy.keep_every == 0}
    if policy.keep_best is not None:
        best = metric.best({step: metrics[step].get(policy.keep_best, math.nan) for step in steps}, direction)
        kept |= set() if best is None else {best}
    return [step for step in steps if step not in kept]
