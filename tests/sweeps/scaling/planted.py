"""Ladders of runs whose losses follow a known law, with noise."""

import numpy as np
from scipy import stats

from bigmodel_jax.sweeps.scaling import laws, prediction
from bigmodel_jax.sweeps.scaling.observations import Observations

# Hoffmann et al. (2022), equation 10. Compute-optimal sizes grow as C^0.4516.
LAW = laws.ParametricLaw(
    irreducible=1.69, parameter_scale=406.4, parameter_exponent=0.34, token_scale=410.7, token_exponent=0.28
)
NOISE = 0.003  # Of the logarithm of the loss: a few times the spread of seeds at this scale.


def isoflop(seed: int, *, budgets: int = 8, sizes: int = 7) -> Observations:
    """Models from a quarter to four times the best size of each budget."""
    best = [LAW.optimal(flops) for flops in np.geomspace(6e18, 3e21, budgets).tolist()]
    factors = np.geomspace(1 / 4, 4, sizes)
    parameters = np.concatenate([each.parameters * factors for each in best])
    tokens = np.concatenate([each.tokens / factors for each in best])
    noise = NOISE * np.random.default_rng(seed).normal(size=len(tokens))
    return Observations.of(parameters, tokens, LAW.loss(parameters, tokens) * np.exp(noise))


def training_curves(seed: int) -> Observations:
    """Models of 16 sizes, each trained for four numbers of tokens."""
    random, parts = np.random.default_rng(seed), []
    for number, size in enumerate(np.repeat(np.geomspace(5e7, 1e10, 16), 4)):
        tokens = np.geomspace(0.4, 2 * 4 ** (number % 4), 30) * size
        noise = NOISE * random.normal() + NOISE / 3 * random.normal(size=30)
        losses = LAW.loss(size, tokens) * np.exp(noise)
        parts.append((np.full(30, size), tokens, losses, np.full(30, number)))
    return Observations.of(*(np.concatenate(each) for each in zip(*parts)))


def normal_noise(deviation: float = NOISE) -> np.ndarray:
    """Quantiles of a normal distribution, which stand for it."""
    return deviation * stats.norm.ppf((np.arange(2_000) + 0.5) / 2_000)


def covered(
    ladder: Observations, law: laws.ParametricLaw, noise: np.ndarray, *, above_flops: float, draws: int
) -> float:
    """How probably a new run of the size of a held-out one lies in the interval predicted from the small runs.

    The mean over the held-out runs. Their own losses are not used: what a new one would be follows from the law.

    Args:
      law: what the losses of `ladder` follow.
      noise: values of the noise on the logarithm of a loss, as frequent as it draws them.
    """
    parts = []
    for each in prediction.held_out(ladder, above_flops, draws=draws):
        losses = law.loss(each.parameters, each.tokens) * np.exp(noise)
        parts.append(np.mean((each.predicted.low <= losses) & (losses <= each.predicted.high)))
    return float(np.mean(parts))
