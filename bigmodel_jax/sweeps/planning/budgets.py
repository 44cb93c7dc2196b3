"""A budget in chip-hours or dollars: estimated before a sweep starts, and kept while it runs.

A chip-hour is one chip for one hour of training, from the start of each session of a trial to its last record. On the
CPU a process counts as one chip, however many cores it has. What was spent is read from the directories of the trials,
so that the budget is that of the sweep in all, however often it is started.
"""

from collections.abc import Mapping, Sequence

from bigmodel_jax import config
from bigmodel_jax.plan import run_budget
from bigmodel_jax.plan.hardware import prices, slices, this_machine
from bigmodel_jax.sweeps import running
from bigmodel_jax.sweeps.planning import costs
from bigmodel_jax.sweeps.standings import Standing, Standings, State
from bigmodel_jax.sweeps.sweep import Sweep
from bigmodel_jax.sweeps.sweep_directory import TrialEntry
from bigmodel_jax.train.monitoring.budget import Budget

MORE = '; the same command with a larger --budget continues'


def limit(
    budget: Budget, sweep: Sweep, on: slices.Slice | None = None, table: prices.Prices | None = None
) -> 'BudgetLimit':
    """The limit that a budget is for a sweep.

    Args:
      on: the slice that a trial runs on; None: the CPU of this machine.

    Raises:
      InputError: dollars without a slice that has a price; or as costs.cost().
    """
    per_arm = {arm: costs.cost(each, on, table) for arm, each in sweep.arms.items()}
    if on is None and budget.unit == 'usd':
        raise config.InputError(
            f'--budget {budget}: name the chips with --topology, such as v5e-4. Your own prices: --prices FILE. Or '
            'give chip-hours.'
        )
    price = 1.0 if on is None else run_budget.chip_price(budget, on.chip.name, table)
    words = "by the FLOPs at this machine's rate" if on is None else f'by the formulas of plan on {on}'
    hours = {arm: _hours(each) for arm, each in per_arm.items()}
    estimates = {arm: price * each for arm, each in hours.items()}
    return BudgetLimit(budget, estimates, price / (1 if on is None else on.chip.devices), words)


def _hours(cost: costs.TrialCost) -> float:
    """Chip-hours of a trial by what is known beforehand."""
    return cost.flops / this_machine.flops() / 3600 if cost.chip_hours is None else cost.chip_hours


class BudgetLimit(running.Limit):
    """Starts no trial that would exceed the budget, and stops what runs when it is spent.

    Args:
      estimates: arm -> what a trial costs, in the unit of the budget, by what is known before any has finished.
      price: of an hour of one device of JAX.
      words: where the estimates come from.
    """

    def __init__(self, budget: Budget, estimates: Mapping[str, float], price: float, words: str):
        self.budget, self._estimates, self._price, self._words = budget, dict(estimates), price, words

    def check(self, standings: Standings) -> None:
        """Raises InputError if the budget is too small for one more trial, of which there is one to run."""
        left = self.budget.amount - self.spent(standings)
        todo = [each for each in standings.all() if each.state is not State.FINISHED]
        needs = {each.entry: self._rest(standings, each) for each in todo}
        if not needs or min(needs.values()) <= left:
            return
        cheapest = min(needs, key=lambda entry: needs[entry])
        spent = f' and {self.budget.show(self.spent(standings))} are spent' if self.spent(standings) else ''
        raise config.InputError(
            f'--budget {self.budget} is too small for one trial{spent}: the cheapest, {cheapest.name}, needs about '
            f'{self.budget.show(needs[cheapest])} ({self._words}). All that is left to run needs about '
            f'{self.budget.show(sum(needs.values()))}.'
        )

    def spent(self, standings: Standings) -> float:
        """By all trials so far."""
        return sum(self._cost(each) for each in standings.all())

    def expected(self, standings: Standings, arm: str) -> float:
        """What a trial of an arm costs: as those that are finished did, and else as the estimates say."""
        own = [self._cost(each) for each in standings.of(arm) if each.state is State.FINISHED]
        if own:
            return sum(own) / len(own)
        done = [each for each in standings.all() if each.state is State.FINISHED]
        estimated = sum(self._estimates[each.entry.arm] for each in done)
        factor = sum(map(self._cost, done)) / estimated if estimated else 1.0
        return self._estimates[arm] * factor

    def allows(self, standings: Standings, entry: TrialEntry, running: Sequence[TrialEntry]) -> str | None:
        spent = self.spent(standings)
        reserved = sum(self._rest(standings, standings[each]) for each in running)
        needed = self._rest(standings, standings[entry])
        if spent + reserved + needed <= self.budget.amount:
            return None
        return (
            f'of the budget of {self.budget}, {self.budget.show(spent)} are spent, and the next trial needs about '
            f'{self.budget.show(needed)}{MORE}'
        )

    def stops(self, standings: Standings, running: Sequence[TrialEntry]) -> dict[TrialEntry, str]:
        if self.spent(standings) < self.budget.amount:
            return {}
        return dict.fromkeys(running, f'the budget of {self.budget} is spent{MORE}')

    def _cost(self, standing: Standing) -> float:
        return standing.device_hours * self._price

    def _rest(self, standings: Standings, standing: Standing) -> float:
        """What the rest of a trial costs."""
        return max(self.expected(standings, standing.entry.arm) - self._cost(standing), 0.0)
