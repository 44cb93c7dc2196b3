"""One update: a pure function of state and batch."""

import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bigmodel_jax.data import batches, counter_rng
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.objectives.objective import Apply, Mean, Objective, Outcome
from bigmodel_jax.objectives.rngs import Rngs
from bigmodel_jax.optim import anomaly_policy
from bigmodel_jax.parallel import sharding
from bigmodel_jax.run_directory import digest, fingerprints
from bigmodel_jax.train import fixed_order
from bigmodel_jax.train.state import Blueprint, TrainState

PyTree = Any
Batch = dict[str, jax.Array]
Metrics = dict[str, Mean]


class Trace(NamedTuple):
    """What a step says of itself; equal on every process."""

    metrics: Metrics
    verdict: jax.Array  # [] int32; see optim.anomaly_policy.
    norms: jax.Array  # [N] float32: of the gradient of each piece of the parameters; see fingerprints.pieces().
    certificate: jax.Array  # [4] uint32: what the batch was; see certificate().


def key(seed: int, step: jax.Array | int) -> jax.Array:
    """The key from which all that is random in a step follows.

    Args:
      step: updates applied before it.
    """
    return jax.random.fold_in(counter_rng.key(seed), step)


def _seen(batch: Batch) -> Batch:
    """What the model sees of a batch."""
    return {name: value for name, value in batch.items() if name != batches.ROW_HASH}


def certificate(batch: Batch) -> jax.Array:
    """[4] uint32: the sum of the batch's row hashes (0 if it has none), and a checksum of the bits of all its rows.

    Integers modulo 2^32, hence the same on every mesh.
    """
    content = jnp.zeros(2, jnp.uint32)
    for name, sums in sorted(digest.checksums(_seen(batch)).items()):
        content = content * jnp.uint32(2_654_435_769) + sums + jnp.uint32(zlib.crc32(name.encode()))
    ids = (
        batch[batches.ROW_HASH].sum(axis=0, dtype=jnp.uint32) if batches.ROW_HASH in batch else jnp.zeros_like(content)
    )
    return jnp.concatenate([ids, content])


def gradient(
    objective: Objective, apply: Apply, batch: Batch, *, key: jax.Array, microbatches: int
) -> tuple[PyTree, Outcome]:
    """Gradient of the loss with respect to `apply.params`, and the outcome; the same for any number of microbatches.

    Totals are differentiated and divided by the count of the whole batch at the end, so that a microbatch with fewer
    tokens weighs less.
    """
    return _of_mean(*gradient_of_total(objective, apply, batch, key=key, microbatches=microbatches))


def _of_mean(grads: PyTree, outcome: Outcome) -> tuple[PyTree, Outcome]:
    return jax.tree.map(lambda grad: grad / outcome.loss.count, grads), outcome


def gradient_of_total(
    objective: Objective, apply: Apply, batch: Batch, *, key: jax.Array, microbatches: int
) -> tuple[PyTree, Outcome]:
    """gradient(), but of the total of the loss, so that those of several parts of a batch can be added."""

    def total(params: PyTree, model_state: PyTree, part: Batch, key: jax.Array) -> tuple[jax.Array, Outcome]:
        outcome = objective(
            Apply(apply.module, params, model_state), part, train=True, rngs=Rngs(key, objective.streams)
        )
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
    return grads, outcome


def _split(value: jax.Array, microbatches: int) -> jax.Array:
    return value.reshape(-1, microbatches, *value.shape[1:])


def train_step(
    state: TrainState, batch: Batch, *, blueprint: Blueprint, experiment: Experiment
) -> tuple[TrainState, Trace]:
    """Applies one update: a pure function of its arguments."""
    apply = Apply(blueprint.module, state.params, state.model_state)
    grads, outcome = gradient(
        experiment.objective,
        apply,
        _seen(batch),
        key=key(experiment.seed, state.step),
        microbatches=experiment.microbatches,
    )
    return update(state, grads, outcome, certificate(batch), blueprint=blueprint, guard=experiment.watch.anomalies)


def update(
    state: TrainState,
    grads: PyTree,
    outcome: Outcome,
    certificate: jax.Array,
    *,
    blueprint: Blueprint,
    guard: anomaly_policy.Guard,
) -> tuple[TrainState, Trace]:
    """The state after the gradient of a step is known, and what the step says of itself."""
    norms = fingerprints.norms(grads, fingerprints.stacked(blueprint.axes))
    grad_norm = jnp.sqrt((norms * norms).sum())
    verdict, levels = guard.judge(state.levels, outcome.loss.total / outcome.loss.count, grad_norm)
    updates, opt_state = blueprint.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    after = TrainState(state.step, params, opt_state, outcome.model_state, levels)
    after = guard.settle(verdict, state._replace(levels=levels), after)
    metrics = outcome.metrics | {
        'grad_norm': Mean.of(grad_norm),
        'learning_rate': Mean.of(blueprint.rate(state.step)),
    }
    return after._replace(step=state.step + 1), Trace(metrics, verdict, norms, certificate)


def compile_step(
    experiment: Experiment, blueprint: Blueprint, place: sharding.Place
) -> Callable[[TrainState, Batch], tuple[TrainState, Trace]]:
    """train_step() of `experiment`, jitted: shardings are explicit and the old state's memory is given to the new.

    Where the mesh asks for a fixed order, it is what fixed_order makes of the same functions.
    """
    if experiment.mesh.fixed_order is not None:
        return _in_fixed_order(experiment, blueprint, place, experiment.mesh.fixed_order)
    step = functools.partial(train_step, blueprint=blueprint, experiment=experiment)
    return jax.jit(step, donate_argnums=0, out_shardings=(blueprint.shardings, place.replicated))


def _in_fixed_order(
    experiment: Experiment, blueprint: Blueprint, place: sharding.Place, parts: int
) -> Callable[[TrainState, Batch], tuple[TrainState, Trace]]:
    def part(state: TrainState, number: jax.Array, rows: Batch) -> tuple[PyTree, Outcome]:
        apply = Apply(blueprint.module, state.params, state.model_state)
        of_part = jax.random.fold_in(key(experiment.seed, state.step), number)
        return gradient_of_total(
            experiment.objective, apply, _seen(rows), key=of_part, microbatches=experiment.microbatches
        )

    def finish(state: TrainState, sums: tuple[PyTree, Outcome], mark: jax.Array) -> tuple[TrainState, Trace]:
        return update(state, *_of_mean(*sums), mark, blueprint=blueprint, guard=experiment.watch.anomalies)

    programs = fixed_order.Programs(part, finish, mark=certificate)
    return fixed_order.Step(programs, parts=parts, place=place, shardings=blueprint.shardings)
