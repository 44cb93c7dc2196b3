"""One update: a pure function of state and batch."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bigmodel_jax.data import batches, counter_rng
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.objectives import distillation, rngs
from bigmodel_jax.objectives import objective as objectives
from bigmodel_jax.objectives.objective import Apply, Mean, Outcome
from bigmodel_jax.optim import parameter_groups
from bigmodel_jax.optim.gradients import FixedOrder
from bigmodel_jax.parallel import sharding
from bigmodel_jax.run_directory import digest, fingerprints
from bigmodel_jax.train import fixed_order, gradients
from bigmodel_jax.train.state import StateSpec, TrainState

PyTree = Any
A = TypeVar('A', jax.Array, np.ndarray)
Batch = dict[str, jax.Array]
Metrics = dict[str, Mean]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, 'Trace']]


class Trace(NamedTuple):
    """What a step records beside the new state; equal on every process."""

    metrics: Metrics
    verdict: jax.Array  # [] int32; see optim.anomaly_policy.
    norms: jax.Array  # [N] float32: of the gradient of each piece of the parameters; see fingerprints.pieces().
    certificate: jax.Array  # [4] uint32: what the batch was; see certificate().


def key(seed: int | jax.Array, step: jax.Array | int) -> jax.Array:
    """The key from which all that is random in a step follows.

    Args:
      step: updates applied before it.
    """
    return jax.random.fold_in(counter_rng.key(seed), step)


def seen(batch: Batch) -> Batch:
    """What the model sees of a batch."""
    return {name: value for name, value in batch.items() if name != batches.ROW_HASH}


def given(batch: dict[str, A], objective: objectives.Objective) -> dict[str, A]:
    """What the loss of an objective needs of a batch: with the hashes of its rows if it draws random numbers."""
    if rngs.draws(objective.streams):
        return batch
    return {name: value for name, value in batch.items() if name != batches.ROW_HASH}


def certificate(batch: Batch) -> jax.Array:
    """[4] uint32: the sum of the batch's row hashes (0 if it has none), and a checksum of the bits of all its rows.

    Integers modulo 2^32, hence the same on every mesh.
    """
    content = jnp.zeros(2, jnp.uint32)
    for name, sums in sorted(digest.checksums(seen(batch)).items()):
        content = content * jnp.uint32(2_654_435_769) + sums + jnp.uint32(zlib.crc32(name.encode()))
    ids = (
        batch[batches.ROW_HASH].sum(axis=0, dtype=jnp.uint32) if batches.ROW_HASH in batch else jnp.zeros_like(content)
    )
    return jnp.concatenate([ids, content])


def train_step(state: TrainState, batch: Batch, *, spec: StateSpec, experiment: Experiment) -> tuple[TrainState, Trace]:
    """Applies one update: a pure function of its arguments."""
    grads, outcome = gradient(state, batch, spec=spec, experiment=experiment)
    return update(state, grads, outcome, certificate(batch), spec=spec, experiment=experiment)


def gradient(state: TrainState, batch: Batch, *, spec: StateSpec, experiment: Experiment) -> tuple[PyTree, Outcome]:
    """The gradient of the step after `state` with respect to the trained parameters, and the outcome of its batch."""
    apply = Apply(spec.module, state.params, state.model_state)
    of_step = key(experiment.seed, state.step)
    objective, trained = experiment.objective, spec.groups.trained(state.params)
    rows = objective.prepare(given(batch, objective))
    return gradients.compute(experiment.gradients, objective, apply, trained, batch=rows, key=of_step)


def update(
    state: TrainState,
    grads: PyTree,
    outcome: Outcome,
    certificate: jax.Array,
    *,
    spec: StateSpec,
    experiment: Experiment,
) -> tuple[TrainState, Trace]:
    """The state after the gradient of a step is known, and what the step records."""
    guard, ema = experiment.watch.anomalies, experiment.ema
    norms = _norms(state, grads, spec)
    grad_norm = jnp.sqrt((norms * norms).sum())
    verdict, levels = guard.judge(state.levels, outcome.loss.total / outcome.loss.count, grad_norm)
    updates, opt_state = spec.optimizer.update(grads, state.opt_state, state.params)
    trained = optax.apply_updates(spec.groups.trained(state.params), updates)
    params = parameter_groups.merged(state.params, trained)
    average = state.ema if ema is None else ema.update(state.ema, trained, state.step)
    after = TrainState(state.step, params, opt_state, outcome.model_state, levels, average)
    after = guard.settle(verdict, state._replace(levels=levels), after)
    metrics = outcome.metrics | {
        'grad_norm': Mean.of(grad_norm),
        'learning_rate': Mean.of(spec.rate(state.step)),
    }
    return after._replace(step=state.step + 1), Trace(metrics, verdict, norms, certificate)


def _norms(state: TrainState, grads: PyTree, spec: StateSpec) -> jax.Array:
    """[N] float32: the norm of the gradient of each piece of the parameters; 0 where it is frozen."""
    if spec.groups.frozen:
        grads = parameter_groups.merged(jax.tree.map(jnp.zeros_like, state.params), grads)
    return fingerprints.norms(grads, fingerprints.stacked(spec.axes))


def compile_step(experiment: Experiment, spec: StateSpec, place: sharding.ShardingContext) -> TrainStep:
    """train_step() of `experiment`, jitted: shardings are explicit and the old state's memory is given to the new.

    With gradients.FixedOrder, it is what fixed_order makes of the same functions.
    """
    if isinstance(experiment.gradients, FixedOrder):
        return _in_fixed_order(experiment, spec, place, experiment.gradients)
    step = functools.partial(_seeded_step, spec=spec, experiment=experiment)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(spec.shardings, place.replicated))
    return SeededStep(jitted, (spec.key_data, distillation.teacher_weights(experiment.objective, place)))


def _seeded_step(
    state: TrainState, batch: Batch, key_data: jax.Array, teacher: PyTree, *, spec: StateSpec, experiment: Experiment
) -> tuple[TrainState, Trace]:
    seed: Any = jax.random.wrap_key_data(key_data)  # counter_rng.key() and all that call it take either.
    objective = spec.storage.reading(distillation.with_teacher(experiment.objective, teacher))
    own = dataclasses.replace(experiment, seed=seed, objective=objective)
    return train_step(state, batch, spec=spec, experiment=own)


class SeededStep:
    """step(state, batch) of one seed. The seed is an argument of its program, which is thus the same for every seed:
    the compile cache holds it once."""

    def __init__(self, jitted: Any, constants: tuple[np.ndarray, PyTree]):
        self._jitted, self._constants = jitted, constants  # The key of the seed, and the weights of a teacher.

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Trace]:
        return self._jitted(state, batch, *self._constants)

    def trace(self, state: TrainState, batch: Batch) -> Any:
        """As jax.jit(...).trace(): the program of these shapes."""
        return self._jitted.trace(state, batch, *self._constants)

    def lower(self, state: TrainState, batch: Batch) -> Any:
        """As jax.jit(...).lower()."""
        return self._jitted.lower(state, batch, *self._constants)


class RunPrograms:
    """The programs that a session compiles for its run; train/together has some that several runs share."""

    record: Mapping[str, Any] = {}  # What environment.json says of them.

    def specified(self, experiment: Experiment, spec: StateSpec) -> StateSpec:
        """The specification of the run, with the program that initializes its state."""
        return spec

    def compile_step(self, experiment: Experiment, spec: StateSpec, place: sharding.ShardingContext) -> TrainStep:
        """The step of the run; see compile_step()."""
        return compile_step(experiment, spec, place)


OWN_PROGRAMS = RunPrograms()


def _in_fixed_order(
    experiment: Experiment, spec: StateSpec, place: sharding.ShardingContext, method: FixedOrder
) -> TrainStep:
    objective = spec.storage.reading(experiment.objective)

    def part(state: TrainState, number: jax.Array, rows: Batch) -> tuple[PyTree, Outcome]:
        apply = Apply(spec.module, state.params, state.model_state)
        of_step = key(experiment.seed, state.step)
        of_part, own = jax.random.fold_in(of_step, number), given(rows, objective)
        how: dict[str, Any] = {'key': of_part, 'step_key': of_step, 'microbatches': method.microbatches}
        return gradients.total(objective, apply, spec.groups.trained(state.params), batch=own, **how)

    def finish(state: TrainState, sums: tuple[PyTree, Outcome], mark: jax.Array) -> tuple[TrainState, Trace]:
        return update(state, *gradients.mean(*sums), mark, spec=spec, experiment=experiment)

    programs = fixed_order.Programs(part, finish, mark=certificate)
    return fixed_order.FixedOrderStep(programs, parts=method.parts, place=place, shardings=spec.shardings)
