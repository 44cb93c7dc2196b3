"""Training with few bits: products rounded as after training (quantization-aware), or computed in few bits throughout.

fp8 and int8 are the same here but for their formats: every product, forward and backward, is of numbers that were
rounded with scales taken from the numbers themselves (current scaling), one for each row or channel.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel_jax.quantization import formats, quantized_weight
from bigmodel_jax.quantization.operand import WeightOperand
from bigmodel_jax.quantization.quantization import Inputs, Quantization

PyTree = Any


def straight_through(
    x: jax.Array, to: formats.NumberFormat, *, shared: tuple[int, ...], group: int | None = None
) -> jax.Array:
    """`x` rounded to a format, whose gradient is that of `x` itself. Source: Bengio et al. (2013), arXiv:1308.3432."""
    near = formats.multiplied(*formats.rounded(jax.lax.stop_gradient(x), to, shared=shared, group=group))
    return x + jax.lax.stop_gradient(near.astype(x.dtype) - x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizationAware(Quantization):
    """The weights are trained in float32, and read as they will be after quantization: rounded in the forward pass,
    with the gradient of what was rounded. `compress --weights` of the same format then changes nothing.

    Source: Jacob et al. (2017), arXiv:1712.05877, section 3.
    """

    activations: formats.NumberFormat | None = None  # Activations are rounded too, where a layer multiplies by weights.

    def read(self, params: PyTree, inputs: Inputs) -> PyTree:
        chosen = set(self.chosen(inputs))

        def one(path: Any, leaf: jax.Array) -> Any:
            name = jax.tree_util.keystr(path, simple=True, separator='.')
            if name not in chosen:
                return leaf
            near = straight_through(leaf, self.weights, shared=inputs[name], group=self.group)
            return near if self.activations is None else RoundedInputs(near, self.activations)

        return jax.tree_util.tree_map_with_path(one, params)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=('weight',), meta_fields=('activations', 'gradients', 'weights')
)
@dataclasses.dataclass(frozen=True)
class RoundedInputs(WeightOperand):
    """A weight by which activations are multiplied that were rounded to `activations`.

    Attributes:
      gradients: None: the products of the backward pass are in the activations' dtype. Else those of the forward pass
        are of `weights` and `activations`, and those of the backward pass of these and `gradients`.
    """

    weight: jax.Array
    activations: formats.NumberFormat
    gradients: formats.NumberFormat | None = None
    weights: formats.NumberFormat | None = None

    def array(self, dtype: Any) -> jax.Array:
        return self.weight.astype(dtype)

    def astype(self, dtype: Any) -> 'RoundedInputs':
        return dataclasses.replace(self, weight=self.weight.astype(dtype))

    def product(self, subscripts: str, x: jax.Array) -> jax.Array:
        if self.gradients is None or self.weights is None:
            near = straight_through(x, self.activations, shared=quantized_weight.contracted(subscripts)[0])
            return _einsum(subscripts, near, self.weight)
        return low_precision_product(subscripts, (self.activations, self.weights, self.gradients), x, self.weight)


_einsum = jnp.einsum  # The subscripts are literal where parallel.einsum.einsum() is called.
Formats = tuple[formats.NumberFormat, formats.NumberFormat, formats.NumberFormat]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def low_precision_product(subscripts: str, of: Formats, x: jax.Array, weight: jax.Array) -> jax.Array:
    """The einsum of rounded activations and a rounded weight, whose gradients are products of rounded numbers too.

    Args:
      of: the formats of activations, weights and gradients.

    Source: Micikevicius et al. (2022), arXiv:2209.05433, section 3.1; for whole numbers Banner et al. (2018),
    arXiv:1805.11046.
    """
    return _rounded_product(subscripts, (x, of[0]), (weight, of[1]))


def _forward(subscripts: str, of: Formats, x: jax.Array, weight: jax.Array) -> tuple[jax.Array, tuple[Any, Any]]:
    return _rounded_product(subscripts, (x, of[0]), (weight, of[1])), (x, weight)


def _backward(subscripts: str, of: Formats, saved: tuple[Any, Any], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, weight = saved
    of_x, of_weight, of_grad = subscripts.replace('->', ',').split(',')
    grad_x = _rounded_product(f'{of_grad},{of_weight}->{of_x}', (grad, of[2]), (weight, of[1]))
    grad_weight = _rounded_product(f'{of_x},{of_grad}->{of_weight}', (x, of[0]), (grad, of[2]))
    return grad_x.astype(x.dtype), grad_weight.astype(weight.dtype)


low_precision_product.defvjp(_forward, _backward)


def _rounded_product(
    subscripts: str, left: tuple[jax.Array, formats.NumberFormat], right: tuple[jax.Array, formats.NumberFormat]
) -> jax.Array:
    shared = quantized_weight.contracted(subscripts)
    of = [
        formats.as_qarray(*formats.rounded(x, to, shared=axes), x.dtype) for (x, to), axes in zip((left, right), shared)
    ]
    return formats.product(subscripts, *of)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowPrecision(Quantization):
    """The products with weights are computed in few bits, forward and backward; weights and optimizer stay float32.

    By default in fp8: weights and activations with 3 bits of mantissa, gradients with 2 and a wider range. Int8() for
    all three suits TPU v5e and v6e. Only matrices that a layer multiplies by through parallel/einsum.py take part:
    attention and dense feed-forward layers. On a machine whose dots have no such format XLA converts: same numbers,
    no gain.
    """

    weights: formats.NumberFormat = formats.Float8()
    activations: formats.NumberFormat = formats.Float8()
    gradients: formats.NumberFormat = formats.Float8Wide()

    def read(self, params: PyTree, inputs: Inputs) -> PyTree:
        chosen = set(self.chosen(inputs))

        def one(path: Any, leaf: jax.Array) -> Any:
            name = jax.tree_util.keystr(path, simple=True, separator='.')
            return RoundedInputs(leaf, self.activations, self.gradients, self.weights) if name in chosen else leaf

        return jax.tree_util.tree_map_with_path(one, params)
