"""Scaling laws as functions: the loss of a model size and a number of tokens, and the best of both for given FLOPs."""

import dataclasses
from typing import NamedTuple

import numpy as np

from bigmodel_jax import config

FLOPS_PER_PARAMETER_AND_TOKEN = 6.0  # C = 6 N D: forward and backward pass (Kaplan et al., 2020, section 2.1).


class Allocation(NamedTuple):
    """A model size and a number of tokens for a budget of FLOPs."""

    flops: float  # C
    parameters: float  # N
    tokens: float  # D


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParametricLaw(config.Value):
    """L(N, D) = irreducible + parameter_scale / N^parameter_exponent + token_scale / D^token_exponent.

    Source: Hoffmann et al. (2022), arXiv:2203.15556, equation 2, where the five are E, A, alpha, B and beta.
    """

    irreducible: float
    parameter_scale: float
    parameter_exponent: float
    token_scale: float
    token_exponent: float

    def loss(self, parameters: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
        """The loss of models of so many parameters after so many tokens; any shapes that broadcast."""
        size = self.parameter_scale * np.power(parameters, -self.parameter_exponent)
        data = self.token_scale * np.power(tokens, -self.token_exponent)
        return np.asarray(self.irreducible + size + data)

    @property
    def size_exponent(self) -> float:
        """a of N = G (C / 6)^a, the compute-optimal number of parameters (their equation 4)."""
        return self.token_exponent / (self.parameter_exponent + self.token_exponent)

    def optimal(self, flops: float) -> Allocation:
        """The number of parameters and tokens with the least loss for C = 6 N D (their equation 4)."""
        total = self.parameter_exponent + self.token_exponent
        ratio = self.parameter_exponent * self.parameter_scale / (self.token_exponent * self.token_scale)
        product = flops / FLOPS_PER_PARAMETER_AND_TOKEN
        parameters = ratio ** (1 / total) * product**self.size_exponent
        return Allocation(flops, parameters, product / parameters)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerLaw(config.Value):
    """y = (x / centre)^exponent * value: a line in logarithms, written around the middle of what it was fitted to."""

    exponent: float
    centre: float
    value: float

    def at(self, x: float) -> float:
        return float(self.value * (x / self.centre) ** self.exponent)


def power_law(x: np.ndarray, y: np.ndarray) -> PowerLaw:
    """The least-squares line through the logarithms of positive x and y, [n] each."""
    log_x, log_y = np.log(x), np.log(y)
    centred = log_x - log_x.mean()
    exponent = float((centred * log_y).sum() / (centred**2).sum())
    return PowerLaw(exponent=exponent, centre=float(np.exp(log_x.mean())), value=float(np.exp(log_y.mean())))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frontier(config.Value):
    """The compute-optimal allocations that were found at some budgets, and the power law of N through them.

    D follows from C = 6 N D, so that its exponent is 1 minus that of N.
    """

    found: tuple[Allocation, ...]
    size: PowerLaw

    @classmethod
    def through(cls, found: tuple[Allocation, ...]) -> 'Frontier':
        """The frontier with the least-squares power law."""
        flops, parameters, _ = np.array(found).T
        return cls(found=found, size=power_law(flops, parameters))

    @property
    def size_exponent(self) -> float:
        """a of N = G C^a."""
        return self.size.exponent

    def optimal(self, flops: float) -> Allocation:
        """The number of parameters on the power law, and the tokens that C = 6 N D leaves for it."""
        parameters = self.size.at(flops)
        return Allocation(flops, parameters, flops / (FLOPS_PER_PARAMETER_AND_TOKEN * parameters))


Law = ParametricLaw | Frontier
