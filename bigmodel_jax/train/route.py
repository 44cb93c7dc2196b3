"""Which batch each step of a run takes; after a roll-back some batches are left out."""

from collections.abc import Mapping, Sequence
from typing import Any


class Route:
    """Step s (from 1) takes batch s - 1 + skipped(s).

    Args:
      jumps: (step, skipped) of each roll-back that holds, by step: after `step`, so many batches are left out in all.
    """

    def __init__(self, jumps: Sequence[Sequence[int]] = ()):
        self.jumps = [(step, skipped) for step, skipped in jumps]

    @classmethod
    def of(cls, position: Mapping[str, Any]) -> 'Route':
        """The route in the position of a checkpoint."""
        skipped = position.get('skipped', 0)
        # A checkpoint of an earlier version says only how many were left out by then.
        return cls(position.get('jumps', [(0, skipped)] if skipped else []))

    def skipped(self, step: int) -> int:
        """Batches left out before the one that `step` takes."""
        return next((skipped for after, skipped in reversed(self.jumps) if after < step), 0)

    def batch(self, step: int) -> int:
        """The index of the batch that `step` takes."""
        return step - 1 + self.skipped(step)

    def turns_at(self, step: int) -> bool:
        """Whether the batch after the one of `step` is not the next."""
        return any(after == step for after, _ in self.jumps)

    def back(self, to: int, bad: int) -> 'Route':
        """The route after a roll-back to step `to`, which leaves out the batches from there up to that of `bad`."""
        return Route([jump for jump in self.jumps if jump[0] < to] + [(to, self.batch(bad) + 1 - to)])

    def agrees(self, other: 'Route', step: int) -> bool:
        """Whether both take the same batches up to `step`."""
        mine, others = ([jump for jump in route.jumps if jump[0] < step] for route in (self, other))
        return mine == others
