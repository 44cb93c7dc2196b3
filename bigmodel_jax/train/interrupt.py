"""SIGTERM and Ctrl-C ask a run to stop after the step it is in; a second Ctrl-C stops it at once.

Of several processes any may be asked, at another step each; they agree on the one after which all stop.
"""

import contextlib
import signal
import threading
import types
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from bigmodel_jax import sharding
from bigmodel_jax.train import processes


class Interrupt:
    """Whether, and by which signal, the run was asked to stop."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def settle(self) -> str | None:
        """The signal that asks all processes to stop after the step just handed to the devices; call it at each.

        With one process that is `reason`.
        """
        return self.reason

    def _ask(self, number: int, frame: types.FrameType | None) -> None:
        if self.reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name


class Agreement(Interrupt):
    """An interrupt of which all processes hear at the same step.

    Each step is followed by the maximum, over all processes, of the signal that each has had; it is read a step later,
    when that step was waited for anyway. So the devices never wait for it, and the answer to a signal comes one step
    later than with one process.
    """

    def __init__(self, place: sharding.Place):
        super().__init__()
        self._place = place
        self._maximum = jax.jit(jnp.max, out_shardings=place.replicated)
        self._before: jax.Array | None = None

    def settle(self) -> str | None:
        mine = 0 if self.reason is None else signal.Signals[self.reason].value
        before, self._before = self._before, self._maximum(self._place.of_each_process(mine))
        asked = 0 if before is None else int(before)
        return signal.Signals(asked).name if asked else None


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
