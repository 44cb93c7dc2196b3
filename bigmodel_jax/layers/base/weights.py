"""Declaring weights: shape, logical axes and initializer in one line; stored in float32, cast where they are read."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from bigmodel_jax import config, initialization
from bigmodel_jax.layers.base import low_rank
from bigmodel_jax.quantization.operand import WeightOperand

ADAPTER = initialization.ADAPTER


class Initializer:
    """Interface of the configs that draw initial weights."""

    def draw(self, key: jax.Array, shape: tuple[int, ...], fan_in: int, fan_out: int) -> jax.Array:
        """Float32 weights of `shape`; the fans are the inputs and outputs of the matrix that `shape` stands for."""
        raise NotImplementedError

    def deviation(self, fan_in: int, fan_out: int) -> float:
        """The standard deviation of the weights that draw() gives.

        Raises:
          InputError: the initializer does not say.
        """
        raise config.InputError(f'{type(self).__name__} does not say its standard deviation; give it deviation().')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Normal(Initializer):
    """A normal distribution with a fixed standard deviation (GPT-2: 0.02)."""

    stddev: config.Rate

    def draw(self, key: jax.Array, shape: tuple[int, ...], fan_in: int, fan_out: int) -> jax.Array:
        return self.stddev * jax.random.normal(key, shape, jnp.float32)

    def deviation(self, fan_in: int, fan_out: int) -> float:
        return self.stddev


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform(Initializer):
    """Uniform in [-limit, limit], whatever the fans are."""

    limit: config.Rate

    def draw(self, key: jax.Array, shape: tuple[int, ...], fan_in: int, fan_out: int) -> jax.Array:
        return jax.random.uniform(key, shape, jnp.float32, -self.limit, self.limit)

    def deviation(self, fan_in: int, fan_out: int) -> float:
        return self.limit / math.sqrt(3.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FanIn(Initializer):
    """Normal with variance scale / fan_in, cut at two standard deviations (LeCun et al., 1998, section 4.6)."""

    scale: config.Rate = 1.0

    def draw(self, key: jax.Array, shape: tuple[int, ...], fan_in: int, fan_out: int) -> jax.Array:
        # 0.8796 is the standard deviation of a unit normal cut at +-2.
        stddev = math.sqrt(self.scale / fan_in) / 0.87962566103423978
        return stddev * jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)

    def deviation(self, fan_in: int, fan_out: int) -> float:
        return math.sqrt(self.scale / fan_in)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Xavier(Initializer):
    """Uniform with variance 2 / (fan_in + fan_out) (Glorot and Bengio, 2010, equation 16)."""

    def draw(self, key: jax.Array, shape: tuple[int, ...], fan_in: int, fan_out: int) -> jax.Array:
        limit = math.sqrt(6.0 / (fan_in + fan_out))
        return jax.random.uniform(key, shape, jnp.float32, -limit, limit)

    def deviation(self, fan_in: int, fan_out: int) -> float:
        return math.sqrt(2.0 / (fan_in + fan_out))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times(Initializer):
    """The weights that another initializer draws, times a factor."""

    init: Initializer
    factor: config.Rate

    def draw(self, key: jax.Array, shape: tuple[int, ...], fan_in: int, fan_out: int) -> jax.Array:
        return self.factor * self.init.draw(key, shape, fan_in, fan_out)

    def deviation(self, fan_in: int, fan_out: int) -> float:
        return self.factor * self.init.deviation(fan_in, fan_out)


class Declared(nn.LogicallyPartitioned):
    """A weight with its logical axes, as Flax keeps them, and which of them are contracted with the input."""

    inputs: tuple[str, ...] = struct.field(default=(), pytree_node=False)


def weight(
    module: nn.Module,
    name: str,
    axes: dict[str, int],
    *,
    init: Initializer,
    inputs: tuple[str, ...],
    dtype: jnp.dtype,
) -> jax.Array:
    """A matrix (or higher tensor) that `module` owns, cast to `dtype`.

    Args:
      axes: logical axis -> size, in order: {'embed': D, 'heads': H, 'head': K}.
      inputs: the axes that are contracted with the input; the others are its outputs.
    """
    found: Any = matrix(module, name, axes, init=init, inputs=inputs, dtype=dtype)
    return found.array(dtype) if isinstance(found, WeightOperand) else found


def matrix(
    module: nn.Module,
    name: str,
    axes: dict[str, int],
    *,
    init: Initializer,
    inputs: tuple[str, ...],
    dtype: jnp.dtype,
) -> jax.Array:
    """As weight(), for a matrix that the caller only multiplies by, with parallel/einsum.py.

    It may be a quantization.operand.WeightOperand, which einsum() knows how to multiply.
    """
    stored: Any = module.get_variable('params', name) if module.has_variable('params', name) else None
    if isinstance(stored, WeightOperand):  # Flax would compare its arrays with the shape of the weight.
        return _adapted(module, name, stored.astype(dtype), (axes, inputs))
    shape = tuple(axes.values())
    fan_in = math.prod(axes[axis] for axis in inputs)
    # Each expert is a matrix of its own.
    fan_out = math.prod(shape) // fan_in // axes.get('experts', 1)

    def draw(key: jax.Array) -> Declared:
        return Declared(init.draw(key, shape, fan_in, fan_out), tuple(axes), inputs=inputs)

    drawn: Any = module.param(name, draw)
    return _adapted(module, name, drawn.astype(dtype), (axes, inputs))


def _adapted(module: nn.Module, name: str, stored: Any, of: tuple[dict[str, int], tuple[str, ...]]) -> Any:
    """The weight with its low-rank adapter, if it has one; see adapters/lora.py.

    Args:
      of: the axes of the weight, and which of them are its inputs.
    """
    if not module.has_variable('params', name + ADAPTER):
        return stored
    node, (axes, inputs) = module.get_variable('params', name + ADAPTER), of
    split = low_rank.Factorization.of(tuple(axes), [index for index, axis in enumerate(axes) if axis in inputs])
    key = module.make_rng('dropout') if 'rate' in node and module.has_rng('dropout') else None
    return low_rank.AdaptedWeight(stored, node, split, key)


def input_axes(boxed: Any) -> dict[str, tuple[int, ...]]:
    """Path of each weight() of a model -> which of its axes are contracted with the input.

    Args:
      boxed: the parameters as module.init() gives them, or their shapes.
    """
    leaves = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=lambda node: isinstance(node, Declared))
    return {
        jax.tree_util.keystr(path, simple=True, separator='.'): tuple(
            index for index, axis in enumerate(leaf.names) if axis in leaf.inputs
        )
        for path, leaf in leaves
        if isinstance(leaf, Declared)
    }


def logical_axes(boxed: Any) -> Any:
    """The logical axes a parameter was declared with; None for each axis of one declared by plain Flax.

    Args:
      boxed: the parameters as module.init() gives them, or their shapes.
    """

    def one(leaf: Any) -> tuple[str | None, ...]:
        return tuple(leaf.names) if isinstance(leaf, nn.LogicallyPartitioned) else (None,) * nn.meta.unbox(leaf).ndim

    return jax.tree.map(one, boxed, is_leaf=lambda node: isinstance(node, nn.meta.AxisMetadata))


def unboxed(boxed: Any) -> Any:
    """The arrays (or shapes) of parameters as module.init() gives them."""
    return nn.meta.unbox(boxed)


def vector(module: nn.Module, name: str, axes: dict[str, int], *, value: float, dtype: jnp.dtype) -> jax.Array:
    """A bias (value 0) or scale (value 1) that `module` owns, cast to `dtype`; its name says which of the two it is."""
    assert name.endswith(('bias', 'scale')), name  # Weight decay knows vectors by their names.
    shape = tuple(axes.values())
    fill = nn.with_logical_partitioning(lambda key: jnp.full(shape, value, jnp.float32), tuple(axes))
    filled: Any = module.param(name, fill)
    return filled.astype(dtype)
