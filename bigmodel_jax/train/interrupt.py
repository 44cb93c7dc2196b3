"""SIGTERM and Ctrl-C ask a run to stop after the step it is in; a second Ctrl-C stops it at once."""

import contextlib
import signal
import threading
import types
from collections.abc import Iterator


class Interrupt:
    """Whether, and by which signal, the run was asked to stop."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def _ask(self, number: int, frame: types.FrameType | None) -> None:
        if self.reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name


@contextlib.contextmanager
def listen() -> Iterator[Interrupt]:
    """Within this context signals are noted instead of killing the process. Only the main thread can listen."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {number: signal.signal(number, interrupt._ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
