"""Diffusion in discrete steps: noise is added in T steps, and a network says what was added."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel_jax import precision
from bigmodel_jax.objectives import objective
from bigmodel_jax.objectives.diffusion import denoising, noise_schedules, predictions, variances


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diffusion(denoising.Denoising):
    """The weighted mean square error of what the network says of images noised to a random step t.

    The network reads x_t = alpha_t x_0 + sigma_t noise, with 'times' = t of 0 .. T - 1. With a predicted variance it
    returns twice as many channels, and the variational bound of the step, 'vlb' in bits per number, is added.

    Metrics: 'mse', the error of the target without weights.

    Source: Ho et al. (2020), arXiv:2006.11239, algorithm 1; Nichol and Dhariwal (2021), arXiv:2102.09672, section 3.1.
    """

    schedule: noise_schedules.NoiseSchedule = noise_schedules.Linear()
    prediction: predictions.DiffusionPrediction = predictions.NoisePrediction()
    weighting: predictions.LossWeighting = predictions.EqualWeights()
    variance: variances.StepVariance = variances.BetaVariance()

    @property
    def predicts_variance(self) -> bool:
        return self.variance.predicted

    def losses(
        self, apply: objective.Apply, batch: dict[str, jax.Array], drawn: denoising.NoiseDraws, **how: Any
    ) -> tuple[dict[str, jax.Array], objective.Auxiliary]:
        image_BYXZ, tables = batch['image'], self.schedule.tables()
        steps_B = jax.vmap(lambda key: jax.random.randint(key, (), 0, self.schedule.steps))(drawn.time_keys_B)
        signal_B = jnp.asarray(tables.signal, precision.sums(image_BYXZ.dtype))[steps_B]
        alpha, sigma = (denoising.per_image(jnp.sqrt(each_B)) for each_B in (signal_B, 1 - signal_B))
        noised_BYXZ = alpha * image_BYXZ + sigma * drawn.noise_BYXZ
        inputs = {**batch, 'image': noised_BYXZ, 'times': steps_B.astype(jnp.float32)}
        outputs, auxiliary = apply(inputs, **how)
        predicted_BYXZ, said = self.split(precision.raised(outputs['prediction']))
        target_BYXZ = self.prediction.target(image_BYXZ, drawn.noise_BYXZ, alpha, sigma)
        mse_B = denoising.image_mean(jnp.square(predicted_BYXZ - target_BYXZ))
        found = {'loss': mse_B * self.weighting.weight(self.prediction, signal_B / (1 - signal_B)), 'mse': mse_B}
        if said is None:
            return found, auxiliary
        guess_BYXZ = self.prediction.image(jax.lax.stop_gradient(predicted_BYXZ), noised_BYXZ, alpha, sigma)
        row = denoising.per_image(steps_B)
        true = posterior(tables, row, image_BYXZ, noised_BYXZ)
        back = variances.Gaussian(
            posterior(tables, row, guess_BYXZ, noised_BYXZ).mean, self.variance.log_variance(tables, row, said)
        )
        found['vlb'] = denoising.image_mean(variances.bound_bits(image_BYXZ, true, back, first=row == 0))
        return {**found, 'loss': found['loss'] + found['vlb']}, auxiliary

    def split(self, output: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """What the network says of the image, and of the variance where it predicts one: half of its channels each."""
        if not self.predicts_variance:
            return output, None
        of_image, of_variance = jnp.split(output, 2, axis=-1)
        return of_image, of_variance

    def denoised(self, predict: denoising.Predict, noised_BYXZ: jax.Array, sigma: jax.Array) -> jax.Array:
        # The step whose noise is as large beside the image; between steps, t is interpolated.
        tables, dtype = self.schedule.tables(), precision.sums(noised_BYXZ.dtype)
        deviations = jnp.log(jnp.asarray(tables.deviations, dtype))
        time = jnp.interp(jnp.log(sigma), deviations, jnp.asarray(tables.steps, dtype))
        alpha = jax.lax.rsqrt(1 + sigma * sigma)
        scaled_BYXZ = noised_BYXZ * alpha
        times_B = jnp.full(len(noised_BYXZ), time, jnp.float32)
        predicted_BYXZ, _ = self.split(precision.raised(predict(scaled_BYXZ, times_B)))
        return self.prediction.image(predicted_BYXZ, scaled_BYXZ, alpha, sigma * alpha)

    def sigma_range(self) -> tuple[float, float]:
        deviations = self.schedule.tables().deviations
        return float(deviations[0]), float(deviations[-1])


def posterior(
    tables: noise_schedules.NoiseTables, row: jax.Array, image: jax.Array, noised: jax.Array
) -> variances.Gaussian:
    """q(x_{t-1} | x_t, x_0) at row `row` of the tables (Ho et al., 2020, equation 7).

    Args:
      row: int32, broadcast to the images.
      image, noised: x_0 and x_t.
    """
    of_image, of_noised = (jnp.asarray(each, noised.dtype)[row] for each in tables.posterior_mean)
    log_variance = jnp.asarray(tables.posterior_log_variance, noised.dtype)[row]
    return variances.Gaussian(of_image * image + of_noised * noised, log_variance)
