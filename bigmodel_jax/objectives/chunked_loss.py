"""A sum over a long batch, taken piece by piece, whose gradient is computed in the same pass."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel_jax import precision
from bigmodel_jax.objectives.objective import Mean
from bigmodel_jax.parallel import per_device, sharding

PyTree = Any
Leaves = tuple[jax.Array, ...]
ROWS = ('batch', 'length')
# Logical axes of the arrays of an output layer, by their rank.
HEAD: dict[int, tuple[str, ...]] = {2: ('vocab', 'embed'), 1: ('vocab',), 0: ()}
Part = Callable[..., tuple[Mean, dict[str, Mean]]]  # (head, x, *others) -> loss and metrics.


def summed(
    function: Part, head: PyTree, x_BTD: jax.Array, others: tuple[jax.Array, ...], *, pieces: int
) -> tuple[Mean, dict[str, Mean]]:
    """The sum of `function(head, x, *others)` over `pieces` equal cuts of the arrays along their second axis.

    Forward and backward pass of a piece follow one another, so that neither its logits are kept nor computed twice.
    Each device sums up its own rows, so that the output layer is laid out whole once, and its gradient added up over
    the devices once, not once for each piece.

    Args:
      head: the output layer: arrays [V, D], [V] and [], which may be split over 'tensor'.
      x_BTD: the features. Gradients pass to both from the total of the loss alone; not from counts and metrics.
      others: [B, T] arrays without a gradient.
    """
    leaves, tree = jax.tree.flatten(head)

    def part(leaves: Leaves, *cuts: jax.Array) -> tuple[Mean, dict[str, Mean]]:
        return function(jax.tree.unflatten(tree, leaves), *cuts)

    @jax.custom_vjp
    def total(leaves: Leaves, x_BTD: jax.Array, others: tuple[jax.Array, ...]) -> tuple[Mean, dict[str, Mean]]:
        return _per_device(_sums, part, pieces, (leaves, others), gradients=False)(leaves, x_BTD, *others)

    def forward(leaves: Leaves, x_BTD: jax.Array, others: tuple[jax.Array, ...]) -> tuple[PyTree, PyTree]:
        run = _per_device(_gradients, part, pieces, (leaves, others), gradients=True)
        sums, of_head, of_x = run(leaves, x_BTD, *others)
        # The layers' backward pass waits, so that no device carries the whole gradient of the matrix through it.
        return sums, jax.lax.optimization_barrier((of_head, of_x))

    def backward(grads: PyTree, cotangent: tuple[Mean, dict[str, Mean]]) -> tuple[Leaves, jax.Array, None]:
        scale = cotangent[0].total
        of_head, of_x = jax.tree.map(lambda grad: grad * scale.astype(grad.dtype), grads)
        return of_head, of_x, None

    total.defvjp(forward, backward)
    # Whole positions once, not for each piece: the stream may be cut along them over 'tensor'.
    return total(tuple(leaves), sharding.constrain(x_BTD, *ROWS, None), others)


def _per_device(
    local: Callable[..., PyTree], part: Part, pieces: int, sizes: tuple[Leaves, Leaves], *, gradients: bool
) -> Callable[..., PyTree]:
    """`local` on each device for its own rows; the rest of the mesh, such as 'tensor', is left to the compiler.

    Args:
      sizes: the leaves of the output layer, and the other arrays; for their ranks and number.
    """
    leaves, others = sizes
    axes, of_head = sharding.names(*ROWS), tuple(HEAD[leaf.ndim] for leaf in leaves)
    whole: Any = tuple((None,) * leaf.ndim for leaf in leaves)
    return per_device.shard_map(
        functools.partial(local, part, pieces, axes),
        inputs=(whole, (*ROWS, None), *(ROWS for _ in others)),
        outputs=((), of_head, (*ROWS, None)) if gradients else (),
        over=ROWS,
    )


def _sums(part: Part, pieces: int, axes: tuple[str, ...], leaves: Leaves, *arrays: jax.Array) -> PyTree:
    """The sums over all devices, without a gradient."""

    def body(total: PyTree, cuts: tuple[jax.Array, ...]) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, part(leaves, *cuts)), None

    zero = _zeros(functools.partial(part, leaves), *_first(arrays, pieces))
    return _over(axes, jax.lax.scan(body, zero, _cut(arrays, pieces))[0])


def _gradients(
    part: Part, pieces: int, axes: tuple[str, ...], leaves: Leaves, *arrays: jax.Array
) -> tuple[PyTree, Leaves, jax.Array]:
    """The sums over all devices, and the gradients of the total of the loss for `leaves` and for this device's x."""

    def one(leaves: Leaves, x_BTD: jax.Array, *others: jax.Array) -> tuple[jax.Array, PyTree]:
        sums = part(leaves, x_BTD, *others)
        return sums[0].total, sums

    value_and_grads = jax.value_and_grad(one, argnums=(0, 1), has_aux=True)

    def body(carry: PyTree, cuts: tuple[jax.Array, ...]) -> tuple[PyTree, jax.Array]:
        total, of_head = carry
        (_, sums), (more, of_x) = value_and_grads(leaves, *cuts)
        return jax.tree.map(jnp.add, (total, of_head), (sums, more)), of_x

    # Many small terms: added in float32 even where the weights are bfloat16.
    sums = _zeros(functools.partial(part, leaves), *_first(arrays, pieces))
    zero = (sums, tuple(jnp.zeros(leaf.shape, precision.sums(leaf.dtype)) for leaf in leaves))
    (total, of_head), of_x = jax.lax.scan(body, zero, _cut(arrays, pieces))
    of_x_BTD = jnp.moveaxis(of_x, 0, 1).reshape(arrays[0].shape)
    laid = (
        per_device.psum_over(grad.astype(leaf.dtype), *HEAD[leaf.ndim], over=ROWS)
        for grad, leaf in zip(of_head, leaves)
    )
    return _over(axes, total), tuple(laid), of_x_BTD


def _cut(arrays: tuple[jax.Array, ...], pieces: int) -> tuple[jax.Array, ...]:
    return tuple(jnp.moveaxis(x.reshape(x.shape[0], pieces, -1, *x.shape[2:]), 1, 0) for x in arrays)


def _first(arrays: tuple[jax.Array, ...], pieces: int) -> tuple[jax.Array, ...]:
    return tuple(x[:, : x.shape[1] // pieces] for x in arrays)


def _zeros(function: Callable[..., PyTree], *arguments: Any) -> PyTree:
    return jax.tree.map(jnp.zeros_like, jax.eval_shape(function, *arguments))


def _over(axes: tuple[str, ...], tree: PyTree) -> PyTree:
    return jax.lax.psum(tree, axes) if axes else tree
