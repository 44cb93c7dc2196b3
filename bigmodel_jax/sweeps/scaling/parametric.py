"""Approach 3: the loss as a parametric function of model size and tokens, fitted to all losses at once.

Source: Hoffmann et al. (2022), arXiv:2203.15556, section 3.3. As they do, the Huber loss of the differences between
the logarithms of the losses is minimised from a grid of starts. Three things differ. The Huber loss is summed and not
averaged, because with their average the minimisation stopped before it converged (Besiroglu et al., 2024,
arXiv:2404.10102). The objective is evaluated at all starts, but only the best of them are followed. And the method is
BFGS, which L-BFGS approximates where the parameters are too many for a matrix; here they are five.
"""

import itertools
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from bigmodel_jax import config
from bigmodel_jax.sweeps.scaling import laws
from bigmodel_jax.sweeps.scaling.observations import Observations

HUBER_DELTA = 1e-3  # Their section 3.3.
# Their grid (appendix D.4) for the exponents of N and D and the logarithms of A, B and E.
EXPONENTS = (0.0, 0.5, 1.0, 1.5, 2.0)
LOG_SCALES = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)
LOG_FLOORS = (-1.0, -0.5, 0.0, 0.5, 1.0)
TRIED = 16  # Starts that are followed.
ROUGH = {'maxiter': 500, 'gtol': 1e-3}  # For each of them; the best is then finished.
TIGHT = {'maxiter': 5_000, 'gtol': 1e-7}


class _Problem(NamedTuple):
    """Centred logarithms, [n] each, which make the scales and the exponents nearly independent of one another."""

    log_parameters: np.ndarray
    log_tokens: np.ndarray
    log_losses: np.ndarray
    delta: float

    def objective(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """The sum of the Huber losses, and its gradient [5]."""
        terms = self.terms(theta)
        highest = terms.max(axis=0)
        # Twice as fast as special.logsumexp, and this is all that a fit spends its time on.
        predicted = highest + np.log(np.exp(terms - highest).sum(axis=0))
        shares = np.exp(terms - predicted)
        residuals = predicted - self.log_losses
        slopes = np.clip(residuals, -self.delta, self.delta)
        first, second, third = (shares * slopes).sum(axis=1)
        by_exponents = -(shares[:2] * slopes * np.stack([self.log_parameters, self.log_tokens])).sum(axis=1)
        # In units of delta^2, so that the optimizer sees numbers of ordinary size.
        scale = self.delta**-2
        gradient = np.array([first, by_exponents[0], second, by_exponents[1], third])
        return float(special.huber(self.delta, residuals).sum() * scale), gradient * scale

    def values(self, thetas: np.ndarray) -> np.ndarray:
        """The objective of many thetas at once, [s]; thetas [s, 5]."""
        terms = self.terms(thetas.T[:, :, None])
        highest = terms.max(axis=0)
        residuals = highest + np.log(np.exp(terms - highest).sum(axis=0)) - self.log_losses
        return special.huber(self.delta, residuals).sum(axis=1) * self.delta**-2

    def terms(self, theta: np.ndarray) -> np.ndarray:
        """The logarithms of the three terms of the law, [3, n]; theta [5]: log A, alpha, log B, beta, log E.

        Or [3, s, n] of theta [5, s, 1].
        """
        size = theta[0] - theta[1] * self.log_parameters
        data = theta[2] - theta[3] * self.log_tokens
        return np.stack([size, data, np.full_like(size, theta[4])])

    def minimum(self, starts: np.ndarray) -> optimize.OptimizeResult:
        """The best of the local minima from `starts`, [s, 5]."""
        rough = [self._descend(start, ROUGH) for start in starts]
        return self._descend(min(rough, key=lambda each: float(each.fun)).x, TIGHT)

    def _descend(self, start: np.ndarray, options: dict[str, float]) -> optimize.OptimizeResult:
        return optimize.minimize(self.objective, start, jac=True, method='BFGS', options=options)


def fit(
    observations: Observations, *, delta: float = HUBER_DELTA, start: laws.ParametricLaw | None = None
) -> laws.ParametricLaw:
    """The law with the least Huber loss.

    Args:
      delta: of the Huber loss, in units of the logarithm of the loss.
      start: a law from which to begin, instead of the grid of starts; for resampled observations.

    Raises:
      InputError: too few losses, or too few sizes or numbers of tokens, for five numbers.
    """
    _check(observations)
    logs = [np.log(each) for each in (observations.parameters, observations.tokens, observations.losses)]
    centres = [logs[0].mean(), logs[1].mean()]
    problem = _Problem(logs[0] - centres[0], logs[1] - centres[1], logs[2], delta)
    best = problem.minimum(_best_starts(problem, centres) if start is None else _centred(start, centres)[None]).x
    return laws.ParametricLaw(
        irreducible=float(np.exp(best[4])),
        parameter_scale=float(np.exp(best[0] + best[1] * centres[0])),
        parameter_exponent=float(best[1]),
        token_scale=float(np.exp(best[2] + best[3] * centres[1])),
        token_exponent=float(best[3]),
    )


def _check(observations: Observations) -> None:
    sizes, counts = len(np.unique(observations.parameters)), len(np.unique(observations.tokens))
    if len(observations) < 6 or sizes < 3 or counts < 3:
        raise config.InputError(
            f'The parametric law has 5 numbers, but there are {len(observations)} losses of {sizes} model sizes and '
            f'{counts} numbers of tokens; it needs at least 6 losses of 3 sizes and 3 numbers of tokens.'
        )


def _centred(law: laws.ParametricLaw, centres: list[float]) -> np.ndarray:
    size = np.log(law.parameter_scale) - law.parameter_exponent * centres[0]
    data = np.log(law.token_scale) - law.token_exponent * centres[1]
    return np.array([size, law.parameter_exponent, data, law.token_exponent, np.log(law.irreducible)])


def _best_starts(problem: _Problem, centres: list[float]) -> np.ndarray:
    """The starts of the grid with the smallest objective, [TRIED, 5]."""
    grid = np.array(list(itertools.product(LOG_SCALES, EXPONENTS, LOG_SCALES, EXPONENTS, LOG_FLOORS)))
    grid[:, 0] -= grid[:, 1] * centres[0]
    grid[:, 2] -= grid[:, 3] * centres[1]
    # In pieces, whose arrays fit into a cache.
    values = np.concatenate([problem.values(part) for part in np.array_split(grid, len(grid) // 100)])
    return grid[np.argsort(values, kind='stable')[:TRIED]]
