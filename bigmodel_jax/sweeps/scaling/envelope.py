"""Approach 1: the best model size at every budget, from the minimum over the training curves of all sizes.

Source: Hoffmann et al. (2022), arXiv:2203.15556, section 3.1. As there, every size should be trained for several
numbers of tokens, each with a schedule of its own length: the loss in the middle of a long schedule is higher than that
at the end of a short one. The exponent comes out somewhat too high where only few sizes reach the smallest and the
largest budgets.
"""

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.sweeps.scaling import laws
from bigmodel_jax.sweeps.scaling.observations import Observations

BUDGETS = 1_500  # Spaced evenly in logarithms, as theirs.


def fit(observations: Observations, budgets: int = BUDGETS) -> laws.Frontier:
    """The power law through the sizes with the least loss, at budgets spaced evenly in logarithms.

    Raises:
      InputError: at fewer than two budgets a size wins that is neither the smallest nor the largest that got there.
    """
    found = minima(observations, budgets)
    if len({each.parameters for each in found}) < 2:
        sizes = len(np.unique(observations.parameters))
        raise config.InputError(
            f'The training curves of {sizes} model sizes have their minimum at {len(found)} of {budgets} budgets, with '
            'too few sizes among them for a power law. A size counts where a smaller and a larger model were trained '
            'for the same FLOPs: train more sizes, each over a wide range of tokens.'
        )
    return laws.Frontier.through(found)


def minima(observations: Observations, budgets: int = BUDGETS) -> tuple[laws.Allocation, ...]:
    """The best size at each budget where it lies between the sizes of other curves that reach the budget."""
    several = np.bincount(observations.runs, minlength=1)[observations.runs] > 1
    if not several.any():
        return ()  # The ends of runs are no curves.
    observations = observations.take(several)
    flops = np.geomspace(observations.flops.min(), observations.flops.max(), budgets)
    sizes, losses = _curves(observations, np.log(flops))
    found = []
    for budget, column in zip(flops.tolist(), losses.T):
        there = np.isfinite(column)
        best = sizes[np.nanargmin(column)] if there.any() else np.nan
        if there.any() and sizes[there].min() < best < sizes[there].max():
            tokens = budget / (laws.FLOPS_PER_PARAMETER_AND_TOKEN * best)
            found.append(laws.Allocation(budget, float(best), tokens))
    return tuple(found)


def _curves(observations: Observations, log_flops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The size of each run, [r], and its loss at each budget, [r, b]; nan where the run did not reach it."""
    runs = np.unique(observations.runs)
    sizes, losses = np.empty(len(runs)), np.empty((len(runs), len(log_flops)))
    for number, run in enumerate(runs):
        mine = observations.take(observations.runs == run)
        order = np.argsort(mine.tokens)
        sizes[number] = mine.parameters[0]
        reached = np.log(mine.flops[order])
        losses[number] = np.interp(log_flops, reached, mine.losses[order], left=np.nan, right=np.nan)
    return sizes, losses
