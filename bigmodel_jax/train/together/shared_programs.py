"""Programs that several runs share: compiled once, with the seed and a few numbers of the experiment as arguments.

A run that uses them computes the same as with its own: its key follows from its seed as before, and its learning rates
come from a table that its own schedule made. On a CPU the states were equal bit for bit for
seeds, schedules and weight decays (tests/train/test_together.py).
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bigmodel_jax.data import counter_rng
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.optim import schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import state, step
from bigmodel_jax.train.together import grouping


class Arguments(NamedTuple):
    """What of an experiment is an argument of the shared programs; None: it is a constant, the same for all runs."""

    key_data: Any  # [2] uint32: of the seed; see counter_rng.key_data().
    rates: jax.Array | None = None  # [steps] float32: the learning rate of each step.
    weight_decay: jax.Array | None = None  # [] float32.

    @classmethod
    def of(cls, experiment: Experiment, varying: Sequence[str]) -> 'Arguments':
        """Those of an experiment, where `varying` are the fields that are arguments; see grouping.varying()."""
        found = cls(counter_rng.key_data(experiment.seed))
        if grouping.SCHEDULE in varying:
            found = found._replace(rates=_rates(experiment))
        if grouping.WEIGHT_DECAY in varying:
            found = found._replace(weight_decay=jnp.float32(experiment.optimizer.weight_decay))
        return found

    def put_into(self, experiment: Experiment) -> Experiment:
        """The experiment with these values, which within a program are no numbers yet, in their fields."""
        changes: dict[str, Any] = {} if self.weight_decay is None else {'weight_decay': self.weight_decay}
        if self.rates is not None:
            changes['schedule'] = RateTable(self.rates)
        optimizer: Any = experiment.optimizer
        seed: Any = jax.random.wrap_key_data(self.key_data)  # counter_rng.key() and all that call it take either.
        return dataclasses.replace(
            experiment, seed=seed, optimizer=dataclasses.replace(optimizer, **changes) if changes else optimizer
        )


class RateTable(schedules.Scheduler):
    """The learning rates [steps] of a schedule; not a config: it exists only while a program is traced."""

    def __init__(self, rates: jax.Array):
        self._rates = rates

    def build(self, steps: int) -> schedules.Schedule:
        return lambda step: self._rates[step]


def _rates(experiment: Experiment) -> jax.Array:
    """[steps] float32: one after another, each computed as in a step."""
    schedule = experiment.optimizer.schedule.build(experiment.steps)
    return jax.jit(lambda: jax.lax.map(schedule, jnp.arange(experiment.steps, dtype=jnp.int32)))()


class SharedPrograms(step.RunPrograms):
    """The programs of runs that are trained one after another in one process.

    Args:
      experiments: of all runs; grouping.check() has accepted them.
    """

    def __init__(self, experiments: Sequence[Experiment]):
        self._first, self._varying = experiments[0], grouping.varying(experiments)
        self.record: Mapping[str, Any] = {'together': {'runs': len(experiments), 'arguments': ['seed', *self._varying]}}
        self._init: Any = None
        self._jitted_step: Any = None

    def specified(self, experiment: Experiment, spec: state.StateSpec) -> state.StateSpec:
        if self._init is None:
            self._init = spec.init_from
        return dataclasses.replace(spec, init_from=self._init)

    def compile_step(
        self, experiment: Experiment, spec: state.StateSpec, place: sharding.ShardingContext
    ) -> step.TrainStep:
        if self._jitted_step is None:
            run = functools.partial(train_step, spec=spec, experiment=self._first)
            self._jitted_step = jax.jit(run, donate_argnums=0, out_shardings=(spec.shardings, place.replicated))
        jitted, arguments = self._jitted_step, Arguments.of(experiment, self._varying)
        return lambda current, batch: jitted(current, batch, arguments)


def train_step(
    current: state.TrainState,
    batch: step.Batch,
    arguments: Arguments,
    *,
    spec: state.StateSpec,
    experiment: Experiment,
) -> tuple[state.TrainState, step.Trace]:
    """step.train_step() of `experiment` with the values of `arguments`.

    Args:
      spec: of the experiment.
    """
    varied = arguments.put_into(experiment)
    if varied.optimizer is not experiment.optimizer:
        optimizer = varied.optimizer.build(experiment.steps, spec.groups)
        rate = varied.optimizer.schedule.build(experiment.steps)
        spec = dataclasses.replace(spec, optimizer=optimizer, rate=rate)
    return step.train_step(current, batch, spec=spec, experiment=varied)
