"""A product of an activation and a weight, whose gradient for the weight is made in the weight's order."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel_jax.quantization.operand import WeightOperand

_product = jnp.einsum  # Its subscripts are not literal below; they are literal, and checked, where einsum() is called.


def einsum(subscripts: str, x: jax.Array, weight: Any) -> jax.Array:
    """The product of activations and a weight, or of what stands in its place; see _einsum()."""
    if isinstance(weight, WeightOperand):
        return weight.product(subscripts, x)
    return _einsum(subscripts, x, weight)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _einsum(subscripts: str, x: jax.Array, weight: jax.Array) -> jax.Array:
    """jnp.einsum of an activation and a weight of one dtype; its gradient for the weight is made in the weight's order.

    The einsum's own gradient is the transpose of a product. XLA:CPU makes it out of a second, transposed copy of the
    activations, and computes again whatever led to them: a tenth of a training step. Forward-mode differentiation
    (jax.jvp) does not pass; for products of the Hessian with a vector use jax.grad twice.
    """
    return _product(subscripts, x, weight)


def _einsum_forward(subscripts: str, x: jax.Array, weight: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Not _einsum() again, within which a rematerialisation policy would not see the product.
    return _product(subscripts, x, weight), (x, weight)


def _einsum_backward(
    subscripts: str, saved: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, weight = saved
    of_x, of_weight, of_grad = subscripts.replace('->', ',').split(',')
    grad_x = _product(f'{of_grad},{of_weight}->{of_x}', grad, weight)
    return grad_x, _product(f'{of_x},{of_grad}->{of_weight}', x, grad)


_einsum.defvjp(_einsum_forward, _einsum_backward)
