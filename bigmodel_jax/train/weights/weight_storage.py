"""How the parameters of a run are stored: as arrays of float32, or some of them in few bits; and with adapters."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel_jax.adapters import lora
from bigmodel_jax.checkpoints import checkpoints
from bigmodel_jax.data import batches, counter_rng
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.layers.base import weights
from bigmodel_jax.models import model
from bigmodel_jax.objectives import objective
from bigmodel_jax.parallel import sharding
from bigmodel_jax.quantization import operand
from bigmodel_jax.quantization.quantization import Inputs, PostTraining, Quantization

PyTree = Any
Structs = Mapping[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class WeightStorage:
    """How the parameters of a model are stored.

    Attributes:
      how: the experiment's quantization.
      adapters: what is added to the parameters of the model, if the experiment has an adapter.
      axes: the logical axes of each parameter; of one in few bits, those of the weight.
      inputs: path of each matrix -> which of its axes are contracted with the input.
      shapes: path of each parameter -> shape and dtype of what is drawn or read, in float32.
    """

    how: Quantization | None
    adapters: lora.Attachment | None
    axes: PyTree
    inputs: Inputs
    shapes: Structs

    @property
    def frozen(self) -> list[str]:
        """Paths of the parameters that are not trained: weights in few bits, and with adapters all other ones."""
        quantized = self.how.chosen(self.inputs) if isinstance(self.how, PostTraining) else []
        return quantized if self.adapters is None else [*quantized, *self.adapters.frozen]

    def initial(self, params: PyTree, key: jax.Array) -> PyTree:
        """The parameters of a run before training, of those that the model's module gives.

        Args:
          key: of the seed, from which the adapters are drawn.
        """
        params = self.stored(params)
        return params if self.adapters is None else lora.attached(params, self.adapters.initial(key))

    def stored(self, params: PyTree) -> PyTree:
        """All parameters, or some by their path, as they are stored."""
        return self.how.store(params, self.inputs) if isinstance(self.how, PostTraining) else params

    def read(self, params: PyTree) -> PyTree:
        """What the model is applied to: the parameters, or what the quantization makes of them in every step."""
        return params if self.how is None else self.how.read(params, self.inputs)

    def reading(self, of: objective.Objective) -> objective.Objective:
        """An objective of the parameters as they are stored, whose model is applied to what read() gives."""
        return of if self.how is None else Reading(of, self)

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


class Reading(objective.Objective):
    """An objective whose model is applied to the weights as a quantization reads them."""

    def __init__(self, of: objective.Objective, storage: WeightStorage):
        self._of, self._storage, self.streams = of, storage, of.streams  # type: ignore[misc]

    def __call__(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> objective.Outcome:
        of = dataclasses.replace(apply, params=self._storage.read(apply.params))
        return self._of(of, batch, train=train, rngs=rngs)

    def prepare(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return self._of.prepare(batch)


def count_numbers(params: PyTree) -> int:
    """How many numbers the parameters are; those of a weight in few bits count once, in however many bytes they lie."""
    return sum(math.prod(each.shape) for each in jax.tree.leaves(params, is_leaf=operand.is_operand))


def of(experiment: Experiment, boxed: PyTree) -> WeightStorage:
    """The storage of a model's parameters.

    Args:
      boxed: the parameters as module.init() gives them, or their shapes.

    Raises:
      InputError: the quantization or the adapter does not fit them.
    """
    how, adapter, axes = experiment.quantization, experiment.adapter, weights.logical_axes(boxed)
    inputs, shapes = weights.input_axes(boxed), checkpoints.flatten(weights.unboxed(boxed))
    if how is not None:
        how.check({path: each.shape for path, each in shapes.items()}, inputs)
    adapters = None
    if adapter is not None:
        adapters = lora.Attachment.of(
            adapter, inputs=inputs, axes=_flat_axes(axes), shapes={path: each.shape for path, each in shapes.items()}
        )
        axes = lora.attached(axes, adapters.added_axes())
        of_adapters = jax.eval_shape(adapters.initial, jax.eval_shape(lambda: jax.random.key(0)))
        shapes = shapes | checkpoints.flatten(of_adapters)
    return WeightStorage(how, adapters, axes, inputs, shapes)


def _flat_axes(axes: PyTree) -> dict[str, sharding.LogicalAxes]:
    leaves = jax.tree_util.tree_leaves_with_path(axes, is_leaf=lambda node: isinstance(node, tuple))
    return {jax.tree_util.keystr(path, simple=True, separator='.'): names for path, names in leaves}


def of_experiment(experiment: Experiment) -> WeightStorage:
    """How the parameters of an experiment are stored; needs no devices, and not its data.

    Raises:
      InputError: its quantization or its adapter does not fit its model.
    """
    variables = initializer(experiment.model.build(), experiment.data)
    return of(experiment, jax.eval_shape(variables, counter_rng.key_data(experiment.seed))['params'])


def initializer(module: Any, data: batches.Data) -> Callable[[Any], PyTree]:
    """A function: the data of a key -> the variables of a module, with their logical axes."""
    fields = batches.batch_fields(data.fields)
    example = {name: jax.ShapeDtypeStruct((data.batch, *field.shape), field.dtype) for name, field in fields.items()}
    return functools.partial(_variables, module, example)


def _variables(module: Any, example: dict[str, jax.ShapeDtypeStruct], key_data: jax.Array) -> PyTree:
    # The values do not matter to the weights, so the compiler drops the computation that they feed.
    batch = {name: jnp.zeros(array.shape, array.dtype) for name, array in example.items()}
    mode = model.training_mode(module, train=False)
    variables = module.init(jax.random.wrap_key_data(key_data), batch, **mode)
    return {name: collection for name, collection in variables.items() if name not in model.OF_A_BATCH}
