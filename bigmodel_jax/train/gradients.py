"""The gradient of a step, made as the experiment's `gradients` says (optim/gradients.py has the configs).

A further method is one more config and one more branch of compute(): DP-SGD (Abadi et al., 2016, arXiv:1607.00133,
algorithm 1) would clip the gradients of single rows in the scan of the microbatches and add noise to their sum.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel_jax.objectives import rngs
from bigmodel_jax.objectives.objective import Apply, Objective, Outcome
from bigmodel_jax.optim import parameter_groups
from bigmodel_jax.optim.gradients import Gradients

PyTree = Any
Batch = dict[str, jax.Array]


def compute(
    method: Gradients, objective: Objective, apply: Apply, trained: PyTree, *, batch: Batch, key: jax.Array
) -> tuple[PyTree, Outcome]:
    """Gradient of the loss with respect to the trained parameters, and the outcome of the whole batch.

    Args:
      trained: those of `apply.params` that are not frozen.
      key: of this step, from which dropout and the like follow.
    """
    return mean(*total(objective, apply, trained, batch=batch, key=key, microbatches=method.microbatches))


def mean(grads: PyTree, outcome: Outcome) -> tuple[PyTree, Outcome]:
    """The gradient of the mean of the loss, from that of its total.

    Totals are divided by the count of the whole batch at the end, so that a microbatch with fewer tokens weighs less.
    """
    return jax.tree.map(lambda grad: grad / outcome.loss.count, grads), outcome


def total(
    objective: Objective,
    apply: Apply,
    trained: PyTree,
    *,
    batch: Batch,
    key: jax.Array,
    microbatches: int,
    step_key: jax.Array | None = None,
) -> tuple[PyTree, Outcome]:
    """Gradient of the total of the loss, and the outcome; those of several parts of a batch can be added.

    Args:
      key: of this part of the batch.
      step_key: of the step, from which follows what is drawn for single rows; None: `key` itself.
    """
    whole = key if step_key is None else step_key

    def loss(trained: PyTree, model_state: PyTree, part: Batch, key: jax.Array) -> tuple[jax.Array, Outcome]:
        params = parameter_groups.merged(apply.params, trained)
        of_part = Apply(apply.module, params, model_state)
        rows, streams = rngs.of_training(part, key, whole, objective.streams)
        outcome = objective(of_part, rows, train=True, rngs=streams)
        return outcome.loss.total, outcome

    if microbatches == 1:
        return jax.grad(loss, has_aux=True)(trained, apply.model_state, batch, key)
    # Rows i, i + M, i + 2M ... form microbatch i, so that no row changes device.
    parts = {name: jnp.moveaxis(_split(value, microbatches), 1, 0) for name, value in batch.items()}

    def body(carry: tuple[PyTree, Outcome], part: tuple[jax.Array, Batch]) -> tuple[tuple[PyTree, Outcome], None]:
        grads, before = carry
        more, outcome = jax.grad(loss, has_aux=True)(
            trained, before.model_state, part[1], jax.random.fold_in(key, part[0])
        )
        add = functools.partial(jax.tree.map, jnp.add)
        mean, metrics = add((before.loss, before.metrics), (outcome.loss, outcome.metrics))
        return (add(grads, more), Outcome(mean, metrics, outcome.model_state)), None

    first = jax.tree.map(lambda x: x[0], parts)
    zero = jax.tree.map(jnp.zeros_like, jax.eval_shape(loss, trained, apply.model_state, first, key)[1])
    start = (jax.tree.map(jnp.zeros_like, trained), zero._replace(model_state=apply.model_state))
    (grads, outcome), _ = jax.lax.scan(body, start, (jnp.arange(microbatches), parts))
    return grads, outcome


def _split(value: jax.Array, microbatches: int) -> jax.Array:
    return value.reshape(-1, microbatches, *value.shape[1:])
