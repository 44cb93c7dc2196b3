"""Defaults of the optimizers: which weights decay, and which matrices Muon orthogonalizes, by their logical axes.

Layers of this package name every axis of their weights. Those of plain Flax (nn.Dense, nn.Conv ...) name none; what
they are for is then known from Flax's own names ('kernel', 'bias', 'scale', 'embedding') and their number of axes.
"""

from typing import Any

import jax
import optax

PyTree = Any
Axes = tuple[str | None, ...]

# Vectors end so (layers/base/weights.py sees to it); everything else is a matrix or a table.
VECTORS = ('bias', 'scale')
# Axes of tables, which are looked up and not multiplied, and of the output layer: Muon leaves them to Adam.
TABLES = frozenset({'vocab', 'length', 'types'})
# Flax layers that project to heads: their kernel is [inputs, heads, width of a head].
PROJECTIONS = ('query', 'key', 'value')


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path[-1:], simple=True)


def decayed(axes: PyTree) -> PyTree:
    """True for the weights that decay: matrices and tables, not biases and scales.

    A weight that names no axes decays if it has two or more of them.

    Args:
      axes: for each parameter the tuple of its logical axes, None for each axis without a name.
    """

    def one(path: Any, names: Axes) -> bool:
        return not _name(path).endswith(VECTORS) and (any(names) or len(names) > 1)

    return jax.tree_util.tree_map_with_path(one, axes, is_leaf=_is_axes)


def orthogonalised(axes: PyTree) -> PyTree:
    """For Muon: which axes of each hidden matrix are its inputs and outputs; None for what Adam updates.

    One side of every hidden matrix is the model's width; the other axes, without 'layers' and 'experts', are the
    other. Of the weights that name no axes, those called 'kernel' with two or more are taken, the first and the last
    layer of a network among them; their last axis is the output, as in nn.Dense and nn.Conv.
    """

    def one(path: Any, names: Axes) -> optax.contrib.MuonDimensionNumbers | None:
        if not any(names):
            return _plain(path, len(names))
        if _name(path).endswith(VECTORS) or not TABLES.isdisjoint(names) or 'embed' not in names:
            return None
        width = (names.index('embed'),)
        others = tuple(i for i, name in enumerate(names) if name not in ('embed', 'layers', 'experts'))
        reads_width = width < others[:1]
        inputs, outputs = (width, others) if reads_width else (others, width)
        return optax.contrib.MuonDimensionNumbers(reduction_axis=inputs, output_axis=outputs)

    return jax.tree_util.tree_map_with_path(one, axes, is_leaf=_is_axes)


def _plain(path: Any, rank: int) -> optax.contrib.MuonDimensionNumbers | None:
    """Inputs and outputs of a kernel of a plain Flax layer: a convolution is the matrix that acts on its patches."""
    if _name(path) != 'kernel' or rank < 2:
        return None
    layer = jax.tree_util.keystr(path[-2:-1], simple=True)
    count = 1 if rank == 3 and layer in PROJECTIONS else rank - 1
    axes = tuple(range(rank))
    return optax.contrib.MuonDimensionNumbers(reduction_axis=axes[:count], output_axis=axes[count:])


def _is_axes(node: Any) -> bool:
    return isinstance(node, tuple) and all(name is None or isinstance(name, str) for name in node)
