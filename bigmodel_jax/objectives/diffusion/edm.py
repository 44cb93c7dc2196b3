"""EDM: noise of any deviation sigma, and a network whose inputs, outputs and errors have the same size at each.

Source: Karras et al. (2022), arXiv:2206.00364, section 5 and table 1.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bigmodel_jax import config, precision
from bigmodel_jax.objectives import objective
from bigmodel_jax.objectives.diffusion import denoising


class Preconditioning(NamedTuple):
    """D(x; sigma) = skip x + out F(scale x; noise), F being the network (equation 7)."""

    skip: jax.Array
    out: jax.Array
    scale: jax.Array
    noise: jax.Array  # What F reads as 'times'.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edm(denoising.Denoising):
    """The mean square error of F, which is that of D(x; sigma) times (sigma^2 + data^2) / (sigma data)^2.

    The network F reads x / sqrt(sigma^2 + data^2), with 'times' = ln(sigma) / 4; ln(sigma) is drawn from a normal
    distribution. At the beginning, where F gives 0, the loss is about 1 for images whose deviation is `data_deviation`.

    Metrics: 'mse', the error of the denoised image, D.
    """

    data_deviation: config.PositiveFloat = 0.5  # Of the numbers of all images: sigma_data.
    log_sigma_mean: config.Real = -1.2
    log_sigma_deviation: config.PositiveFloat = 1.2

    def preconditioning(self, sigma: jax.Array) -> Preconditioning:
        """Of noise of this deviation (table 1)."""
        data = self.data_deviation
        root = jnp.sqrt(sigma * sigma + data**2)
        return Preconditioning(data**2 / (root * root), sigma * data / root, 1 / root, jnp.log(sigma) / 4)

    def losses(
        self, apply: objective.Apply, batch: dict[str, jax.Array], drawn: denoising.NoiseDraws, **how: Any
    ) -> tuple[dict[str, jax.Array], objective.Auxiliary]:
        image_BYXZ, dtype = batch['image'], precision.sums(batch['image'].dtype)
        normal_B = jax.vmap(lambda key: jax.random.normal(key, (), jnp.float32))(drawn.time_keys_B).astype(dtype)
        sigma_B = jnp.exp(self.log_sigma_mean + self.log_sigma_deviation * normal_B)
        of = Preconditioning(*(denoising.per_image(each_B) for each_B in self.preconditioning(sigma_B)))
        noised_BYXZ = image_BYXZ + denoising.per_image(sigma_B) * drawn.noise_BYXZ
        times_B = of.noise.reshape(-1).astype(jnp.float32)
        outputs, auxiliary = apply({**batch, 'image': of.scale * noised_BYXZ, 'times': times_B}, **how)
        target_BYXZ = (image_BYXZ - of.skip * noised_BYXZ) / of.out
        errors_BYXZ = precision.raised(outputs['prediction']) - target_BYXZ
        mse_B = denoising.image_mean(jnp.square(of.out * errors_BYXZ))
        return {'loss': denoising.image_mean(jnp.square(errors_BYXZ)), 'mse': mse_B}, auxiliary

    def denoised(self, predict: denoising.Predict, noised_BYXZ: jax.Array, sigma: jax.Array) -> jax.Array:
        of = self.preconditioning(sigma)
        times_B = jnp.full(len(noised_BYXZ), of.noise, jnp.float32)
        predicted_BYXZ = precision.raised(predict(of.scale * noised_BYXZ, times_B))
        return of.skip * noised_BYXZ + of.out * predicted_BYXZ

    def sigma_range(self) -> tuple[float, float]:
        return 0.002, 80.0
