"""What is minimised: a pure function of (apply, batch, train, rngs) that returns totals and counts."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from bigmodel_jax import precision
from bigmodel_jax.layers.base import intermediates
from bigmodel_jax.models import model
from bigmodel_jax.objectives import requirements

PyTree = Any


class Mean(NamedTuple):
    """A mean as its total and count, which add exactly over devices, microbatches and batches. Divide at the end."""

    total: jax.Array  # [] float32, or float64 of a computation in it
    count: jax.Array  # type: ignore[assignment]  # [] float32. Hides a method of tuples that nobody calls.

    def __add__(self, other: 'Mean') -> 'Mean':  # type: ignore[override]  # Means add; they are not joined like tuples.
        return Mean(self.total + other.total, self.count + other.count)

    @classmethod
    def of(cls, value: jax.Array) -> 'Mean':
        """One value, counted once."""
        return cls(jnp.asarray(value, jnp.float32), jnp.float32(1))

    @classmethod
    def weighted(cls, values: jax.Array, weights: jax.Array) -> 'Mean':
        """The weighted mean of `values`; both of one shape. A value of weight 0 does not count, whatever it is."""
        total = (counted(values, weights) * weights).sum(dtype=precision.sums(values.dtype))
        return cls(total, weights.sum(dtype=jnp.float32))


def counted(values: jax.Array, weights: jax.Array) -> jax.Array:
    """`values`, and 0 where the weight is 0, since 0 times nan is nan.

    For a gradient without nan, it must stand before whatever gives nan: around a label, not only around its loss.
    """
    return jnp.where(weights != 0, values, 0)


def position_weights(batch: Mapping[str, jax.Array]) -> jax.Array:
    """How much each of the `targets` [B, ...] of a batch counts, [B, ...] float32.

    The product of `example_weights` [B] and `loss_weights` [B, ...]; the latter are 1 where a batch has none.
    """
    shape = batch['targets'].shape
    of_examples = batch['example_weights'].reshape(-1, *[1] * (len(shape) - 1))
    if 'loss_weights' not in batch:
        return jnp.broadcast_to(of_examples, shape)
    return counted(batch['loss_weights'], of_examples) * of_examples


def mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """The weighted mean, [] float32: nan where nothing has a weight."""
    found = Mean.weighted(values, weights)
    return found.total / found.count


class Auxiliary(NamedTuple):
    """The auxiliary outputs of a model."""

    model_state: PyTree  # Its collections after this batch.
    losses: dict[str, jax.Array]  # The auxiliary losses of its layers, weighted and summed over them: [] float32.


class Outcome(NamedTuple):
    """What an objective returns.

    The loss that is minimised is `loss.total / loss.count`; the count must not depend on the parameters. Totals let
    microbatches add up to exactly the gradient of the whole batch.
    """

    loss: Mean
    metrics: dict[str, Mean]
    model_state: PyTree = {}  # noqa: RUF012  # The model's collections that this batch changed; most models have none.

    @classmethod
    def of(cls, loss: Mean, metrics: dict[str, Mean], auxiliary: Auxiliary) -> 'Outcome':
        """The outcome of a loss to which the auxiliary losses are added; these, and the sum as 'loss', are metrics too.

        Auxiliary losses are means over the batch already. Each gets the count of the loss, so that the mean is the
        value itself; of several microbatches, or batches of an evaluation, it is the weighted mean.
        """
        added = {name: Mean(value * loss.count, loss.count) for name, value in auxiliary.losses.items()}
        loss = Mean(sum((mean.total for mean in added.values()), loss.total), loss.count)
        return cls(loss, {'loss': loss, **metrics, **added}, auxiliary.model_state)


@dataclasses.dataclass(frozen=True)
class Apply:
    """A model with its weights: `outputs, auxiliary = apply(batch, train=train, rngs=rngs)`.

    Args of a call:
      train: whether the model is in training. It is passed on to a method that has an argument of this name.
      rngs: the random streams that the module gets, by name. In evaluation it does not get 'dropout', by which modules
        without that argument tell training from evaluation.
      method: name of another method of the module, such as 'features'.
    """

    module: Any
    params: PyTree
    model_state: PyTree

    def __call__(
        self,
        *inputs: Any,
        train: bool = False,
        rngs: Mapping[str, jax.Array] = types.MappingProxyType({}),
        method: str | None = None,
    ) -> tuple[Any, Auxiliary]:
        streams = {name: rngs[name] for name in rngs if train or name != 'dropout'}
        mode = model.training_mode(self.module, train=train, method=method)
        variables = {'params': self.params, **self.model_state}
        mutable = [intermediates.LOSSES, *self.model_state] if train else [intermediates.LOSSES]
        try:
            outputs, changed = self.module.apply(
                variables, *inputs, rngs=streams, mutable=mutable, method=method, **mode
            )
        except model.ChangesState as error:
            raise model.changed_in_evaluation(self.module, self.model_state) from error
        changed = dict(changed)
        losses = _by_name(changed.pop(intermediates.LOSSES, {}))
        return outputs, Auxiliary(self.model_state | changed, losses)


def _by_name(losses: PyTree) -> dict[str, jax.Array]:
    """The sum of the losses of one name over all layers; a scanned stack has them stacked in one array."""
    found: dict[str, jax.Array] = {}
    for path, value in jax.tree_util.tree_leaves_with_path(losses):
        name = jax.tree_util.keystr(path[-1:], simple=True)
        found[name] = found.get(name, jnp.float32(0)) + value.sum()
    return found


class Objective:
    """Interface of the objective configs.

    Attributes:
      directions: which way its own metrics are better, where evaluate/metric.py does not know them by name.
      requires: what it needs of the batch and of the model; None: that is found by tracing it.
      streams: the random streams that it, or the model, draws from; see objectives/rngs.py.
    """

    directions: ClassVar[Mapping[str, Literal['lower', 'higher']]] = {}
    requires: ClassVar[requirements.Requirements | None] = None
    streams: ClassVar[tuple[str, ...]] = ('dropout',)
    compares_rows: ClassVar[bool] = False  # Whether a row's loss depends on the others: no part of a batch has one.

    def __call__(
        self, apply: Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> Outcome:
        """The loss of `batch`.

        Args:
          train: whether this is training. In evaluation `rngs` has keys too, for an objective that draws noise.
          rngs: the key of each stream in `streams`, by name; in evaluation those of the batch's number.
        """
        raise NotImplementedError

    def prepare(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The global batch, with fields [B, ...] that follow from all of it and that its microbatches need."""
        return batch

    def per_example(
        self, apply: Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> jax.Array | None:
        """The loss of each example, [B] float32, whatever its weight, and without auxiliary losses of layers.

        It is what the objective returns for a batch of this example alone: nan where none of its positions counts.
        None: the loss is no mean over examples, as where examples are compared with one another.
        """
        return None

    def diagnosis(self, means: Mapping[str, float], *, rows: int, step: int) -> str | None:
        """What the mean metrics since the last report show to be wrong with training on batches of so many `rows`."""
        return None
