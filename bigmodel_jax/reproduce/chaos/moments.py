"""Moments at which a process may be killed: while it starts, at a step, and inside a save."""

import dataclasses
import random
import time

from bigmodel_jax.reproduce.chaos import observer

STARTING = 0.1  # Of the kills that are not inside saves, so many come while the processes start.


@dataclasses.dataclass(frozen=True)
class Moment:
    """Interface: `after_s` seconds after a session is seen to be where it should be."""

    after_s: float

    def has_come(self, watch: observer.ProcessWatch) -> bool:
        """Whether the session is where it should be."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class WhileStarting(Moment):
    """`at_s` seconds after the session was started, or at its first report, if that is earlier."""

    at_s: float

    def has_come(self, watch: observer.ProcessWatch) -> bool:
        return watch.reported is not None or time.time() >= watch.began + self.at_s


@dataclasses.dataclass(frozen=True)
class AtStep(Moment):
    """Once the session has written a report, and it is the last one before `step` or a later one."""

    step: int
    log_every: int

    def has_come(self, watch: observer.ProcessWatch) -> bool:
        return watch.reported is not None and watch.reported >= self.step - self.log_every


@dataclasses.dataclass(frozen=True)
class InSave(Moment):
    """While the checkpoint of `step`, or of a later one, is being written."""

    step: int

    def has_come(self, watch: observer.ProcessWatch) -> bool:
        # Before the beginning, what lies there is left of an earlier session.
        return watch.beginning is not None and any(step >= self.step for step in watch.saving)


def draw(dice: random.Random, step: int, share_in_saves: float, pace: observer.Pace) -> Moment:
    """A random moment, at or after `step` unless it is during the start.

    Args:
      share_in_saves: the probability that it is inside a save.
    """
    if dice.random() < share_in_saves:
        return InSave(dice.uniform(0, pace.save_s), step)
    if dice.random() < STARTING:
        return WhileStarting(0.0, dice.uniform(0, pace.start_s + pace.compile_s))
    return AtStep(dice.uniform(0, pace.log_every * pace.step_s), step, pace.log_every)


def victims(dice: random.Random, hosts: int) -> tuple[int, ...]:
    """The hosts that die: half the times one of them, else several at once, or all."""
    count = 1 if dice.random() < 0.5 else dice.randint(1, hosts)
    return tuple(sorted(dice.sample(range(hosts), count)))
