"""Normalisation over the last axis, in float32 or float64; see precision.py."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from bigmodel_jax import config, precision
from bigmodel_jax.layers.base import weights


def layer_norm(x: jax.Array, *, epsilon: float) -> jax.Array:
    """[..., D] -> [..., D] of mean 0 and variance 1. Source: Ba et al. (2016), arXiv:1607.06450, equation 4."""
    x = precision.raised(x)
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + epsilon)


def rms_norm(x: jax.Array, *, epsilon: float) -> jax.Array:
    """[..., D] -> [..., D] of mean square 1. Source: Zhang and Sennrich (2019), arXiv:1910.07467, section 4."""
    x = precision.raised(x)
    return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + epsilon)


class Norm:
    """Interface of the normalisation configs."""

    def build(self, name: str | None = None) -> nn.Module:
        """A module [..., D] -> [..., D] that keeps the dtype of its input."""
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
    def __call__(self, x: jax.Array) -> jax.Array:
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

    def build(self, name: str | None = None) -> nn.Module:
        return RmsNormModule(self, name=name)


class RmsNormModule(nn.Module):
    """Owns scale_D."""

    config: RmsNorm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = rms_norm(x, epsilon=self.config.epsilon)
        scale = weights.vector(self, 'scale', {'embed': x.shape[-1]}, value=1.0, dtype=y.dtype)
        return (y * scale).astype(x.dtype)
