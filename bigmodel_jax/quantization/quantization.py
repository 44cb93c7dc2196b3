"""Which weights of a model are of few bits, and in which of its lives: the configs of an experiment."""

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Any

import jax

from bigmodel_jax import config
from bigmodel_jax.quantization import formats, operand, quantized_weight

PyTree = Any
Inputs = Mapping[str, tuple[int, ...]]  # Path of each matrix of a model -> its axes that are contracted.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantization:
    """Interface: the matrices whose path matches are of few bits; embeddings and positions are matrices too.

    Biases, norms, and what a module of one's own declares with plain Flax keep their bits.
    """

    weights: formats.NumberFormat = formats.Int8()
    group: config.Positive | None = None  # So many inputs share a scale; None: all inputs of an output channel do.
    match: tuple[str, ...] = ('*',)  # Paths as `describe` prints them, with * and ? as in file names.
    without: tuple[str, ...] = ()  # Patterns of paths that are left out, such as 'embedding.*'.

    def chosen(self, inputs: Inputs) -> list[str]:
        """The paths of the matrices that it is about, in their order.

        Raises:
          InputError: a pattern matches none.
        """
        for field in ('match', 'without'):
            for pattern in getattr(self, field):
                if not fnmatch.filter(inputs, pattern):
                    near = config.nearest(pattern, inputs)
                    raise config.InputError(f'quantization.{field}: no matrix of the model matches {pattern!r}.{near}')
        left_out = {path for pattern in self.without for path in fnmatch.filter(inputs, pattern)}
        within = {path for pattern in self.match for path in fnmatch.filter(inputs, pattern)}
        found = [path for path in inputs if path in within - left_out]
        if not found:
            raise config.InputError(
                f'{config.format_value(self)} leaves no matrix to quantize; the model has {", ".join(inputs)}.'
            )
        return found

    def check(self, shapes: Mapping[str, tuple[int, ...]], inputs: Inputs) -> None:
        """Raises InputError if a pattern matches nothing, or the group does not divide the inputs of a matrix."""
        for path in self.chosen(inputs):
            size = shapes[path][max(inputs[path])]
            if self.group is not None and size % min(self.group, size):
                raise config.InputError(
                    f'quantization.group={self.group} does not divide the {size} inputs of {path}, of shape '
                    f'{list(shapes[path])}; use a divisor of {size}, or leave it out: quantization.without=({path!r},).'
                )

    def read(self, params: PyTree, inputs: Inputs) -> PyTree:
        """What the model is applied to in training and evaluation; by default the parameters as they are stored."""
        return params


@dataclasses.dataclass(frozen=True, kw_only=True)
class PostTraining(Quantization):
    """The weights are stored in few bits, and frozen: a model after its training, or the base of an adapter (QLoRA;
    Dettmers et al., 2023, arXiv:2305.14314)."""

    # The format in which activations are multiplied too, each row (token) with a scale of its own; None: they are not
    # rounded, and the weights are multiplied as the activations' dtype has them.
    activations: formats.NumberFormat | None = None

    def store(self, params: PyTree, inputs: Inputs) -> PyTree:
        """`params` with a quantized_weight.QuantizedWeight in place of each matrix chosen; others as they are."""
        chosen = set(self.chosen(inputs))

        def one(path: Any, leaf: Any) -> Any:
            name = jax.tree_util.keystr(path, simple=True, separator='.')
            if name not in chosen or operand.is_operand(leaf):
                return leaf
            return quantized_weight.quantize(
                leaf, self.weights, inputs=inputs[name], group=self.group, activations=self.activations
            )

        return jax.tree_util.tree_map_with_path(one, params, is_leaf=operand.is_operand)


def dense(params: PyTree, dtype: Any = 'float32') -> PyTree:
    """The parameters with an array in place of every weight of few bits."""
    return jax.tree.map(
        lambda leaf: leaf.array(dtype) if operand.is_operand(leaf) else leaf, params, is_leaf=operand.is_operand
    )


def size_bytes(params: PyTree) -> int:
    """Of all arrays of a tree of parameters, or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
