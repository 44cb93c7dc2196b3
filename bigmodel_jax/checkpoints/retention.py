"""Which checkpoints are kept."""

import math
from collections.abc import Mapping

from bigmodel_jax import experiment
from bigmodel_jax.evaluate import metric


def superseded(
    metrics: Mapping[int, Mapping[str, float]],
    policy: experiment.Checkpoints,
    direction: metric.Direction = 'lower',
    *,
    rolls_back: bool = False,
) -> list[int]:
    """The steps that `policy` does not keep.

    Args:
      metrics: those saved with the checkpoint of each step.
      direction: in which the metric of `policy.keep_best` is better. Of equal values the newest counts.
      rolls_back: keep what a roll-back may need as well. It goes back to the last multiple of `every_steps` before a
        step that went wrong, and every saved step was fine; so that is the last multiple up to the newest saved step,
        or a later one. Of the checkpoints up to there the newest `keep_last` are kept: the step is computed again from
        an older one if its own is damaged, was never saved, or belongs to another `every_steps`.
    """
    steps = sorted(metrics)
    kept = set(steps[-policy.keep_last :])
    if rolls_back and steps:
        back = steps[-1] // policy.every_steps * policy.every_steps
        kept |= set([step for step in steps if step <= back][-policy.keep_last :])
    if policy.keep_every is not None:
        kept |= {step for step in steps if step % policy.keep_every == 0}
    if policy.keep_best is not None:
        best = metric.best({step: metrics[step].get(policy.keep_best, math.nan) for step in steps}, direction)
        kept |= set() if best is None else {best}
    return [step for step in steps if step not in kept]
