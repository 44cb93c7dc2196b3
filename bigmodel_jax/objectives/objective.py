"""What is minimised: a pure function of (apply, batch, key) that returns totals and counts."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from bigmodel_jax import config, precision
from bigmodel_jax.models import model

PyTree = Any

LOSSES = 'losses'  # The collection into which layers sow [] float32, or stacks of them.


class Mean(NamedTuple):
    """A mean as its total and count, which add exactly over devices, microbatches and batches. Divide once, at the
    end."""

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


class Side(NamedTuple):
    """What a model says besides its outputs."""

    model_state: PyTree  # Its collections after this batch.
    losses: dict[str, jax.Array]  # What its layers ask to be minimised too, weighted and summed over them: [] float32.


class Outcome(NamedTuple):
    """What an objective returns.

    The loss that is minimised is `loss.total / loss.count`; the count must not depend on the parameters. Totals let
    microbatches add up to exactly the gradient of the whole batch.
    """

    loss: Mean
    metrics: dict[str, Mean]
    model_state: PyTree = {}  # noqa: RUF012  # The model's collections that this batch changed; most models have none.

    @classmethod
    def of(cls, loss: Mean, metrics: dict[str, Mean], side: Side) -> 'Outcome':
        """Of a loss to which the losses of the layers are added; these, and the sum as 'loss', are metrics too.

        They are means over the batch already. Each counts as often as the loss, so that in the mean they stand as they
        are; of microbatches, or in evaluation of batches, they become the weighted mean.
        """
        asked = {name: Mean(value * loss.count, loss.count) for name, value in side.losses.items()}
        loss = Mean(sum((mean.total for mean in asked.values()), loss.total), loss.count)
        return cls(loss, {'loss': loss, **metrics, **asked}, side.model_state)


@dataclasses.dataclass(frozen=True)
class Apply:
    """A model with its weights: `outputs, side = apply(batch, key=key)`.

    Args of a call:
      key: of dropout; without one the model is in evaluation.
      method: name of another method of the module, such as 'features'.
    """

    module: Any
    params: PyTree
    model_state: PyTree

    def __call__(self, *inputs: Any, key: jax.Array | None = None, method: str | None = None) -> tuple[Any, Side]:
        rngs = {} if key is None else {'dropout': key}
        variables = {'params': self.params, **self.model_state}
        mutable = [LOSSES] if key is None else [LOSSES, *self.model_state]
        try:
            outputs, changed = self.module.apply(variables, *inputs, rngs=rngs, mutable=mutable, method=method)
        except model.ChangesState as error:
            # What it gives would depend on the examples that happen to be in a batch.
            raise config.InputError(
                f'{type(self.module).__name__} changes {", ".join(self.model_state)} in evaluation. A module is in '
                "training where it has the random stream 'dropout', so pass to the layer (nn.BatchNorm, nn.Dropout "
                "...): use_running_average=not self.has_rng('dropout'), or deterministic=not self.has_rng('dropout')."
            ) from error
        changed = dict(changed)
        losses = _by_name(changed.pop(LOSSES, {}))
        return outputs, Side(self.model_state | changed, losses)


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
    """

    directions: ClassVar[Mapping[str, Literal['lower', 'higher']]] = {}

    def __call__(self, apply: Apply, batch: dict[str, jax.Array], key: jax.Array | None) -> Outcome:
        """The loss of `batch`.

        Args:
          key: for dropout, masking and the like; None in evaluation.
        """
        raise NotImplementedError
