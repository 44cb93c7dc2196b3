"""Samplers: how an image is made from noise with a network that removes it.

A sampler is a config; Sampler.sample() is a pure function of the keys of the images, so that an image follows from its
key alone. It runs within jit, its steps as a loop.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config, precision
from bigmodel_jax.objectives import objective as objectives
from bigmodel_jax.objectives.diffusion import denoising, diffusion, noise_schedules

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guidance:
    """Classifier-free guidance: what the network says of a class, away from what it says of none.

    said = of none + scale (of the class - of none). A scale of 1 is the class alone, more is stronger.

    Source: Ho and Salimans (2022), arXiv:2207.12598, equation 6, whose w is scale - 1.
    """

    scale: config.Rate
    # How many channels of the output are guided; the others are those of the class. None: those of the image. The
    # released code of DiT guides the first 3 of its 4 channels.
    channels: config.Positive | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
    """Interface of the samplers."""

    guidance: Guidance | None = None

    only_for: ClassVar[type[denoising.Denoising]] = denoising.Denoising  # The objectives whose networks it samples.

    def check(self, of: objectives.Objective, model: Any) -> None:
        """Raises InputError if it cannot sample from a network that was trained so, or the guidance means nothing."""
        name = type(self).__name__
        if not isinstance(of, denoising.Denoising):
            raise config.InputError(
                f'{name} samples images from a network that removes noise, but objective={type(of).__name__}; use a '
                'diffusion objective, such as Diffusion or Edm.'
            )
        if not isinstance(of, self.only_for):
            raise config.InputError(
                f'{name} goes through the steps of objective=Diffusion; objective={type(of).__name__} has none. Use '
                'Heun.'
            )
        if self.guidance is None or self.guidance.scale == 1:
            return
        given = f'{name}: guidance.scale={self.guidance.scale:g}'
        if getattr(model, 'classes', None) is None:
            raise config.InputError(f'{given} guides towards a class, but the model has classes=None; leave it out.')
        if not of.label_dropout:
            raise config.InputError(
                f'{given} needs what the network says of no class, but it was never trained without one: '
                'objective.label_dropout=0. Train with label_dropout=0.1, or leave the guidance out.'
            )

    def sample(self, of: denoising.Denoising, predict: denoising.Predict, keys_B: jax.Array, shape: Shape) -> jax.Array:
        """[B, Y, X, Z] float32: an image for each key.

        Args:
          of: what the network was trained with.
          predict: the network, with guidance if there is one.
          shape: [Y, X, Z].
        """
        raise NotImplementedError


def normal(keys_B: jax.Array, number: jax.Array | int, shape: Shape) -> jax.Array:
    """[B, Y, X, Z] float32 of a standard normal distribution: the draw `number` for each key."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, number), shape, jnp.float32))(keys_B)


# ---- in the steps of training -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepwiseSampler(Sampler):
    """What the samplers have in common that go back through the steps of Diffusion."""

    steps: config.Positive = 50
    spacing: noise_schedules.StepSpacing = noise_schedules.EvenlySpaced()
    clip: config.PositiveFloat | None = 1.0  # What the network sees as the image is cut to [-clip, clip]; None: not.

    only_for = diffusion.Diffusion

    def check(self, of: objectives.Objective, model: Any) -> None:
        super().check(of, model)
        assert isinstance(of, diffusion.Diffusion)
        if self.steps > of.schedule.steps:
            raise config.InputError(
                f'{type(self).__name__}: steps={self.steps} is more than the {of.schedule.steps} steps of the '
                f'objective; use at most {of.schedule.steps}.'
            )

    def sample(self, of: denoising.Denoising, predict: denoising.Predict, keys_B: jax.Array, shape: Shape) -> jax.Array:
        assert isinstance(of, diffusion.Diffusion)
        tables = of.schedule.tables(self.spacing.choose(of.schedule.steps, self.steps))
        steps = jnp.asarray(tables.steps, jnp.float32)

        def back(number: jax.Array, noised_BYXZ: jax.Array) -> jax.Array:
            row = self.steps - 1 - number
            output = predict(noised_BYXZ, jnp.full(len(keys_B), steps[row], jnp.float32))
            return self.step(of, tables, row, (noised_BYXZ, output), noise_BYXZ=normal(keys_B, number + 1, shape))

        return jax.lax.fori_loop(0, self.steps, back, normal(keys_B, 0, shape))

    def step(
        self,
        of: diffusion.Diffusion,
        tables: noise_schedules.NoiseTables,
        row: jax.Array | int,
        seen: tuple[jax.Array, jax.Array],
        *,
        noise_BYXZ: jax.Array,
    ) -> jax.Array:
        """One step back, from row `row` of the tables to the one before, or to the image from row 0.

        Args:
          seen: x_t, and what the network says of it.
        """
        raise NotImplementedError

    def guess(
        self, of: diffusion.Diffusion, signal: jax.Array, seen: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array | None]:
        """The image as the network sees it, and what it says of the variance."""
        predicted, said = of.split(precision.raised(seen[1]))
        image = of.prediction.image(predicted, seen[0], jnp.sqrt(signal), jnp.sqrt(1 - signal))
        return image if self.clip is None else jnp.clip(image, -self.clip, self.clip), said


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ddpm(StepwiseSampler):
    """Ancestral sampling: each step back draws from p(x_{t-1} | x_t), with the variance of the objective.

    Source: Ho et al. (2020), arXiv:2006.11239, algorithm 2; with fewer steps Nichol and Dhariwal (2021), section 4.
    """

    steps: config.Positive = 250

    def step(
        self,
        of: diffusion.Diffusion,
        tables: noise_schedules.NoiseTables,
        row: jax.Array | int,
        seen: tuple[jax.Array, jax.Array],
        *,
        noise_BYXZ: jax.Array,
    ) -> jax.Array:
        row = jnp.asarray(row)
        image, said = self.guess(of, jnp.asarray(tables.signal, seen[0].dtype)[row], seen)
        mean = diffusion.posterior(tables, row, image, seen[0]).mean
        deviation = jnp.exp(0.5 * of.variance.log_variance(tables, row, said)).astype(mean.dtype)
        return mean + jnp.where(row == 0, 0, deviation) * noise_BYXZ


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ddim(StepwiseSampler):
    """Steps without noise (eta = 0), or with the share eta of that of ancestral sampling.

    Source: Song et al. (2020), arXiv:2010.02502, equations 12 and 16.
    """

    eta: config.Fraction = 0.0

    def step(
        self,
        of: diffusion.Diffusion,
        tables: noise_schedules.NoiseTables,
        row: jax.Array | int,
        seen: tuple[jax.Array, jax.Array],
        *,
        noise_BYXZ: jax.Array,
    ) -> jax.Array:
        dtype = seen[0].dtype
        signal, before = (jnp.asarray(each, dtype)[row] for each in (tables.signal, tables.signal_before))
        image, _ = self.guess(of, signal, seen)
        of_noise = (seen[0] - jnp.sqrt(signal) * image) / jnp.sqrt(1 - signal)
        variance = self.eta**2 * jnp.asarray(tables.posterior_variance, dtype)[row]
        return (
            jnp.sqrt(before) * image
            + jnp.sqrt(jnp.maximum(1 - before - variance, 0)) * of_noise
            + jnp.sqrt(variance) * noise_BYXZ
        )


# ---- in deviations of the noise -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heun(Sampler):
    """EDM's sampler: Heun's method for the probability flow, from sigma_max down to 0; with `churn` also stochastic.

    For Edm, and for networks of Diffusion, whose image is scaled and whose step is interpolated. Each step but the
    last calls the network twice.

    Source: Karras et al. (2022), arXiv:2206.00364, algorithm 2 and equation 5.
    """

    steps: config.Positive = 18
    sigma_min: config.PositiveFloat | None = None  # None: as small as the network was trained for;
    sigma_max: config.PositiveFloat | None = None  # None: as large.
    rho: config.PositiveFloat = 7.0
    churn: config.Rate = 0.0  # S_churn: noise that is added again, over all steps.
    churn_range: tuple[config.Rate, config.Rate] = (0.0, 1e9)  # S_tmin and S_tmax: where it is added.
    churn_noise: config.PositiveFloat = 1.0  # S_noise: its deviation.

    def check(self, of: objectives.Objective, model: Any) -> None:
        super().check(of, model)
        assert isinstance(of, denoising.Denoising)
        low, high = self._range(of)
        if low >= high:
            raise config.InputError(f'Heun: sigma_min={low:g} is not below sigma_max={high:g}.')

    def _range(self, of: denoising.Denoising) -> tuple[float, float]:
        low, high = of.sigma_range()
        return self.sigma_min or low, self.sigma_max or high

    def sigmas(self, of: denoising.Denoising) -> np.ndarray:
        """[steps + 1] float64, falling: sigma_max to sigma_min, and 0 (equation 5)."""
        low, high = self._range(of)
        share = np.arange(self.steps) / max(self.steps - 1, 1)
        inverse = 1 / self.rho
        found: np.ndarray = (high**inverse + share * (low**inverse - high**inverse)) ** self.rho
        return np.append(found, 0.0)

    def sample(self, of: denoising.Denoising, predict: denoising.Predict, keys_B: jax.Array, shape: Shape) -> jax.Array:
        sigmas = jnp.asarray(self.sigmas(of), jnp.float32)

        def slope(x_BYXZ: jax.Array, sigma: jax.Array) -> jax.Array:
            return (x_BYXZ - of.denoised(predict, x_BYXZ, sigma)) / sigma

        def churned(number: jax.Array, x_BYXZ: jax.Array) -> tuple[jax.Array, jax.Array]:
            sigma, (low, high) = sigmas[number], self.churn_range
            if not self.churn:
                return x_BYXZ, sigma
            more = min(self.churn / self.steps, 2**0.5 - 1)
            raised = sigma * (1 + jnp.where((sigma >= low) & (sigma <= high), more, 0.0))
            noise_BYXZ = self.churn_noise * normal(keys_B, number + 1, shape)
            return x_BYXZ + jnp.sqrt(raised * raised - sigma * sigma) * noise_BYXZ, raised

        def down(number: jax.Array, x_BYXZ: jax.Array) -> jax.Array:
            x_BYXZ, sigma = churned(number, x_BYXZ)
            after, first_BYXZ = sigmas[number + 1], slope(x_BYXZ, sigma)
            moved_BYXZ = x_BYXZ + (after - sigma) * first_BYXZ
            return x_BYXZ + (after - sigma) * 0.5 * (first_BYXZ + slope(moved_BYXZ, after))

        x_BYXZ = jax.lax.fori_loop(0, self.steps - 1, down, sigmas[0] * normal(keys_B, 0, shape))
        # From sigma_min to 0 by Euler's method, which gives what the network sees as the image.
        x_BYXZ, sigma = churned(jnp.int32(self.steps - 1), x_BYXZ)
        return of.denoised(predict, x_BYXZ, sigma)
