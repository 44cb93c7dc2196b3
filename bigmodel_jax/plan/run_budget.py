"""The budget of a run as a person writes it, for the devices that it runs on: their price, and what a step may take."""

import dataclasses
import math

import jax

from bigmodel_jax import config
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.hosts import chips
from bigmodel_jax.optim import gradients
from bigmodel_jax.plan import plan as plans
from bigmodel_jax.plan.hardware import prices, slices, this_machine
from bigmodel_jax.train.flops import one_device
from bigmodel_jax.train.monitoring import budget as budgets


def of(text: str, experiment: Experiment, table: prices.Prices | None = None) -> budgets.RunBudget:
    """The budget '2.5usd' or '3chip-hours' for a run on the devices of JAX.

    Args:
      table: prices; by default those of prices.json. The name of a chip that has none there, such as a CPU, is that of
        its platform: 'cpu', 'gpu'.

    Raises:
      InputError: the text is no budget, or the chip has no price.
    """
    found, device = budgets.parse(text), jax.devices()[0]
    chip = chips.of_kind(device.device_kind)
    name = device.platform if chip is None else chip.name
    a_chip = chip_price(found, name, table)
    count = math.prod(experiment.mesh.sizes(jax.device_count()).values())
    if chip is None:
        seconds = one_device.trace(experiment).work.model / this_machine.flops() if name == 'cpu' else None
        words = "by the FLOPs at this machine's rate, which is the least that it can be"
    else:
        on = _slice(chip, count, experiment.mesh.slices)
        seconds = None if on is None else step_seconds(experiment, on)
        words = f'by the formulas of plan on {on}'
    price = a_chip / (1 if chip is None else chip.devices)
    step = None if seconds is None else seconds * count
    return budgets.RunBudget(budget=found, price=price, step=step, words=words)


def chip_price(budget: budgets.Budget, chip: str, table: prices.Prices | None = None) -> float:
    """Of one chip for an hour, in the unit of a budget.

    Raises:
      InputError: the budget is in dollars, and the chip has no price.
    """
    if budget.unit == 'chip-hours':
        return 1.0
    known = (prices.table() if table is None else table).get(chip)
    if known is None:
        raise config.InputError(
            f'--budget {budget}: {chip} has no price. Your own prices: --prices FILE. Or give chip-hours.'
        )
    return known.dollars


def step_seconds(experiment: Experiment, on: slices.Slice) -> float | None:
    """What a step takes on a slice by the formulas of plan; None where they do not know it."""
    try:
        return plans.make(plannable(experiment), on, fast=True).time.seconds
    except config.InputError:  # Devices may be laid out as no slice is.
        return None


def plannable(experiment: Experiment) -> Experiment:
    """A fixed order of sums costs some time of its own, which no formula tells."""
    fixed = isinstance(experiment.gradients, gradients.FixedOrder)
    return dataclasses.replace(experiment, gradients=gradients.WholeBatch()) if fixed else experiment


def _slice(chip: chips.Chip, devices: int, count: int) -> slices.Slice | None:
    """Slices of so many devices in all."""
    wanted = devices // chip.devices // count
    fitting = [shape for shape in slices.shapes(chip) if math.prod(shape) == wanted]
    return slices.Slice(chip, min(fitting, key=sum), count) if fitting else None
