"""Normalisation, in float32 or float64 (see precision.py): of each position over its channels, or of each channel over
the batch."""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from bigmodel_jax import config, precision
from bigmodel_jax.layers.base import weights

STATISTICS = 'batch_stats'  # The collection of running means and variances, called as in Flax.


# ---- mathematics ------------------------------------------------------------------------------------------------


def layer_norm(x: jax.Array, *, epsilon: float) -> jax.Array:
    """[..., D] -> [..., D] of mean 0 and variance 1. Source: Ba et al. (2016), arXiv:1607.06450, equation 4."""
    x = precision.raised(x)
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + epsilon)


def rms_norm(x: jax.Array, *, epsilon: float) -> jax.Array:
    """[..., D] -> [..., D] of mean square 1. Source: Zhang and Sennrich (2019), arXiv:1910.07467, section 4."""
    x = precision.raised(x)
    return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + epsilon)


def group_norm(x: jax.Array, *, groups: int, epsilon: float) -> jax.Array:
    """[B, ..., D] -> [B, ..., D]: each example's channels in `groups` groups, each of mean 0 and variance 1.

    Source: Wu and He (2018), arXiv:1803.08494, equations 1, 2 and 7.
    """
    grouped = precision.raised(x).reshape(*x.shape[:-1], groups, -1)
    axes = (*range(1, x.ndim - 1), x.ndim)  # All but the batch and the groups.
    centred = grouped - grouped.mean(axis=axes, keepdims=True)
    scaled = centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=axes, keepdims=True) + epsilon)
    return scaled.reshape(x.shape)


class Moments(NamedTuple):
    """The mean and the variance of each channel, and over how many numbers they were taken."""

    mean_D: jax.Array
    variance_D: jax.Array  # The mean of the squared deviations.
    size: jax.Array | float


def batch_moments(x: jax.Array, weights_B: jax.Array | None) -> Moments:
    """The moments of the channels of [B, ..., D], in float32 or float64.

    Under jit the batch is that of all devices, so that these are its moments, whatever the mesh.

    Args:
      weights_B: examples of weight 0 do not count, whatever they hold; None: all count.
    """
    x, axes = precision.raised(x), tuple(range(x.ndim - 1))
    size = math.prod(x.shape[1:-1])
    if weights_B is None:
        mean_D = x.mean(axis=axes)
        return Moments(mean_D, jnp.square(x - mean_D).mean(axis=axes), float(x.shape[0] * size))
    counts = (weights_B != 0).reshape(-1, *[1] * (x.ndim - 1))
    count = jnp.maximum(counts.sum(dtype=x.dtype) * size, 1)
    mean_D = jnp.where(counts, x, 0).sum(axis=axes) / count
    return Moments(mean_D, jnp.square(jnp.where(counts, x - mean_D, 0)).sum(axis=axes) / count, count)


# ---- configs and modules ----------------------------------------------------------------------------------------


class Norm:
    """Interface of the normalisation configs."""

    def build(self, name: str | None = None) -> nn.Module:
        """A module (x, weights_B=None) -> y, both [..., D] of one dtype.

        The weights of the examples matter to batch normalisation alone: those of weight 0 do not count.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerNorm(Norm):
    """Layer normalisation with a learned scale, and a learned bias unless `bias=False`."""

    epsilon: config.PositiveFloat = 1e-5
    bias: bool = True

    def build(self, name: str | None = None) -> nn.Module:
        return LayerNormModule(self, name=name)


class LayerNormModule(nn.Module):
    """Owns scale_D and bias_D."""

    config: LayerNorm

    @nn.compact
    def __call__(self, x: jax.Array, weights_B: jax.Array | None = None) -> jax.Array:
        axes = {'embed': x.shape[-1]}
        y = layer_norm(x, epsilon=self.config.epsilon)
        y = y * weights.vector(self, 'scale', axes, value=1.0, dtype=y.dtype)
        if self.config.bias:
            y = y + weights.vector(self, 'bias', axes, value=0.0, dtype=y.dtype)
        return y.astype(x.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RmsNorm(Norm):
    """Root-mean-square normalisation with a learned scale (Llama's choice)."""

    epsilon: config.PositiveFloat = 1e-6

    offset: ClassVar[float] = 0.0  # Added to the weights to make the scale.

    def build(self, name: str | None = None, *, axis: str = 'embed') -> nn.Module:
        """As of every norm; `axis` is the logical axis of the channels, 'head' where they are those of a head."""
        return RmsNormModule(self, axis, name=name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OffsetRmsNorm(RmsNorm):
    """The same with a scale of 1 plus the weights, which start at 0 and which weight decay pulls towards 0.

    Source: the released code of Gemma (2024), arXiv:2403.08295.
    """

    offset: ClassVar[float] = 1.0


class RmsNormModule(nn.Module):
    """Owns scale_D."""

    config: RmsNorm
    axis: str = 'embed'

    @nn.compact
    def __call__(self, x: jax.Array, weights_B: jax.Array | None = None) -> jax.Array:
        c = self.config
        y = rms_norm(x, epsilon=c.epsilon)
        scale = weights.vector(self, 'scale', {self.axis: x.shape[-1]}, value=1.0 - c.offset, dtype=y.dtype)
        return (y * (scale + c.offset if c.offset else scale)).astype(x.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupNorm(Norm):
    """Group normalisation with a learned scale and bias; it knows no batch, and is the same in training."""

    groups: config.Positive = 32
    epsilon: config.PositiveFloat = 1e-5

    def build(self, name: str | None = None) -> nn.Module:
        return GroupNormModule(self, name=name)


class GroupNormModule(nn.Module):
    """Owns scale_D and bias_D."""

    config: GroupNorm

    @nn.compact
    def __call__(self, x: jax.Array, weights_B: jax.Array | None = None) -> jax.Array:
        c, axes = self.config, {'embed': x.shape[-1]}
        if x.shape[-1] % c.groups:
            raise config.InputError(
                f'GroupNorm(groups={c.groups}) does not divide the {x.shape[-1]} channels that it normalises; use a '
                'divisor of them.'
            )
        y = group_norm(x, groups=c.groups, epsilon=c.epsilon)
        y = y * weights.vector(self, 'scale', axes, value=1.0, dtype=y.dtype)
        return (y + weights.vector(self, 'bias', axes, value=0.0, dtype=y.dtype)).astype(x.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchNorm(Norm):
    """Batch normalisation with a learned scale and bias, and running statistics for evaluation.

    The statistics are state of the model (TrainState.model_state). Training normalises by those of the batch, which is
    the batch of all devices, and moves the running ones towards them; of microbatches each has its own. Evaluation
    normalises by the running ones. Training is told by their collection, which only training may change.

    Source: Ioffe and Szegedy (2015), arXiv:1502.03167, algorithms 1 and 2: the running variance is unbiased.
    """

    epsilon: config.PositiveFloat = 1e-5
    momentum: config.Probability = 0.9  # How much of the running statistics stays in each step; PyTorch's is 1 - this.

    def build(self, name: str | None = None) -> nn.Module:
        return BatchNormModule(self, name=name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenBatchNorm(BatchNorm):
    """Batch normalisation that stays what it is: by the running statistics, in training too, which are not changed; and
    without a gradient for its scale and bias.

    For networks that were trained before, and are trained on with batches of few images. Of a network that was not, it
    is the identity.

    Source: Carion et al. (2020), arXiv:2005.12872, section A.4.
    """

    def build(self, name: str | None = None) -> nn.Module:
        return FrozenBatchNormModule(self, name=name)


class FrozenBatchNormModule(nn.Module):
    """Owns what BatchNormModule owns."""

    config: FrozenBatchNorm

    @nn.compact
    def __call__(self, x: jax.Array, weights_B: jax.Array | None = None) -> jax.Array:
        D, dtype = x.shape[-1], precision.sums(x.dtype)
        mean_D = self.variable(STATISTICS, 'mean', jnp.zeros, D, jnp.float32).value.astype(dtype)
        variance_D = self.variable(STATISTICS, 'variance', jnp.ones, D, jnp.float32).value.astype(dtype)
        scale_D = jax.lax.stop_gradient(weights.vector(self, 'scale', {'embed': D}, value=1.0, dtype=dtype))
        bias_D = jax.lax.stop_gradient(weights.vector(self, 'bias', {'embed': D}, value=0.0, dtype=dtype))
        factor_D = scale_D * jax.lax.rsqrt(variance_D + self.config.epsilon)
        return ((precision.raised(x) - mean_D) * factor_D + bias_D).astype(x.dtype)


class BatchNormModule(nn.Module):
    """Owns scale_D and bias_D, and the running mean_D and variance_D."""

    config: BatchNorm

    @nn.compact
    def __call__(self, x: jax.Array, weights_B: jax.Array | None = None) -> jax.Array:
        c, D, dtype = self.config, x.shape[-1], precision.sums(x.dtype)
        mean = self.variable(STATISTICS, 'mean', jnp.zeros, D, jnp.float32)
        variance = self.variable(STATISTICS, 'variance', jnp.ones, D, jnp.float32)
        found = Moments(mean.value.astype(dtype), variance.value.astype(dtype), 0.0)
        if self.is_mutable_collection(STATISTICS) and not self.is_initializing():
            if weights_B is not None:  # Nan times a gradient of 0 would be nan.
                x = jnp.where((weights_B != 0).reshape(-1, *[1] * (x.ndim - 1)), x, 0)
            found = batch_moments(x, weights_B)
            unbiased_D = found.variance_D * (found.size / jnp.maximum(found.size - 1, 1))
            for running, new_D in ((mean, found.mean_D), (variance, unbiased_D)):
                moved_D = c.momentum * running.value + (1 - c.momentum) * jax.lax.stop_gradient(new_D)
                running.value = moved_D.astype(running.value.dtype)
        scale_D = weights.vector(self, 'scale', {'embed': D}, value=1.0, dtype=dtype)
        bias_D = weights.vector(self, 'bias', {'embed': D}, value=0.0, dtype=dtype)
        factor_D = scale_D * jax.lax.rsqrt(found.variance_D + c.epsilon)
        return ((precision.raised(x) - found.mean_D) * factor_D + bias_D).astype(x.dtype)
