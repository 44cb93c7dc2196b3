"""Making the arms of a sweep equal in parameters, FLOPs or data, so that a comparison is about the idea alone."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bigmodel_jax import config
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.sweeps.planning import costs
from bigmodel_jax.sweeps.sweep import value_at

Quantity = Callable[[costs.TrialCost], float]
LARGEST = 2**20


class Equalized(NamedTuple):
    """Arms that were made equal, as nearly as whole numbers allow.

    Attributes:
      remainders: arm -> by which share it is still larger (or, below 0, smaller) than the baseline.
    """

    arms: dict[str, Experiment]
    remainders: dict[str, float]


def equal_parameters(arms: Mapping[str, Experiment], baseline: str, *, by: str, multiple_of: int = 1) -> Equalized:
    """The arms with about as many parameters as the baseline, by the choice of a whole number in each.

    Args:
      by: path of the field that is chosen, such as 'model.block.ffn.hidden'. More of it must mean more parameters.
      multiple_of: the field is a multiple of this.

    Raises:
      InputError: there is no such arm or field, the field is not a whole number, or no value of it comes near.
    """
    return _solved(arms, baseline, lambda cost: float(cost.parameters), (by, multiple_of))


def equal_flops(arms: Mapping[str, Experiment], baseline: str, *, by: str, multiple_of: int = 1) -> Equalized:
    """The arms with about as many FLOPs a step as the baseline; see equal_parameters()."""
    return _solved(arms, baseline, lambda cost: cost.flops_per_step, (by, multiple_of))


def steps_for_equal_flops(arms: Mapping[str, Experiment], baseline: str) -> Equalized:
    """The arms with so many steps that all spend about the FLOPs of the baseline's run."""
    return _steps(arms, baseline, lambda cost: cost.flops)


def steps_for_equal_data(arms: Mapping[str, Experiment], baseline: str) -> Equalized:
    """The arms with so many steps that all see about as much data (tokens, images ...) as the baseline."""
    return _steps(arms, baseline, lambda cost: cost.units)


def _steps(arms: Mapping[str, Experiment], baseline: str, quantity: Quantity) -> Equalized:
    wanted = quantity(costs.cost(_arm(arms, baseline)))
    found: dict[str, Experiment] = {}
    for arm, each in arms.items():
        per_step = quantity(costs.cost(each)) / each.steps
        steps = max(round(wanted / per_step), 1)
        same = arm == baseline or steps == each.steps
        found[arm] = each if same else config.vary(each, {'steps': steps}, origin='equal steps')
    return _with_remainders(found, wanted, quantity)


def _solved(arms: Mapping[str, Experiment], baseline: str, quantity: Quantity, by: tuple[str, int]) -> Equalized:
    wanted = quantity(costs.cost(_arm(arms, baseline)))
    found = {arm: each if arm == baseline else _solve(each, wanted, quantity, by) for arm, each in arms.items()}
    return _with_remainders(found, wanted, quantity)


def _arm(arms: Mapping[str, Experiment], name: str) -> Experiment:
    if name not in arms:
        raise config.InputError(f'There is no arm {name!r} to make the others equal to.{config.nearest(name, arms)}')
    return arms[name]


def _with_remainders(arms: dict[str, Experiment], wanted: float, quantity: Quantity) -> Equalized:
    return Equalized(arms, {arm: quantity(costs.cost(each)) / wanted - 1 for arm, each in arms.items()})


def _solve(experiment: Experiment, wanted: float, quantity: Quantity, by: tuple[str, int]) -> Experiment:
    """The experiment with the value of the field that comes nearest, found by bisection."""
    path, unit = by
    present = value_at(experiment, path)
    if isinstance(present, bool) or not isinstance(present, int):
        raise config.InputError(f'{path}={present!r} is not a whole number, so it cannot be chosen to make arms equal.')

    def made(count: int) -> Experiment:
        return config.vary(experiment, {path: count * unit}, origin='equal arms')

    def size(count: int) -> float:
        return quantity(costs.cost(made(count)))

    low, high = 1, max(math.ceil(2 * present / unit), 2)
    while size(high) < wanted:
        low, high = high, 2 * high
        if high * unit > LARGEST:
            raise config.InputError(f'No value of {path} up to {LARGEST:,} makes the arm as large as the baseline.')
    if size(low) > wanted:
        raise config.InputError(
            f'With {path}={low * unit} the arm is larger than the baseline already; choose another.'
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= wanted else (low, middle)
    return made(min((low, high), key=lambda count: abs(size(count) - wanted)))
