"""How the parameters of a run are stored: as arrays of float32, or some of them in few bits."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from bigmodel_jax.checkpoints import checkpoints
from bigmodel_jax.layers.base import weights
from bigmodel_jax.parallel import sharding
from bigmodel_jax.quantization import operand
from bigmodel_jax.quantization.quantization import Inputs, PostTraining, Quantization

PyTree = Any
Structs = Mapping[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class WeightStorage:
    """How the parameters of a model are stored.

    Attributes:
      how: the experiment's quantization, if it stores weights in few bits.
      axes: the logical axes of each parameter; of one in few bits, those of the weight.
      inputs: path of each matrix -> which of its axes are contracted with the input.
      shapes: path of each parameter -> shape and dtype of what is drawn or read, in float32.
    """

    how: PostTraining | None
    axes: PyTree
    inputs: Inputs
    shapes: Structs

    @property
    def quantized(self) -> list[str]:
        """Paths of the weights in few bits."""
        return [] if self.how is None else self.how.chosen(self.inputs)

    def stored(self, params: PyTree) -> PyTree:
        """All parameters, or some by their path, as they are stored."""
        return params if self.how is None else self.how.store(params, self.inputs)

    def array_axes(self, abstract: PyTree) -> PyTree:
        """The logical axes of each array of the parameters: a weight in few bits consists of several.

        Args:
          abstract: their shapes, as they are stored.
        """

        def one(leaf: Any, names: sharding.LogicalAxes) -> Any:
            if not operand.is_operand(leaf):
                return names
            # Scales that belong to a whole axis cannot be cut along it.
            return jax.tree.map(
                lambda part: tuple(
                    axis if size == whole else None for axis, size, whole in zip(names, part.shape, leaf.values.shape)
                ),
                leaf,
            )

        return jax.tree.map(one, abstract, self.axes, is_leaf=operand.is_operand)

    def wanted(self, shardings: PyTree) -> dict[str, jax.ShapeDtypeStruct]:
        """Path of each parameter -> what a source of initial weights is asked for.

        Args:
          shardings: of the parameters, as they are stored.
        """
        places = checkpoints.flatten(shardings)
        return {
            path: jax.ShapeDtypeStruct(each.shape, each.dtype, sharding=places.get(path) or places[f'{path}.values'])
            for path, each in self.shapes.items()
        }


def of(how: Quantization | None, boxed: PyTree, axes: PyTree) -> WeightStorage:
    """The storage of a model's parameters.

    Args:
      boxed: the parameters as module.init() gives them, or their shapes.
      axes: the logical axes of each.

    Raises:
      InputError: the quantization does not fit them.
    """
    inputs, shapes = weights.input_axes(boxed), checkpoints.flatten(weights.unboxed(boxed))
    if how is not None:
        how.check({path: each.shape for path, each in shapes.items()}, inputs)
    return WeightStorage(how if isinstance(how, PostTraining) else None, axes, inputs, shapes)
