"""One update: a pure function of state and batch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bigmodel_jax import sharding
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.objectives.objective import Apply, Mean, Objective, Outcome
from bigmodel_jax.train.state import Blueprint, TrainState

PyTree = Any
Batch = dict[str, jax.Array]
Metrics = dict[str, Mean]


def gradient(
    objective: Objective, apply: Apply, batch: Batch, *, key: jax.Array, microbatches: int
) -> tuple[PyTree, Outcome]:
    """Gradient of the loss with respect to `apply.params`, and the outcome; the same for any number of microbatches.

    Totals are differentiated and divided by the count of the whole batch at the end, so that a microbatch with fewer
    tokens weighs less.
    """

    def total(params: PyTree, model_state: PyTree, part: Batch, key: jax.Array) -> tuple[jax.Array, Outcome]:
        outcome = objective(Apply(apply.module, params, model_state), part, key)
        return outcome.loss.total, outcome

    if microbatches == 1:
        grads, outcome = jax.grad(total, has_aux=True)(apply.params, apply.model_state, batch, key)
    else:
        # Rows i, i + M, i + 2M ... form microbatch i, so that no row changes device.
        parts = {name: jnp.moveaxis(_split(value, microbatches), 1, 0) for name, value in batch.items()}

        def body(carry: tuple[PyTree, Outcome], part: tuple[jax.Array, Batch]) -> tuple[tuple[PyTree, Outcome], None]:
            grads, before = carry
            more, outcome = jax.grad(total, has_aux=True)(
                apply.params, before.model_state, part[1], jax.random.fold_in(key, part[0])
            )
            add = functools.partial(jax.tree.map, jnp.add)
            loss, metrics = add((before.loss, before.metrics), (outcome.loss, outcome.metrics))
            return (add(grads, more), Outcome(loss, metrics, outcome.model_state)), None

        first = jax.tree.map(lambda x: x[0], parts)
        zero = jax.tree.map(jnp.zeros_like, jax.eval_shape(total, apply.params, apply.model_state, first, key)[1])
        start = (jax.tree.map(jnp.zeros_like, apply.params), zero._replace(model_state=apply.model_state))
        (grads, outcome), _ = jax.lax.scan(body, start, (jnp.arange(microbatches), parts))
    return jax.tree.map(lambda grad: grad / outcome.loss.count, grads), outcome


def _split(value: jax.Array, microbatches: int) -> jax.Array:
    return value.reshape(-1, microbatches, *value.shape[1:])


def train_step(
    state: TrainState, batch: Batch, *, blueprint: Blueprint, objective: Objective, seed: int, microbatches: int
) -> tuple[TrainState, Metrics]:
    """Applies one update: a pure function of its arguments."""
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    apply = Apply(blueprint.module, state.params, state.model_state)
    grads, outcome = gradient(objective, apply, batch, key=key, microbatches=microbatches)
    updates, opt_state = blueprint.optimizer.update(grads, state.opt_state, state.params)
    metrics = outcome.metrics | {
        'grad_norm': Mean.of(optax.global_norm(grads)),
        'learning_rate': Mean.of(blueprint.rate(state.step)),
    }
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, opt_state, outcome.model_state), metrics


def compile_step(
    experiment: Experiment, blueprint: Blueprint, place: sharding.Place
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """train_step() of `experiment`, jitted: shardings are explicit and the old state's memory is given to the new."""
    step = functools.partial(
        train_step,
        blueprint=blueprint,
        objective=experiment.objective,
        seed=experiment.seed,
        microbatches=experiment.microbatches,
    )
    return jax.jit(step, donate_argnums=0, out_shardings=(blueprint.shardings, place.replicated))
