"""The budget of a run, in chip-hours or dollars: at the limit it saves a checkpoint and stops.

A chip-hour is one chip for one hour, from the opening of a session to its last record; on the CPU a device of JAX
counts as one chip. What earlier sessions spent is read from the run's own records, so that a budget is that of the run
in all. The time before a session opens, in which machines boot and the experiment is loaded, and what a session that
was killed did after its last record are not in them.
"""

import dataclasses
import re
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.hosts import preemption, processes
from bigmodel_jax.run_directory import event_log, run_files
from bigmodel_jax.train.monitoring import hooks, sessions, watching
from bigmodel_jax.train.state import TrainState
from bigmodel_jax.train.step import Trace

TEXT = re.compile(r'(\d+(?:\.\d+)?)(usd|chip-hours?)')
HOUR_S = 3_600.0


@dataclasses.dataclass(frozen=True)
class Budget:
    """So many chip-hours or US dollars."""

    amount: float
    unit: Literal['chip-hours', 'usd']

    def __str__(self) -> str:
        return self.show(self.amount)

    def show(self, amount: float) -> str:
        """An amount in the budget's unit: $2.50, 0.031 chip-hours."""
        return f'${amount:,.2f}' if self.unit == 'usd' and amount >= 0.01 else f'{amount:.3g} {self.unit}'


def parse(text: str) -> Budget:
    """The budget '2.5usd' or '3chip-hours'.

    Raises:
      InputError: it is neither.
    """
    found = TEXT.fullmatch(text.strip().lower())
    if found is None or float(found[1]) <= 0:
        raise config.InputError(f'--budget {text!r} is not a budget. Write it as 2.5usd or as 3chip-hours.')
    return Budget(float(found[1]), 'usd' if found[2] == 'usd' else 'chip-hours')


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunBudget:
    """What a run may spend in all its sessions; plan/run_budget.py makes it from what a person writes.

    Attributes:
      price: of one device for an hour, in the unit of the budget.
      step: what a step is expected to take, in seconds times devices; None if nobody knows.
      words: where that comes from.
    """

    budget: Budget
    price: float
    step: float | None = None
    words: str = ''

    def of(self, device_s: float) -> float:
        """The price of seconds times devices."""
        return device_s * self.price / HOUR_S


class Account(NamedTuple):
    """What the records of a run say of earlier sessions.

    Attributes:
      spent: by all of them, in seconds times devices.
      step: that a step took at last, in seconds times devices; None if none was timed.
    """

    spent: float = 0.0
    step: float | None = None


def account(directory: epath.Path) -> Account:
    """Of the run in a directory, which may be new.

    Raises:
      InputError: its environment.json cannot be read.
    """
    environment, every = run_files.environment(directory), event_log.read_all(directory / event_log.FILE)
    timed = [each['metrics'].get('seconds_per_step') for each in every if each['kind'] == 'speed']
    known = [seconds for seconds in timed if isinstance(seconds, float)]
    step = known[-1] * sessions.devices(environment[-1]) if known and environment else None
    return Account(sessions.device_seconds(environment, every), step)


class BudgetGuard(hooks.Hook):
    """Stops a session when the budget of its run is spent.

    Args:
      limit: None for no limit.
      before: of the earlier sessions; it matters on the first process, which asks all to stop.
      now: seconds on a clock that never goes back.
    """

    def __init__(
        self,
        limit: RunBudget | None,
        before: Account,
        *,
        devices: int,
        clock: watching.Clock,
        now: Callable[[], float] = time.monotonic,
    ):
        self._limit, self._before, self._devices, self.clock, self._now = limit, before, devices, clock, now
        self._began_s = now()
        self._interrupt: preemption.Interrupt | None = None
        self._say: Callable[[int, str], None] = lambda number, text: None

    @property
    def step(self) -> float | None:
        """What a step takes, in seconds times devices: measured, or else as expected."""
        expected = None if self._limit is None else self._limit.step
        return expected if self._before.step is None else self._before.step

    @property
    def spent(self) -> float:
        """By all sessions so far, in the unit of the budget."""
        assert self._limit is not None
        return self._limit.of(self._before.spent + (self._now() - self._began_s) * self._devices)

    def is_spent(self) -> bool:
        """Whether earlier sessions left too little for one more step; all processes ask, and the first decides."""
        if self._limit is None:
            return False
        left = self._limit.budget.amount - self._limit.of(self._before.spent)
        return processes.from_first(self._before.spent > 0 and left <= self._limit.of(self._before.step or 0.0))

    def watch(self, interrupt: preemption.Interrupt, say: Callable[[int, str], None]) -> None:
        """From now on the end is asked for when it is due.

        Args:
          say: is told the step and why.
        """
        self._interrupt, self._say = interrupt, say

    def check(self) -> None:
        """Raises InputError if a run that has spent nothing yet cannot pay its first step."""
        limit = self._limit
        if limit is None or self._before.spent or self.step is None or limit.of(self.step) <= limit.budget.amount:
            return
        raise config.InputError(
            f'--budget {limit.budget} is too small for one step, which takes about '
            f'{limit.budget.show(limit.of(self.step))} ({limit.words}).'
        )

    def sentence(self, start: int, last: int) -> str | None:
        """How far the budget carries from step `start`."""
        limit, step = self._limit, self.step
        if limit is None or start >= last:
            return None
        before = limit.of(self._before.spent)
        spent = f'budget {limit.budget}: {limit.budget.show(before) if before else "nothing"} spent by earlier sessions'
        if step is None:
            return f'{spent}; how far the rest carries is not known before the first steps'
        carried = int(max(limit.budget.amount - before, 0.0) / limit.of(step)) if limit.of(step) else last - start
        how = 'measured by an earlier session' if self._before.step is not None else limit.words
        return (
            f'{spent}; the rest carries about {min(carried, last - start):,} of {last - start:,} steps '
            f'at {step / self._devices:.3g} s a step ({how}), without evaluations and checkpoints'
        )

    def after_step(self, number: int, current: TrainState, trace: Trace) -> None:
        """Asks for the end when the steps until then, and a checkpoint as long as the longest, are all that is left."""
        limit, interrupt = self._limit, self._interrupt
        if limit is None or interrupt is None or not processes.is_first():
            return
        step_s = self.clock.median_s or (self.step or 0.0) / self._devices
        ending_s = interrupt.wait * step_s + self.clock.longest_s('checkpoint')
        if self.spent + limit.of(ending_s * self._devices) >= limit.budget.amount:
            interrupt.request_stop(preemption.BUDGET)
            self._say(number, f'{limit.budget.show(self.spent)} of the budget of {limit.budget} are spent: stopping')
            self._interrupt = None
