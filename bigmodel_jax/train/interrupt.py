"""SIGTERM and Ctrl-C ask a run to stop after the step it is in; a second Ctrl-C stops it at once.

Of several processes any may be asked, at another step each, and any may want a checkpoint; they agree on the step after
which all stop or save.
"""

import contextlib
import signal
import threading
import types
from collections.abc import Iterator
from typing import NamedTuple

import jax

from bigmodel_jax import sharding
from bigmodel_jax.train import processes


class Asked(NamedTuple):
    """What all processes do after the step just handed to the devices."""

    stop: str | None  # The signal that asks for it.
    save: bool


class Interrupt:
    """Whether, and by which signal, the run was asked to stop."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def settle(self, *, save: bool) -> Asked:
        """What the processes agree on; call it at each step.

        With one process that is what it wants itself.

        Args:
          save: whether this process wants a checkpoint.
        """
        return Asked(self.reason, save)

    def _ask(self, number: int, frame: types.FrameType | None) -> None:
        if self.reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name


class Agreement(Interrupt):
    """An interrupt of which all processes hear at the same step.

    Each step is followed by the maximum, over all processes, of the signal that each has had and of whether it wants a
    checkpoint; it is read a step later, when that step was waited for anyway. So the devices never wait for it, and the
    answer comes one step later than with one process.
    """

    def __init__(self, place: sharding.Place):
        super().__init__()
        self._place = place
        self._maximum = jax.jit(lambda *asked: tuple(x.max() for x in asked), out_shardings=place.replicated)
        self._before: tuple[jax.Array, jax.Array] | None = None
        self._asks = False  # Whether it asked for a checkpoint the last time.

    def settle(self, *, save: bool) -> Asked:
        mine = 0 if self.reason is None else signal.Signals[self.reason].value
        # The wish lasts until the answer comes, a step later; said twice, it would be granted twice.
        self._asks = save and not self._asks
        asked = [self._place.of_each_process(value) for value in (mine, int(self._asks))]
        before, self._before = self._before, self._maximum(*asked)
        number, save = (0, False) if before is None else (int(before[0]), bool(before[1]))
        return Asked(signal.Signals(number).name if number else None, save)


@contextlib.contextmanager
def listen(place: sharding.Place) -> Iterator[Interrupt]:
    """Within this context signals are noted instead of killing the process. Only the main thread can listen.

    Args:
      place: what the processes share.
    """
    interrupt = Agreement(place) if processes.count() > 1 else Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {number: signal.signal(number, interrupt._ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
