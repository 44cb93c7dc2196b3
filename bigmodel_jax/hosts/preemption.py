"""A signal stops a run after the current step, with a checkpoint; a second Ctrl-C stops it at once.

These are Ctrl-C, SIGTERM, SIGHUP (a terminal that closed), and SIGUSR1 and SIGUSR2, which schedulers send some time
before they kill: `sbatch --signal=USR1@60`.

Of several processes any may receive the signal, each at another step, and any may request a checkpoint; they agree on
the step after which all stop or save.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import NamedTuple

import jax

from bigmodel_jax.hosts import exit_status, leaving, processes
from bigmodel_jax.parallel import sharding
from bigmodel_jax.storage import appending

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
CALLBACK = 'callback'  # The reason of a stop that the callback of a session asks for; see callbacks.py.
BUDGET = 'budget'  # The reason of a stop when the budget of the run is spent; see budget.py.
# Each reason as a number, of which processes take the maximum: a signal counts for more than what the session asks for.
CODES = {CALLBACK: 1, BUDGET: 2} | {each.name: each.value + 2 for each in signal.Signals}
REASONS = {code: reason for reason, code in CODES.items()}
SHOW_CURSOR = '\x1b[?25h'  # A progress bar hides it.


class Requests(NamedTuple):
    """What all processes do after the step just handed to the devices."""

    stop: str | None  # The signal that asks for it, CALLBACK or BUDGET.
    save: bool


class Interrupt:
    """Whether, and by which signal by its callback or by its budget, the run was asked to stop."""

    wait = 1  # Steps until an answer of agree() says so.

    def __init__(self) -> None:
        self.reason: str | None = None
        self._step: int | None = None

    def agree(self, step: int, *, save: bool) -> Requests:
        """What the processes agree on; call it at each step.

        With one process that is what it wants itself.

        Args:
          step: the one just handed to the devices.
          save: whether this process wants a checkpoint.
        """
        self._step = step
        return self._agreed(save)

    def _agreed(self, save: bool) -> Requests:
        return Requests(self.reason, save)

    def request_stop(self, reason: str = CALLBACK) -> None:
        """Asks for a stop as a signal does, from within the session; a reason that came before remains."""
        self.reason = self.reason or reason

    def on_signal(self, number: int) -> None:
        """A signal came: says so at once, even while the process compiles; a second Ctrl-C ends the process."""
        name = signal.Signals(number).name
        if self.reason in (None, CALLBACK, BUDGET):
            self.reason = name
            when = 'the next step' if self._step is None else f'step {self._step + self.wait}'
            appending.say(
                f'{name}: stopping after {when}, saving a checkpoint (Ctrl-C again: stop at once, without it)'
            )
        elif number == signal.SIGINT:
            appending.say(f'{SHOW_CURSOR if sys.stderr.isatty() else ""}{name} again: stopped at once')
            # Whatever is being written is left as by a kill, which the next start copes with.
            leaving.tell('it was stopped at once by a second SIGINT.', 128 + number)
            os._exit(leaving.leave(128 + number))


class Agreement(Interrupt):
    """An interrupt that takes effect at the same step on all processes.

    Each step is followed by the maximum, over all processes, of the signal that each has had and of whether it wants a
    checkpoint; it is read a step later, when that step was waited for anyway. So the devices never wait for it, and the
    answer comes one step later than with one process.
    """

    wait = 2

    def __init__(self, place: sharding.ShardingContext):
        super().__init__()
        self._place = place
        self._maximum = jax.jit(lambda *requests: tuple(x.max() for x in requests), out_shardings=place.replicated)
        self._before: tuple[jax.Array, jax.Array] | None = None
        self._requested = False  # Whether it requested a checkpoint the last time.

    def _agreed(self, save: bool) -> Requests:
        mine = 0 if self.reason is None else CODES[self.reason]
        # The wish lasts until the answer comes, a step later; said twice, it would be granted twice.
        self._requested = save and not self._requested
        requests = [self._place.of_each_process(value) for value in (mine, int(self._requested))]
        before, self._before = self._before, self._maximum(*requests)
        number, save = (0, False) if before is None else (int(before[0]), bool(before[1]))
        return Requests(REASONS[number] if number else None, save)


def status(reason: str | None) -> int:
    """The exit status of a run that `reason` stopped: 128 + its number for a signal, as a shell has it; else 0.

    Not 0, so that a loop in a shell stops with Ctrl-C, and a scheduler knows that the run is not at its end. SPENT for
    a budget, after which nothing should start the run again.
    """
    if reason == BUDGET:
        return exit_status.SPENT
    known = signal.Signals.__members__.get(reason or '')
    return 0 if known is None else exit_status.SIGNALS + known.value


@contextlib.contextmanager
def listen(place: sharding.ShardingContext) -> Iterator[Interrupt]:
    """Within this context signals are noted instead of killing the process. Only the main thread can listen.

    Args:
      place: what the processes share.
    """
    interrupt = Agreement(place) if processes.count() > 1 else Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    # `nohup` ignores SIGHUP, and means it.
    heard = [number for number in SIGNALS if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN]
    # A handler in Python waits for the main thread, which may be compiling for minutes; the number of the signal comes
    # through the socket at once.
    here, there = socket.socketpair()
    there.setblocking(False)
    thread = threading.Thread(target=_pass_on, args=(here, interrupt), name='interrupt', daemon=True)
    thread.start()
    before = {number: signal.signal(number, lambda *_: None) for number in heard}
    wakeup = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    try:
        yield interrupt
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        there.close()
        thread.join()
        here.close()


def _pass_on(source: socket.socket, interrupt: Interrupt) -> None:
    while numbers := source.recv(16):
        for number in numbers:
            if number in SIGNALS:
                interrupt.on_signal(number)
