"""The budget of a launched run: handed on in chip-hours, as the machines know no prices of yours."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from bigmodel_jax import config
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.launch.targets import target
from bigmodel_jax.plan import run_budget
from bigmodel_jax.plan.hardware import prices, slices
from bigmodel_jax.train.monitoring import budget as budgets


class HandedOn(NamedTuple):
    """What of a budget goes to the job.

    Attributes:
      options: of its command.
      sentence: how far the budget carries.
    """

    options: tuple[str, ...] = ()
    sentence: str = ''


NONE = HandedOn()


def hand_on(
    text: str,
    on: target.Target,
    arms: Mapping[str, Experiment],
    *,
    sweep: bool = False,
    table: prices.Prices | None = None,
) -> HandedOn:
    """The options with which a job on a target keeps a budget.

    Args:
      text: '2.5usd' or '3chip-hours'.
      arms: the experiments by name; one for a run.
      sweep: whether the job is a sweep.
      table: prices; by default those of prices.json.

    Raises:
      InputError: the text is no budget, the chips have no price, or the budget is too small for a step of any.
    """
    given, rented = budgets.parse(text), on.cost()
    if given.unit == 'usd' and not rented.chip:
        raise config.InputError(f'--budget {given}: no price is known of {rented.what}. Give chip-hours.')
    price = run_budget.chip_price(given, rented.chip, table)
    # Rounded down, so that it costs no more than was said.
    hours = math.floor(given.amount / price * 1e6) / 1e6
    option = f'--budget={hours:.6f}'.rstrip('0').rstrip('.') + 'chip-hours'
    paid = f', {hours:.3g} chip-hours at ${price:.2f}' if given.unit == 'usd' else ''
    one = on.machines().chips
    carried = [math.inf if one is None else _steps(each, one, hours) for each in arms.values()]
    if not hours or not any(carried):
        where = '' if one is None else f' on {one} by the formulas of plan'
        raise config.InputError(f'--budget {given}{paid}: too small for one step{where}. A larger one is needed.')
    if sweep:
        slice_of_a_trial = () if one is None else (f'--topology={one}',)
        return HandedOn((option, *slice_of_a_trial), f'budget {given}{paid}, of all trials')
    (steps,), (experiment,) = carried, arms.values()
    if math.isinf(steps):
        return HandedOn((option,), f'budget {given}{paid}')
    how_far = f'it carries about {min(steps, experiment.steps):,.0f} of {experiment.steps:,} steps'
    found = f'budget {given}{paid}: {how_far} by the formulas of plan on {one}, without evaluations and checkpoints'
    return HandedOn((option,), found)


def _steps(experiment: Experiment, on: slices.Slice, hours: float) -> float:
    """How many whole steps so many chip-hours pay; infinitely many where the formulas know nothing."""
    seconds = run_budget.step_seconds(experiment, on)
    return math.inf if not seconds else hours * 3_600 // (seconds * on.chips)
