"""What a network says of a noised image x = alpha x_0 + sigma noise, alpha^2 + sigma^2 = 1: the noise, the image, or v.

All three say the same: each follows from another and x. They differ in how errors at each level of noise count.
"""

import dataclasses

import jax

from bigmodel_jax import config


class DiffusionPrediction:
    """Interface of the predictions. All arrays are [B, Y, X, Z], or broadcast to it."""

    def target(self, image: jax.Array, noise: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        """What the network should say."""
        raise NotImplementedError

    def image(self, predicted: jax.Array, noised: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        """x_0 as it follows from what the network says of `noised`."""
        raise NotImplementedError

    def weight_of_image(self, ratio: jax.Array) -> jax.Array:
        """How much the squared error of x_0 counts in that of the target, alpha^2 / sigma^2 being `ratio`."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisePrediction(DiffusionPrediction):
    """The noise (Ho et al., 2020, arXiv:2006.11239, equation 12)."""

    def target(self, image: jax.Array, noise: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        return noise

    def image(self, predicted: jax.Array, noised: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        return (noised - sigma * predicted) / alpha

    def weight_of_image(self, ratio: jax.Array) -> jax.Array:
        return ratio


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagePrediction(DiffusionPrediction):
    """The image without noise, x_0."""

    def target(self, image: jax.Array, noise: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        return image

    def image(self, predicted: jax.Array, noised: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        return predicted

    def weight_of_image(self, ratio: jax.Array) -> jax.Array:
        return ratio * 0 + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class VelocityPrediction(DiffusionPrediction):
    """v = alpha noise - sigma x_0 (Salimans and Ho, 2022, arXiv:2202.00512, appendix D)."""

    def target(self, image: jax.Array, noise: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        return alpha * noise - sigma * image

    def image(self, predicted: jax.Array, noised: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        return alpha * noised - sigma * predicted

    def weight_of_image(self, ratio: jax.Array) -> jax.Array:
        return ratio + 1


# ---- how much each level of noise counts --------------------------------------------------------------------------


class LossWeighting:
    """Interface: how much the squared error of the target counts at each level of noise."""

    def weight(self, prediction: DiffusionPrediction, ratio: jax.Array) -> jax.Array:
        """[B], of alpha^2 / sigma^2."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class EqualWeights(LossWeighting):
    """Equally much: the 'simple' loss, where the noise is predicted (Ho et al., 2020, equation 14)."""

    def weight(self, prediction: DiffusionPrediction, ratio: jax.Array) -> jax.Array:
        return ratio * 0 + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinSnr(LossWeighting):
    """The squared error of x_0 counts as alpha^2 / sigma^2, but at most as `limit`.

    Source: Hang et al. (2023), arXiv:2303.09556, section 3.4.
    """

    limit: config.PositiveFloat = 5.0

    def weight(self, prediction: DiffusionPrediction, ratio: jax.Array) -> jax.Array:
        return jax.numpy.minimum(ratio, self.limit) / prediction.weight_of_image(ratio)
