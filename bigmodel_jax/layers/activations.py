"""Activation functions as configs, so that an experiment names one with its variant."""

import dataclasses

import jax


class Activation:
    """Interface: an elementwise function of an array of any shape."""

    def __call__(self, x: jax.Array) -> jax.Array:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Relu(Activation):
    """max(x, 0) (Nair and Hinton, 2010)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gelu(Activation):
    """x * Phi(x) (Hendrycks and Gimpel, 2016): exact, or their approximation by tanh, as in GPT-2's code."""

    approximate: bool = True

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.gelu(x, approximate=self.approximate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuickGelu(Activation):
    """x * sigmoid(1.702 x), an approximation of Gelu (Hendrycks and Gimpel, 2016, section 2), as in CLIP's code."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * jax.nn.sigmoid(1.702 * x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Silu(Activation):
    """x * sigmoid(x) (Elfwing et al., 2017; 'swish' with beta 1)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.silu(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sigmoid(Activation):
    """1 / (1 + exp(-x))."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tanh(Activation):
    """The hyperbolic tangent."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.numpy.tanh(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Softplus(Activation):
    """log(1 + exp(x)) (Dugas et al., 2000)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.softplus(x)
