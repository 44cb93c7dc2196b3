"""What the arms of a sweep cost: parameters, FLOPs and units of data, and time and price on a slice that is named."""

import dataclasses
import functools
import math

import jax

from bigmodel_jax.experiment import Experiment
from bigmodel_jax.plan import analytic, request, run_budget
from bigmodel_jax.plan import plan as plans
from bigmodel_jax.plan.hardware import prices, slices
from bigmodel_jax.train.flops import one_device

ONE = 'v5e:1x1'  # What a step computes does not depend on the chip; it is traced for one device.


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialCost:
    """Of one trial of an arm.

    Attributes:
      flops_per_step: of the model, a multiply-add being two; nothing that is computed again is counted.
      units_per_step: of data, in `unit`, such as tokens.
      chip_hours, dollars: on the slice that was named; None without one, or without a price.
    """

    parameters: int
    flops_per_step: float
    units_per_step: float
    unit: str
    steps: int
    chip_hours: float | None = None
    dollars: float | None = None

    @property
    def flops(self) -> float:
        """Of the whole trial, without its evaluations."""
        return self.flops_per_step * self.steps

    @property
    def units(self) -> float:
        """Of the whole trial."""
        return self.units_per_step * self.steps


@functools.lru_cache(maxsize=256)
def traced(experiment: Experiment) -> analytic.TracedStep:
    """The step of an experiment on one device, without compiling it or opening its data.

    Raises:
      InputError: the experiment cannot be laid out on one device.
    """
    on = slices.parse(ONE)
    return analytic.trace(request.on_slice(one_device.experiment_on_one(experiment), on), on)


def cost(experiment: Experiment, on: slices.Slice | None = None, table: prices.Prices | None = None) -> TrialCost:
    """What a trial costs.

    Args:
      on: the slice that it runs on.
      table: prices; by default those of plan/hardware/prices.json.

    Raises:
      InputError: as traced(), or the experiment cannot be laid out on the slice.
    """
    step = traced(experiment)
    plan = None if on is None else plans.make(run_budget.plannable(experiment), on, fast=True, table=table)
    return TrialCost(
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(step.spec.abstract.params)),
        flops_per_step=step.work.model,
        units_per_step=experiment.data.units_per_step,
        unit=experiment.data.units.name,
        steps=experiment.steps,
        chip_hours=None if plan is None else plan.cost.chip_hours,
        dollars=None if plan is None else plan.cost.dollars,
    )
