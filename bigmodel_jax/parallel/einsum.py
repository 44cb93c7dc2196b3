"""A product of an activation and a weight, whose gradient for the weight is made in the weight's order."""

import functools

import jax
import jax.numpy as jnp

_product = jnp.einsum  # Its subscripts are not literal below; they are literal, and checked, where einsum() is called.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def einsum(subscripts: str, x: jax.Array, weight: jax.Array) -> jax.Array:
    """jnp.einsum of an activation and a weight of one dtype; its gradient for the weight is made in the weight's order.

    The einsum's own gradient is the transpose of a product. XLA:CPU makes it out of a second, transposed copy of the
    activations, and computes again whatever led to them: a tenth of a training step. Forward-mode differentiation
    (jax.jvp) does not pass; for products of the Hessian with a vector use jax.grad twice.
    """
    return _product(subscripts, x, weight)


def _einsum_forward(subscripts: str, x: jax.Array, weight: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Not einsum() again, within which a rematerialisation policy would not see the product.
    return _product(subscripts, x, weight), (x, weight)


def _einsum_backward(
    subscripts: str, saved: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, weight = saved
    of_x, of_weight, of_grad = subscripts.replace('->', ',').split(',')
    grad_x = _product(f'{of_grad},{of_weight}->{of_x}', grad, weight)
    return grad_x, _product(f'{of_x},{of_grad}->{of_weight}', x, grad)


einsum.defvjp(_einsum_forward, _einsum_backward)
