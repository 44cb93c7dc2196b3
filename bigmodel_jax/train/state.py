"""The state of a run, and its specification: model, optimizer, shapes and shardings, from the experiment alone."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from bigmodel_jax.data import batches, counter_rng
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.optim import anomaly_policy, parameter_groups
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import placement
from bigmodel_jax.train.weights import weight_storage

PyTree = Any

# Items of a checkpoint. 'model' alone is enough to evaluate and sample.
ITEMS = {'model': ('params', 'model_state', 'ema'), 'optimizer': ('step', 'opt_state', 'levels')}


class TrainState(NamedTuple):
    """All that training changes; with the experiment, enough to replay any step. Their shardings have this form too."""

    step: Any  # [] int32: updates applied so far.
    params: PyTree
    opt_state: PyTree
    model_state: PyTree  # Batch statistics, moving averages, carried recurrent state; empty for most models.
    levels: Any  # anomaly_policy.RunningStats: by which a step is judged.
    ema: PyTree = ()  # The moving average of the trained parameters, if the experiment asks for one.

    @property
    def items(self) -> dict[str, dict[str, PyTree]]:
        """The fields by the item of a checkpoint in which they are stored."""
        return {item: {name: getattr(self, name) for name in fields} for item, fields in ITEMS.items()}

    @property
    def others(self) -> tuple[Any, ...]:
        """What is neither parameters nor of the optimizer."""
        return self.step, self.model_state, self.levels, self.ema

    @property
    def averaged_params(self) -> PyTree:
        """The parameters with the moving average in place of those that have one."""
        return parameter_groups.merged(self.params, self.ema) if self.ema else self.params


@dataclasses.dataclass(frozen=True)
class StateSpec:
    """What follows from an experiment before anything is computed."""

    module: nn.Module
    optimizer: optax.GradientTransformation
    rate: Callable[[jax.Array], jax.Array]  # The learning rate after so many updates.
    axes: PyTree  # The logical axes of each array of the parameters.
    storage: weight_storage.WeightStorage  # Which parameters are stored in few bits.
    groups: parameter_groups.Assigned  # What is trained, and how.
    abstract: TrainState  # Shapes and dtypes.
    shardings: TrainState
    # Jitted: key_data -> the initial state, which is initialized sharded; no host ever holds all of it.
    init_from: Callable[[np.ndarray], TrainState]
    key_data: np.ndarray  # Of the seed, which is thus no constant of the program; see counter_rng.key_data().

    def init(self) -> TrainState:
        """The initial state."""
        return self.init_from(self.key_data)

    @property
    def parameters(self) -> int:
        """How many numbers the parameters are."""
        return weight_storage.count_numbers(self.abstract.params)

    @property
    def trained_parameters(self) -> int:
        """How many of them are trained."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.groups.trained(self.abstract.params)))

    def started_from(self, state: TrainState, params: PyTree) -> TrainState:
        """An initial state with other parameters, from which the optimizer and the moving average start too."""

        def begun(params: PyTree) -> tuple[PyTree, PyTree]:
            return self.optimizer.init(params), _copy(self.groups.trained(params)) if state.ema else ()

        of = (self.shardings.opt_state, self.shardings.ema)
        opt_state, average = jax.jit(begun, out_shardings=of)(params)
        return state._replace(params=params, opt_state=opt_state, ema=average)


def specify(experiment: Experiment, place: sharding.ShardingContext) -> StateSpec:
    """The specification of `experiment` on `place`; allocates nothing and does not touch the data.

    Raises:
      InputError: the model does not fit the data, or an array does not divide over the mesh.
    """
    rows, fields = experiment.data.batch, batches.batch_fields(experiment.data.fields)
    experiment.model.check(fields)
    experiment.gradients.check(rows, place)
    for name, field in fields.items():
        # Only a sequence is split over devices within an example.
        axes = tuple(axis if axis == 'length' else None for axis in field.axes)
        place.check(f'{name} of the data', field.shape, axes)
    module, key_data = experiment.model.build(), counter_rng.key_data(experiment.seed)
    variables = weight_storage.initializer(module, experiment.data)
    storage = weight_storage.of(experiment, jax.eval_shape(variables, key_data)['params'])
    groups = experiment.optimizer.assign(storage.axes, frozen=storage.frozen)
    optimizer = experiment.optimizer.build(experiment.steps, groups)

    def init(key_data: jax.Array) -> TrainState:
        collections = dict(nn.meta.unbox(variables(key_data)))
        params = storage.initial(collections.pop('params'), jax.random.wrap_key_data(key_data))
        stats = anomaly_policy.RunningStats.initial()
        average = _copy(groups.trained(params)) if experiment.ema is not None else ()
        return TrainState(jnp.int32(0), params, optimizer.init(params), collections, stats, average)

    abstract = jax.eval_shape(init, key_data)
    groups.check(abstract.params)
    experiment.gradients.check_model_state(abstract.model_state)
    axes = storage.array_axes(abstract.params)
    shardings = shardings_of(place, abstract, axes)
    rate = experiment.optimizer.schedule.build(experiment.steps)
    initialized = jax.jit(init, out_shardings=shardings)
    return StateSpec(module, optimizer, rate, axes, storage, groups, abstract, shardings, initialized, key_data)


def _copy(tree: PyTree) -> PyTree:
    # Arrays of their own, so that the memory of both can be given to the next state.
    return jax.tree.map(jnp.copy, tree)


def shardings_of(place: sharding.ShardingContext, abstract: TrainState, axes: PyTree) -> TrainState:
    """Where every array of a state lies.

    Args:
      abstract: its shapes.
      axes: the logical axes of each parameter.

    Raises:
      InputError: an array does not divide over the mesh.
    """
    params = placement.tree_shardings(place, abstract.params, axes)
    return TrainState(
        step=place.replicated,
        params=params,
        opt_state=placement.state_shardings(place, abstract.opt_state, abstract.params, params),
        model_state=jax.tree.map(lambda _: place.replicated, abstract.model_state),
        levels=jax.tree.map(lambda _: place.replicated, abstract.levels),
        ema=placement.state_shardings(place, abstract.ema, abstract.params, params),
    )
