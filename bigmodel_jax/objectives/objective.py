"""What is minimised: a pure function of (apply, batch, key) that returns totals and counts."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PyTree = Any


class Mean(NamedTuple):
    """A mean as its total and count, which add exactly over devices, microbatches and batches. Divide once, at the
    end."""

    total: jax.Array  # [] float32
    count: jax.Array  # type: ignore[assignment]  # [] float32. Hides a method of tuples that nobody calls.

    def __add__(self, other: 'Mean') -> 'Mean':  # type: ignore[override]  # Means add; they are not joined like tuples.
        return Mean(self.total + other.total, self.count + other.count)

    @classmethod
    def of(cls, value: jax.Array) -> 'Mean':
        """One value, counted once."""
        return cls(jnp.asarray(value, jnp.float32), jnp.float32(1))

    @classmethod
    def weighted(cls, values: jax.Array, weights: jax.Array) -> 'Mean':
        """The weighted mean of `values`; both of one shape."""
        return cls((values * weights).sum(dtype=jnp.float32), weights.sum(dtype=jnp.float32))


class Outcome(NamedTuple):
    """What an objective returns.

    The loss that is minimised is `loss.total / loss.count`; the count must not depend on the parameters. Totals let
    microbatches add up to exactly the gradient of the whole batch.
    """

    loss: Mean
    metrics: dict[str, Mean]
    model_state: PyTree = {}  # noqa: RUF012  # The model's collections that this batch changed; most models have none.


@dataclasses.dataclass(frozen=True)
class Apply:
    """A model with its weights: `outputs, model_state = apply(batch, key=key)`.

    Args of a call:
      key: of dropout; without one the model is in evaluation.
      method: name of another method of the module, such as 'features'.
    """

    module: Any
    params: PyTree
    model_state: PyTree

    def __call__(self, *inputs: Any, key: jax.Array | None = None, method: str | None = None) -> tuple[Any, PyTree]:
        rngs = {} if key is None else {'dropout': key}
        variables = {'params': self.params, **self.model_state}
        mutable = [] if key is None else list(self.model_state)
        outputs, changed = self.module.apply(variables, *inputs, rngs=rngs, mutable=mutable, method=method)
        return outputs, self.model_state | dict(changed)


class Objective:
    """Interface of the objective configs."""

    def __call__(self, apply: Apply, batch: dict[str, jax.Array], key: jax.Array | None) -> Outcome:
        """The loss of `batch`.

        Args:
          key: for dropout, masking and the like; None in evaluation.
        """
        raise NotImplementedError
