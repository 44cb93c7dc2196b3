"""How much noise an image has at each step of a diffusion, and which of the steps a sampler visits.

Step t = 0 .. T - 1 multiplies the image by sqrt(1 - beta_t) and adds noise of variance beta_t, so that after it

  x_t = alpha_t x_0 + sigma_t noise,   alpha_t^2 = (1 - beta_0) ... (1 - beta_t),   sigma_t^2 = 1 - alpha_t^2.

Source: Ho et al. (2020), arXiv:2006.11239, section 2.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from bigmodel_jax import config


class NoiseTables(NamedTuple):
    """The steps that are visited, from the least noise to the most, each [S] float64.

    Attributes:
      steps: their numbers among the T of training, [S] int64.
      betas: the variance of the noise that is added from one visited step to the next.
      signal: alpha_t^2, how much of the variance of the image is left (alphas_cumprod).
      signal_before: that of the visited step before, 1 for the first.
    """

    steps: np.ndarray
    betas: np.ndarray
    signal: np.ndarray
    signal_before: np.ndarray

    @property
    def posterior_variance(self) -> np.ndarray:
        """The variance of q(x_{t-1} | x_t, x_0) (Ho et al., equation 7)."""
        return self.betas * (1 - self.signal_before) / (1 - self.signal)

    @property
    def posterior_log_variance(self) -> np.ndarray:
        """Its logarithm; where it is 0, in the first step, that of the second."""
        variance = self.posterior_variance
        return np.log(np.append(variance[1:2] if len(variance) > 1 else self.betas[:1], variance[1:]))

    @property
    def posterior_mean(self) -> tuple[np.ndarray, np.ndarray]:
        """How much x_0 and x_t count in the mean of q(x_{t-1} | x_t, x_0) (Ho et al., equation 7)."""
        of_image = self.betas * np.sqrt(self.signal_before) / (1 - self.signal)
        of_noised = (1 - self.signal_before) * np.sqrt(1 - self.betas) / (1 - self.signal)
        return of_image, of_noised

    @property
    def deviations(self) -> np.ndarray:
        """sigma_t / alpha_t: the deviation of the noise beside an image that is not scaled down."""
        return np.sqrt((1 - self.signal) / self.signal)


class NoiseSchedule:
    """Interface of the noise schedules.

    Attributes:
      steps: T, of training.
    """

    steps: int

    def betas(self) -> np.ndarray:
        """[T] float64."""
        raise NotImplementedError

    def tables(self, kept: np.ndarray | None = None) -> NoiseTables:
        """The tables of the steps `kept` [S] int64, in rising order; None: of all.

        A step between two kept ones adds the noise of all between them (Nichol and Dhariwal, 2021, arXiv:2102.09672,
        section 4).
        """
        steps = np.arange(self.steps) if kept is None else kept
        signal = np.cumprod(1 - self.betas())[steps]
        before = np.append(1.0, signal[:-1])
        betas = self.betas() if kept is None else 1 - signal / before
        return NoiseTables(steps, betas, signal, before)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(NoiseSchedule):
    """Betas that grow linearly (Ho et al., 2020, section 4)."""

    steps: config.Positive = 1_000
    first: config.PositiveFraction = 1e-4
    last: config.PositiveFraction = 0.02

    def betas(self) -> np.ndarray:
        return np.linspace(self.first, self.last, self.steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaledLinear(NoiseSchedule):
    """Betas whose square roots grow linearly (the released code of Rombach et al., 2022, arXiv:2112.10752)."""

    steps: config.Positive = 1_000
    first: config.PositiveFraction = 0.00085
    last: config.PositiveFraction = 0.012

    def betas(self) -> np.ndarray:
        return np.linspace(math.sqrt(self.first), math.sqrt(self.last), self.steps) ** 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine(NoiseSchedule):
    """alpha_t^2 falls as a squared cosine (Nichol and Dhariwal, 2021, arXiv:2102.09672, equation 17)."""

    steps: config.Positive = 1_000
    offset: config.PositiveFraction = 0.008
    largest: config.PositiveFraction = 0.999  # No beta is larger.

    def betas(self) -> np.ndarray:
        times = np.arange(self.steps + 1) / self.steps
        signal = np.cos((times + self.offset) / (1 + self.offset) * math.pi / 2) ** 2
        return np.minimum(1 - signal[1:] / signal[:-1], self.largest)


# ---- the steps that a sampler visits ------------------------------------------------------------------------------


class StepSpacing:
    """Interface: which of the steps of training a sampler visits."""

    def choose(self, steps: int, count: int) -> np.ndarray:
        """[count] int64 of 0 .. steps - 1, in rising order; count is at most `steps`."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvenlySpaced(StepSpacing):
    """From the first step to the last, in equal strides that are rounded (the released code of Nichol and Dhariwal)."""

    def choose(self, steps: int, count: int) -> np.ndarray:
        stride = (steps - 1) / max(count - 1, 1)
        return np.array([round(number * stride) for number in range(count)], np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leading(StepSpacing):
    """Every n-th step from step 0, n being the whole part of steps / count (Song et al., 2020, arXiv:2010.02502)."""

    def choose(self, steps: int, count: int) -> np.ndarray:
        return np.arange(count) * (steps // count)
