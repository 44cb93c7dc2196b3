"""Products of rows with matrices where each group of rows has a matrix of its own: the experts of a routed layer."""

import functools
from typing import Any

import jax
from jax.experimental.pallas.ops.tpu.megablox import ops

from bigmodel_jax.parallel import sharding

LANES = 128  # Columns of a TPU register; a tile is a multiple of it.
LARGEST_ROWS = 512
# A tile of each operand, each held twice so that the next one loads meanwhile, and a float32 sum must fit into the
# 16 MiB of fast memory that a kernel may use; with these, 12 MiB at most.
LARGEST_COLUMNS = {2: 1_024, 4: 512}  # Bytes of a number -> columns.


def grouped_matmul(x_ND: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """x[n] @ w[e] for each row n of group e, [N, F] in the dtype of x.

    Where the groups have fewer rows than x, the rest of the result, and of the gradient for x, is not defined and may
    be nan: it must not be read. On TPU, and where the sizes allow, the kernel is megablox (Gale et al., 2022,
    arXiv:2211.15841), which skips that rest; elsewhere jax.lax.ragged_dot.

    Args:
      x_ND: rows sorted by group.
      sizes_E: [E] int32, the rows of each group, which may be none.
    """
    if _is_fused(x_ND, w_EDF):
        return megablox(x_ND, w_EDF, sizes_E)
    return jax.lax.ragged_dot(x_ND, w_EDF, sizes_E)


def gradient_of_rows(x_ND: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array, grad_NF: jax.Array) -> jax.Array:
    """The gradient of grouped_matmul() for `x_ND`, of which shape and dtype are read; from that of the result."""
    if _is_fused(x_ND, w_EDF):
        return _of_rows(x_ND.dtype, w_EDF, sizes_E, grad_NF)
    (grad_ND,) = jax.linear_transpose(lambda x_ND: jax.lax.ragged_dot(x_ND, w_EDF, sizes_E), x_ND)(grad_NF)
    return grad_ND


def gradient_of_matrices(x_ND: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array, grad_NF: jax.Array) -> jax.Array:
    """The gradient of grouped_matmul() for `w_EDF`, of which shape and dtype are read; from that of the result."""
    if _is_fused(x_ND, w_EDF):
        return _of_matrices(x_ND, w_EDF.dtype, sizes_E, grad_NF)
    (grad_EDF,) = jax.linear_transpose(lambda w_EDF: jax.lax.ragged_dot(x_ND, w_EDF, sizes_E), w_EDF)(grad_NF)
    return grad_EDF


def _is_fused(x_ND: jax.Array, w_EDF: jax.Array) -> bool:
    place = sharding.current()
    if place is None or place.platform != 'tpu' or x_ND.dtype.itemsize not in LARGEST_COLUMNS:
        return False
    return fits(x_ND.shape[0], *w_EDF.shape[1:])


def fits(rows: int, inputs: int, outputs: int) -> bool:
    """Whether megablox can take these sizes, which must be multiples of its smallest tile."""
    return all(size % LANES == 0 for size in (rows, inputs, outputs))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def megablox(x_ND: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array, interpret: bool = False) -> jax.Array:
    """grouped_matmul() by the kernel.

    The library's own gradient uses the tiles of the forward product, whose columns need not divide those of the
    backward products; hence a gradient of ours.

    Args:
      interpret: run the kernel's program on a CPU, slowly.
    """
    return ops.backend.gmm(x_ND, w_EDF, sizes_E, x_ND.dtype, _tiles(x_ND.dtype.itemsize), interpret=interpret)


Saved = tuple[jax.Array, jax.Array, jax.Array]


def _forward(x_ND: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array, interpret: bool) -> tuple[jax.Array, Saved]:
    return megablox(x_ND, w_EDF, sizes_E, interpret), (x_ND, w_EDF, sizes_E)


def _backward(interpret: bool, saved: Saved, grad_NF: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    x_ND, w_EDF, sizes_E = saved
    grad_ND = _of_rows(x_ND.dtype, w_EDF, sizes_E, grad_NF, interpret=interpret)
    return grad_ND, _of_matrices(x_ND, w_EDF.dtype, sizes_E, grad_NF, interpret=interpret), None


def _of_rows(
    dtype: Any, w_EDF: jax.Array, sizes_E: jax.Array, grad_NF: jax.Array, *, interpret: bool = False
) -> jax.Array:
    tiles = _tiles(dtype.itemsize)
    return ops.backend.gmm(grad_NF, w_EDF, sizes_E, dtype, tiles, transpose_rhs=True, interpret=interpret)


def _of_matrices(
    x_ND: jax.Array, dtype: Any, sizes_E: jax.Array, grad_NF: jax.Array, *, interpret: bool = False
) -> jax.Array:
    tiles = _tiles(x_ND.dtype.itemsize)
    return ops.backend.tgmm(x_ND.swapaxes(0, 1), grad_NF, sizes_E, dtype, tiles, interpret=interpret)


megablox.defvjp(_forward, _backward)


@functools.cache  # The kernel is compiled once for each function that it is given.
def _tiles(itemsize: int) -> ops.backend.LutFn:
    """A function (rows, inputs, outputs) -> the sizes of a tile along each."""

    def sizes(rows: int, inputs: int, outputs: int) -> tuple[int, int, int]:
        columns = LARGEST_COLUMNS[itemsize]
        return _tile(rows, LARGEST_ROWS), _tile(inputs, columns), _tile(outputs, columns)

    return sizes


def _tile(size: int, largest: int) -> int:
    """The largest multiple of LANES that divides `size` and is not above `largest`."""
    return next(tile for tile in range(largest, 0, -LANES) if size % tile == 0)
