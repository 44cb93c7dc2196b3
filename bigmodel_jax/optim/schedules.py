"""Learning-rate schedules: pure functions of the number of updates already applied (the first update sees 0)."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bigmodel_jax import config

Schedule = Callable[[jax.Array], jax.Array]


def warmup_cosine(step: jax.Array, *, peak: float, warmup_steps: int, steps: int, final: float) -> jax.Array:
    """Rises linearly to `peak`, then falls along half a cosine to `final` at `steps`, and stays there.

    Source: Loshchilov and Hutter (2016), arXiv:1608.03983, equation 5, with one period.
    """
    progress = jnp.clip((step - warmup_steps) / max(steps - warmup_steps, 1), 0.0, 1.0)
    cosine = final + 0.5 * (peak - final) * (1.0 + jnp.cos(jnp.pi * progress))
    return jnp.where(step < warmup_steps, warmup(step, peak=peak, warmup_steps=warmup_steps), cosine)


def warmup(step: jax.Array, *, peak: float, warmup_steps: int) -> jax.Array:
    """peak (step + 1) / warmup_steps, at most `peak`: the first update is not lost to a rate of 0."""
    return peak * jnp.minimum((step + 1) / max(warmup_steps, 1), 1.0)


def inverse_sqrt(step: jax.Array, *, peak: float, warmup_steps: int) -> jax.Array:
    """Rises linearly to `peak`, then falls as 1/sqrt(step).

    Args:
      step: [] int32, updates already applied; the first update sees 0.
      peak: rate at the end of the warm-up.
      warmup_steps: in updates, at least 1.

    Source: Vaswani et al. (2017), equation 3, whose step_num is step + 1 here.
    """
    number = step + 1.0
    return peak * jnp.minimum(number / warmup_steps, jnp.sqrt(warmup_steps / number))


def warmup_linear(step: jax.Array, *, peak: float, warmup_steps: int, steps: int, final: float) -> jax.Array:
    """Rises linearly to `peak`, then falls linearly to `final` at `steps` (Devlin et al., 2018, section A.2)."""
    progress = jnp.clip((step - warmup_steps) / max(steps - warmup_steps, 1), 0.0, 1.0)
    falling = peak + (final - peak) * progress
    return jnp.where(step < warmup_steps, warmup(step, peak=peak, warmup_steps=warmup_steps), falling)


def warmup_stable_decay(
    step: jax.Array, *, peak: float, warmup_steps: int, decay_steps: int, steps: int, final: float
) -> jax.Array:
    """Rises to `peak`, stays there, and falls linearly to `final` over the last `decay_steps`.

    Source: Hu et al. (2024), arXiv:2404.06395, section 4.2.
    """
    progress = jnp.clip((step - (steps - decay_steps)) / max(decay_steps, 1), 0.0, 1.0)
    return jnp.minimum(warmup(step, peak=peak, warmup_steps=warmup_steps), peak + (final - peak) * progress)


class Scheduler:
    """Interface of the schedule configs."""

    def build(self, steps: int) -> Schedule:
        """The schedule of a run of `steps` updates: [] int32 -> [] float32."""
        raise NotImplementedError


def _check_warmup(warmup_steps: int, steps: int) -> None:
    if warmup_steps > steps:
        raise config.InputError(
            f'optimizer.schedule warms up (and decays) over {warmup_steps} steps, more than steps={steps}; use fewer.'
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant(Scheduler):
    """Rises linearly over `warmup_steps` and stays at `peak`."""

    peak: config.Rate
    warmup_steps: config.NonNegative = 0

    def build(self, steps: int) -> Schedule:
        _check_warmup(self.warmup_steps, steps)
        return lambda step: jnp.float32(warmup(step, peak=self.peak, warmup_steps=self.warmup_steps))


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmupCosine(Scheduler):
    """See warmup_cosine()."""

    peak: config.Rate
    warmup_steps: config.NonNegative = 0
    final: config.Rate = 0.0

    def build(self, steps: int) -> Schedule:
        _check_warmup(self.warmup_steps, steps)
        return lambda step: warmup_cosine(step, **dataclasses.asdict(self), steps=steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InverseSqrt(Scheduler):
    """See inverse_sqrt()."""

    peak: config.Rate
    warmup_steps: config.Positive

    def build(self, steps: int) -> Schedule:
        return lambda step: inverse_sqrt(step, **dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConstantInverseSqrt(Scheduler):
    """Stays at `peak` for `constant_steps`, then falls as 1/sqrt(step).

    Source: Raffel et al. (2019), arXiv:1910.10683, section 3.1.2: 1 / sqrt(max(n, k)), which is peak = 1 / sqrt(k).
    """

    peak: config.Rate
    constant_steps: config.Positive

    def build(self, steps: int) -> Schedule:
        return lambda step: self.peak * jnp.sqrt(self.constant_steps / jnp.maximum(step + 1.0, self.constant_steps))


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmupLinear(Scheduler):
    """See warmup_linear()."""

    peak: config.Rate
    warmup_steps: config.NonNegative = 0
    final: config.Rate = 0.0

    def build(self, steps: int) -> Schedule:
        _check_warmup(self.warmup_steps, steps)
        return lambda step: warmup_linear(step, **dataclasses.asdict(self), steps=steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(Scheduler):
    """See warmup_stable_decay()."""

    peak: config.Rate
    decay_steps: config.Positive
    warmup_steps: config.NonNegative = 0
    final: config.Rate = 0.0

    def build(self, steps: int) -> Schedule:
        _check_warmup(self.warmup_steps + self.decay_steps, steps)
        return lambda step: warmup_stable_decay(step, **dataclasses.asdict(self), steps=steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stepwise(Scheduler):
    """Stays at `peak`, and is multiplied by `factor` after so many updates, again and again.

    Source: Krizhevsky et al. (2012), section 5; He et al. (2015), arXiv:1512.03385, section 4.2.
    """

    peak: config.Rate
    boundaries: tuple[config.Positive, ...]  # In updates, ascending: the first update at a new rate is the next one.
    factor: config.PositiveFloat = 0.1
    warmup_steps: config.NonNegative = 0  # Over which it rises linearly at first.

    def build(self, steps: int) -> Schedule:
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise config.InputError(f'optimizer.schedule.boundaries={self.boundaries} should ascend.')
        _check_warmup(self.warmup_steps, steps)
        boundaries = jnp.array(self.boundaries, jnp.int32)

        def rate(step: jax.Array) -> jax.Array:
            passed = (step >= boundaries).sum()
            rising = warmup(step, peak=self.peak, warmup_steps=self.warmup_steps)
            return jnp.float32(rising) * jnp.float32(self.factor) ** passed

        return rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Until(Scheduler):
    """A schedule of so many updates, in a longer run, which continues at the rate at which it ends (GPT-3's cosine).

    This is the rate that the schedule has after its last update: `final`, where it has one.
    """

    schedule: Scheduler
    steps: config.Positive

    def build(self, steps: int) -> Schedule:
        schedule = self.schedule.build(min(self.steps, steps))
        return lambda step: schedule(jnp.minimum(step, self.steps))
