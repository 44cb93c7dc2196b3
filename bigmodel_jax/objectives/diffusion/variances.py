"""The variance of a step back, p(x_{t-1} | x_t): fixed, or predicted by the network within its bounds."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bigmodel_jax import precision
from bigmodel_jax.objectives.diffusion import noise_schedules


class Gaussian(NamedTuple):
    """A normal distribution of each number: [B, Y, X, Z] each, or broadcast to it."""

    mean: jax.Array
    log_variance: jax.Array


class StepVariance:
    """Interface of the variances.

    Attributes:
      predicted: whether the network says it: the second half of its channels.
    """

    predicted: bool = False

    def log_variance(self, tables: noise_schedules.NoiseTables, row: jax.Array, said: jax.Array | None) -> jax.Array:
        """Its logarithm at row `row` (int32, of any shape that broadcasts to the images) of the tables.

        Args:
          said: the second half of the channels, where the network predicts it.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PosteriorVariance(StepVariance):
    """That of q(x_{t-1} | x_t, x_0), the smallest that makes sense ('fixed small'; Ho et al., 2020, section 3.2)."""

    def log_variance(self, tables: noise_schedules.NoiseTables, row: jax.Array, said: jax.Array | None) -> jax.Array:
        return jnp.asarray(tables.posterior_log_variance)[row]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BetaVariance(StepVariance):
    """beta_t, the largest that makes sense ('fixed large'; Ho et al., 2020, section 3.2); in step 0 as above."""

    def log_variance(self, tables: noise_schedules.NoiseTables, row: jax.Array, said: jax.Array | None) -> jax.Array:
        return jnp.asarray(_log_betas(tables))[row]


def _log_betas(tables: noise_schedules.NoiseTables) -> jax.Array:
    logs = jnp.log(jnp.asarray(tables.betas))
    return logs.at[0].set(tables.posterior_log_variance[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictedVariance(StepVariance):
    """Between the two, as the network says: -1 is the posterior's, 1 is beta_t, on a logarithmic scale.

    The variational bound of each step is added to the loss, in bits per number; the mean learns nothing from it.
    Source: Nichol and Dhariwal (2021), arXiv:2102.09672, equations 15 and 16; DiT uses it.
    """

    predicted = True

    def log_variance(self, tables: noise_schedules.NoiseTables, row: jax.Array, said: jax.Array | None) -> jax.Array:
        assert said is not None
        low = jnp.asarray(tables.posterior_log_variance, said.dtype)[row]
        high = jnp.log(jnp.asarray(tables.betas, said.dtype))[row]
        share = (said + 1) / 2
        return share * high + (1 - share) * low


def bound_bits(image: jax.Array, true: Gaussian, predicted: Gaussian, *, first: jax.Array) -> jax.Array:
    """The term of the variational bound of one step, in bits, for each number of an image.

    Args:
      image: x_0, in [-1, 1] with 256 levels, for the first step.
      true: q(x_{t-1} | x_t, x_0).
      first: whether it is step 0, whose term is the negative log-likelihood of x_0.

    Source: Ho et al. (2020), arXiv:2006.11239, equations 5 and 13.
    """
    divergence = kl_divergence(true, predicted)
    return jnp.where(first, -level_log_likelihood(image, predicted), divergence) / math.log(2)


def kl_divergence(first: Gaussian, second: Gaussian) -> jax.Array:
    """KL(first || second) of normal distributions, in nats."""
    difference = second.log_variance - first.log_variance
    squares = jnp.square(first.mean - second.mean) * jnp.exp(-second.log_variance)
    return 0.5 * (difference + jnp.exp(-difference) + squares - 1)


def level_log_likelihood(image: jax.Array, of: Gaussian) -> jax.Array:
    """The log-probability of the 8-bit level that `image`, in [-1, 1], stands for; the outermost levels have the tails.

    Source: Ho et al. (2020), equation 13, with the tanh approximation of the normal distribution of its released code.
    """
    image = precision.raised(image)
    centred, inverse = image - of.mean, jnp.exp(-0.5 * of.log_variance)
    above, below = (_normal_cdf(inverse * (centred + side / 255)) for side in (1, -1))
    within = jnp.where(image < -0.999, above, jnp.where(image > 0.999, 1 - below, above - below))
    return jnp.log(jnp.maximum(within, 1e-12))


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
