"""Which weights an optimizer treats how, read off their names and logical axes."""

from typing import Any

import jax
import optax

PyTree = Any

# Vectors end so (layers/weights.py sees to it); everything else is a matrix or a table.
VECTORS = ('bias', 'scale')
# Parts of the tree that hold tables, looked up and not multiplied: Muon leaves them to Adam.
TABLES = ('embedding', 'positions', 'encoder_positions', 'decoder_positions')


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path[-1:], simple=True)


def decayed(axes: PyTree) -> PyTree:
    """True for the weights that decay: matrices and tables, not biases and scales.

    Args:
      axes: for each parameter the tuple of its logical axes.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: not _name(path).endswith(VECTORS), axes, is_leaf=_is_axes)


def orthogonalised(axes: PyTree) -> PyTree:
    """For Muon: which axes of each hidden matrix are its inputs and outputs; None for what Adam updates.

    One side of every hidden matrix is the model's width; the other axes, without 'layers' and 'experts', are the
    other.
    """

    def one(path: Any, names: tuple[str, ...]) -> optax.contrib.MuonDimensionNumbers | None:
        first = jax.tree_util.keystr(path[:1], simple=True)
        if _name(path).endswith(VECTORS) or first in TABLES or 'embed' not in names:
            return None
        width = (names.index('embed'),)
        others = tuple(i for i, name in enumerate(names) if name not in ('embed', 'layers', 'experts'))
        reads_width = width < others[:1]
        inputs, outputs = (width, others) if reads_width else (others, width)
        return optax.contrib.MuonDimensionNumbers(reduction_axis=inputs, output_axis=outputs)

    return jax.tree_util.tree_map_with_path(one, axes, is_leaf=_is_axes)


def _is_axes(node: Any) -> bool:
    return isinstance(node, tuple) and all(isinstance(name, str) for name in node)
