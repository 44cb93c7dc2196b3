"""Progress of data preparation on stderr: a bar on a terminal, a line now and then in a log, nothing if it is quick."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from bigmodel_jax.console import terminal

QUIET_S = 2.0  # Whatever takes less says nothing.
LINE_EVERY_S = 15.0

T = TypeVar('T')


def say(message: str) -> None:
    print(terminal.printable(message), file=terminal.notes(), flush=True)


def track(items: Iterable[T], *, total: int, what: str) -> Iterator[T]:
    """Yields `items`, showing how many of `total` are done.

    Args:
      what: what is being done, as in 'Tokenizing python_docs'.
    """
    return _bar(items, total, what) if sys.stderr.isatty() else _lines(items, total, what)


def _bar(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    from rich import console, progress

    columns = (
        progress.TextColumn('{task.description}', markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console.Console(stderr=True), transient=True) as bar:
        yield from bar.track(items, total=total, description=what)


def _lines(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    started = time.monotonic()
    due = started + QUIET_S
    for done, item in enumerate(items):
        now = time.monotonic()
        if now >= due:
            say(f'{what}: {done} of {total} ({now - started:.0f} s)')
            due = now + LINE_EVERY_S
        yield item
    seconds = time.monotonic() - started
    if seconds >= QUIET_S:
        say(f'{what}: done ({seconds:.0f} s)')
