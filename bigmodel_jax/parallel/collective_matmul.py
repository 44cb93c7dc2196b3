"""Collective matmuls: products with weights that are sharded over `tensor`, overlapped with their communication.

Between the layers the residual stream is split along its positions over `tensor`; within them activations are split
along heads or feed-forward width. One all-gather before the product would need memory for all positions of the ring,
and the devices would wait for it. Instead each device multiplies the piece that it has while the next pieces arrive,
from both neighbours at once; reduce-scatter works the same way in the other direction.

Source: Wang et al. (2023), "Overlap Communication with Dependent Computation via Decomposition in Large Deep Learning
Models", section 5.
"""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from bigmodel_jax import precision
from bigmodel_jax.parallel import einsum, ordering, per_device, sharding
from bigmodel_jax.quantization.operand import WeightOperand

AXIS = 'tensor'
WORTH = 2**24  # Bytes of a device's piece of the residual stream from which the ring is faster than one gather.

# Their subscripts are literal where allgather_matmul() and matmul_reducescatter() are called.
_product, _einsum = jnp.einsum, einsum.einsum


def allgather_matmul(
    x_BTD: jax.Array, subscripts: tuple[str, ...], matrices: tuple[jax.Array, ...], *, cuts: tuple[str, ...]
) -> tuple[jax.Array, ...]:
    """Products of the gathered residual stream with weights, such as 'BTD,DHK->BTHK', sharded as the weights are.

    Args:
      cuts: the logical axis along which each weight is sharded; the first after D.
    """
    # A weight of few bits is multiplied in its own way, without the ring.
    if any(isinstance(each, WeightOperand) for each in matrices) or not _pays(x_BTD, cuts):
        x_BTD = sharding.constrain(x_BTD, 'batch', 'length', 'embed')  # Once, for all products.
        return tuple(_einsum(each, x_BTD, matrix) for each, matrix in zip(subscripts, matrices))
    rest = [(None,) * (matrix.ndim - 2) for matrix in matrices]
    run = per_device.shard_map(
        lambda x_BTD, *matrices: _gathered(subscripts, x_BTD, matrices),
        inputs=(('batch', 'residual_length', None), *((None, cut, *more) for cut, more in zip(cuts, rest))),
        outputs=tuple(('batch', 'length', cut, *more) for cut, more in zip(cuts, rest)),
    )
    return run(x_BTD, *matrices)


def matmul_reducescatter(subscripts: str, y: jax.Array, matrix: jax.Array, *, cut: str) -> jax.Array:
    """The product of a sublayer's activations with a weight, such as 'BTHK,HKD->BTD', reduce-scattered over positions.

    Args:
      cut: the logical axis along which `y`, in its third dimension, and the weight, in its first, are sharded.
    """
    if isinstance(matrix, WeightOperand):
        return _einsum(subscripts, y, matrix)
    if not _pays(jax.eval_shape(functools.partial(_product, subscripts), y, matrix), (cut,)):
        return _einsum(subscripts, y, matrix)
    more = (None,) * (y.ndim - 3)
    run = per_device.shard_map(
        functools.partial(_scattered, subscripts),
        inputs=(('batch', 'length', cut, *more), (cut, *more, None)),
        outputs=('batch', 'residual_length', None),
    )
    return run(y, matrix)


def _pays(x_BTD: jax.Array | jax.ShapeDtypeStruct, cuts: tuple[str, ...]) -> bool:
    """Whether the residual stream is split over the ring in large enough pieces, and the weights over it alone."""
    place = sharding.current()
    if place is None or AXIS not in place.names('residual_length') or any(place.names(cut) != (AXIS,) for cut in cuts):
        return False
    pieces = place.shards('batch') * place.shards('residual_length')
    whole = x_BTD.shape[0] % place.shards('batch') == 0 and x_BTD.shape[1] % place.shards('residual_length') == 0
    return whole and x_BTD.size * x_BTD.dtype.itemsize >= pieces * WORTH


# ---- on each device: t positions of the stream, T of the layer ------------------------------------------------------


def _neighbour(x: jax.Array, step: int) -> jax.Array:
    """The value of the device `step` places back in the ring."""
    size = jax.lax.axis_size(AXIS)
    return jax.lax.ppermute(x, AXIS, [(i, (i + step) % size) for i in range(size)])


def _passing(x: jax.Array) -> Iterator[tuple[jax.Array, jax.Array]]:
    """The `x` of every device in the order of arrival, with the index of the device in the ring."""
    size, here = jax.lax.axis_size(AXIS), jax.lax.axis_index(AXIS)
    yield x, here
    ahead = behind = x
    for step in range(1, size // 2 + 1):
        ahead = _neighbour(ahead, 1)
        yield ahead, (here - step) % size
        if 2 * step < size:
            behind = _neighbour(behind, -1)
            yield behind, (here + step) % size


def _summed(part: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The sum over all devices of part(index of this device in the ring)."""
    size, here = jax.lax.axis_size(AXIS), jax.lax.axis_index(AXIS)
    total = part(here)
    for direction, reach in ((1, size // 2), (-1, (size - 1) // 2)):
        if reach == 0:
            continue
        carried = part((here + direction * reach) % size)
        for step in range(1, reach + 1):
            carried = _neighbour(carried, direction)
            if step < reach:
                carried = carried + part((here + direction * (reach - step)) % size)
        total = total + carried
    return total


def _piece(y: jax.Array, place: jax.Array) -> jax.Array:
    t = y.shape[1] // jax.lax.axis_size(AXIS)
    return jax.lax.dynamic_slice_in_dim(y, place * t, t, axis=1)


def _put(whole: jax.Array, piece: jax.Array, place: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(whole, piece, place * piece.shape[1], axis=1)


def _back(subscripts: str, grad: jax.Array, matrix: jax.Array) -> jax.Array:
    of_x, of_matrix, of_grad = subscripts.replace('->', ',').split(',')
    return _product(f'{of_grad},{of_matrix}->{of_x}', grad, matrix)


def _of_matrix(subscripts: str, x: jax.Array, grad: jax.Array) -> jax.Array:
    of_x, of_matrix, of_grad = subscripts.replace('->', ',').split(',')
    return _product(f'{of_x},{of_grad}->{of_matrix}', x, grad, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gathered(subscripts: tuple[str, ...], x_BtD: jax.Array, matrices: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    rows, length = x_BtD.shape[0], x_BtD.shape[1] * jax.lax.axis_size(AXIS)
    found = [jnp.zeros((rows, length, *matrix.shape[1:]), x_BtD.dtype) for matrix in matrices]
    for piece, place in _passing(x_BtD):
        products = [_product(each, piece, matrix) for each, matrix in zip(subscripts, matrices)]
        found = [_put(whole, product, place) for whole, product in zip(found, products)]
    return tuple(found)


def _gathered_forward(
    subscripts: tuple[str, ...], x_BtD: jax.Array, matrices: tuple[jax.Array, ...]
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, tuple[jax.Array, ...]]]:
    return _gathered(subscripts, x_BtD, matrices), (x_BtD, matrices)


def _gathered_backward(
    subscripts: tuple[str, ...], saved: tuple[jax.Array, tuple[jax.Array, ...]], grads: tuple[jax.Array, ...]
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    x_BtD, matrices = saved

    def part(place: jax.Array) -> jax.Array:
        parts = (_back(each, _piece(grad, place), matrix) for each, grad, matrix in zip(subscripts, grads, matrices))
        return functools.reduce(jnp.add, parts)

    of_matrices = [jnp.zeros(matrix.shape, precision.sums(matrix.dtype)) for matrix in matrices]
    grads, x_BtD = ordering.one_by_one(grads, x_BtD)
    for piece, place in _passing(x_BtD):
        more = [_of_matrix(each, piece, _piece(grad, place)) for each, grad in zip(subscripts, grads)]
        of_matrices = [total + one for total, one in zip(of_matrices, more)]
        of_matrices, grads = ordering.one_by_one(of_matrices, grads)
    cast = tuple(total.astype(matrix.dtype) for total, matrix in zip(of_matrices, matrices))
    return _summed(part), cast


_gathered.defvjp(_gathered_forward, _gathered_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scattered(subscripts: str, y: jax.Array, matrix: jax.Array) -> jax.Array:
    return _summed(lambda place: _product(subscripts, _piece(y, place), matrix))


def _scattered_forward(
    subscripts: str, y: jax.Array, matrix: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _scattered(subscripts, y, matrix), (y, matrix)


def _scattered_backward(
    subscripts: str, saved: tuple[jax.Array, jax.Array], grad_BtD: jax.Array
) -> tuple[jax.Array, jax.Array]:
    y, matrix = saved
    of_y, of_matrix = jnp.zeros_like(y), jnp.zeros(matrix.shape, precision.sums(matrix.dtype))
    for piece, place in _passing(grad_BtD):
        of_matrix = of_matrix + _of_matrix(subscripts, _piece(y, place), piece)
        of_matrix, of_y = ordering.one_by_one(of_matrix, of_y)
        of_y = _put(of_y, _back(subscripts, piece, matrix), place)
    return of_y, of_matrix.astype(matrix.dtype)


_scattered.defvjp(_scattered_forward, _scattered_backward)
