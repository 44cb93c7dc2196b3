"""A sum over a long batch, taken piece by piece, whose gradient is made in the same pass."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel_jax import sharding
from bigmodel_jax.objectives.objective import Mean

PyTree = Any
ROWS = ('batch', 'length')
Part = Callable[..., tuple[Mean, dict[str, Mean]]]  # (head_VD, x, *others) -> loss and metrics.


def summed(
    function: Part, head_VD: jax.Array, x_BTD: jax.Array, others: tuple[jax.Array, ...], *, pieces: int
) -> tuple[Mean, dict[str, Mean]]:
    """The sum of `function(head_VD, x, *others)` over `pieces` equal cuts of the arrays along their second axis.

    Forward and backward pass of a piece follow one another, so that neither its logits are kept nor computed twice.
    Each device sums up its own rows, so that the output matrix is laid out whole once, and its gradient added up over
    the devices once, not once for each piece.

    Args:
      head_VD: the output matrix, which may be split over 'tensor'.
      x_BTD: the features. Gradients pass to both from the total of the loss alone; not from counts and metrics.
      others: [B, T] arrays without a gradient.
    """

    @jax.custom_vjp
    def total(head_VD: jax.Array, x_BTD: jax.Array, others: tuple[jax.Array, ...]) -> tuple[Mean, dict[str, Mean]]:
        return _on_each(_sums, function, pieces, others, gradients=False)(head_VD, x_BTD, *others)

    def forward(head_VD: jax.Array, x_BTD: jax.Array, others: tuple[jax.Array, ...]) -> tuple[PyTree, PyTree]:
        sums, of_head, of_x = _on_each(_gradients, function, pieces, others, gradients=True)(head_VD, x_BTD, *others)
        # The layers' backward pass waits, so that no device carries the whole gradient of the matrix through it.
        return sums, jax.lax.optimization_barrier((of_head, of_x))

    def backward(grads: PyTree, cotangent: tuple[Mean, dict[str, Mean]]) -> tuple[jax.Array, jax.Array, None]:
        scale = cotangent[0].total
        of_head, of_x = (grad * scale.astype(grad.dtype) for grad in grads)
        return of_head, of_x, None

    total.defvjp(forward, backward)
    # Whole positions once, not for each piece: the stream may be cut along them over 'tensor'.
    return total(head_VD, sharding.constrain(x_BTD, *ROWS, None), others)


def _on_each(
    local: Callable[..., PyTree], function: Part, pieces: int, others: tuple[jax.Array, ...], *, gradients: bool
) -> Callable[..., PyTree]:
    """`local` on each device for its own rows; the rest of the mesh, such as 'tensor', is left to the compiler."""
    axes = sharding.names(*ROWS)
    return sharding.on_each(
        functools.partial(local, function, pieces, axes),
        inputs=((None, None), (*ROWS, None), *(ROWS for _ in others)),
        outputs=((), ('vocab', 'embed'), (*ROWS, None)) if gradients else (),
        over=ROWS,
    )


def _sums(function: Part, pieces: int, axes: tuple[str, ...], head_VD: jax.Array, *arrays: jax.Array) -> PyTree:
    """The sums over all devices, without a gradient."""

    def body(total: PyTree, cuts: tuple[jax.Array, ...]) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, function(head_VD, *cuts)), None

    zero = _zeros(functools.partial(function, head_VD), *_first(arrays, pieces))
    return _over(axes, jax.lax.scan(body, zero, _cut(arrays, pieces))[0])


def _gradients(
    function: Part, pieces: int, axes: tuple[str, ...], head_VD: jax.Array, *arrays: jax.Array
) -> tuple[PyTree, jax.Array, jax.Array]:
    """The sums over all devices, and the gradients of the total of the loss for `head_VD` and for this device's x."""

    def one(head_VD: jax.Array, x_BTD: jax.Array, *others: jax.Array) -> tuple[jax.Array, PyTree]:
        sums = function(head_VD, x_BTD, *others)
        return sums[0].total, sums

    value_and_grads = jax.value_and_grad(one, argnums=(0, 1), has_aux=True)

    def body(carry: PyTree, cuts: tuple[jax.Array, ...]) -> tuple[PyTree, jax.Array]:
        total, of_head = carry
        (_, sums), (more, of_x) = value_and_grads(head_VD, *cuts)
        return (jax.tree.map(jnp.add, total, sums), of_head + more), of_x

    # Many small terms: added in float32 even where the weights are bfloat16.
    sums = _zeros(functools.partial(function, head_VD), *_first(arrays, pieces))
    zero = (sums, jnp.zeros(head_VD.shape, jnp.float32))
    (total, of_head), of_x = jax.lax.scan(body, zero, _cut(arrays, pieces))
    of_x_BTD = jnp.moveaxis(of_x, 0, 1).reshape(arrays[0].shape)
    return _over(axes, total), sharding.sum_up(of_head.astype(head_VD.dtype), 'vocab', 'embed', over=ROWS), of_x_BTD


def _cut(arrays: tuple[jax.Array, ...], pieces: int) -> tuple[jax.Array, ...]:
    return tuple(jnp.moveaxis(x.reshape(x.shape[0], pieces, -1, *x.shape[2:]), 1, 0) for x in arrays)


def _first(arrays: tuple[jax.Array, ...], pieces: int) -> tuple[jax.Array, ...]:
    return tuple(x[:, : x.shape[1] // pieces] for x in arrays)


def _zeros(function: Callable[..., PyTree], *arguments: Any) -> PyTree:
    return jax.tree.map(jnp.zeros_like, jax.eval_shape(function, *arguments))


def _over(axes: tuple[str, ...], tree: PyTree) -> PyTree:
    return jax.lax.psum(tree, axes) if axes else tree
