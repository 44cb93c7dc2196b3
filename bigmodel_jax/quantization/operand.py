"""What a layer may find in place of a weight: something that is multiplied in its own way."""

from typing import Any

import jax


class WeightOperand:
    """Interface of pytrees that stand in place of a weight among the parameters of a model.

    A layer that multiplies by a matrix hands it to parallel.einsum.einsum(), which asks the operand for the product;
    every other layer reads array().
    """

    shape: tuple[int, ...]  # Of the weight.

    def array(self, dtype: Any) -> jax.Array:
        """The weight as an array of `dtype`."""
        raise NotImplementedError

    def astype(self, dtype: Any) -> 'WeightOperand':
        """The operand for activations of `dtype`."""
        raise NotImplementedError

    def product(self, subscripts: str, x: jax.Array) -> jax.Array:
        """The einsum of activations and this weight, in their dtype."""
        raise NotImplementedError


def is_operand(node: Any) -> bool:
    """Whether a node of a tree of parameters is such a weight, for jax.tree.map(..., is_leaf=is_operand)."""
    return isinstance(node, WeightOperand)
