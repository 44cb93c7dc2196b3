"""A sweep while it runs: one table that is redrawn on a terminal, or one line for each event in a log."""

import contextlib
import time
from collections.abc import Iterator, Sequence

import rich.live
import rich.table
import rich.text

from bigmodel_jax.console import quantities, terminal
from bigmodel_jax.storage import appending
from bigmodel_jax.sweeps.standings import Standing, Standings, State
from bigmodel_jax.sweeps.sweep_directory import SweepDirectory

BAR = 20  # Characters.


class EventLines:
    """Says events, each on a line of its own, and shows no table."""

    def say(self, sentence: str) -> None:
        """An event."""
        appending.say(sentence)

    def update(self, standings: Standings) -> None:
        """Shows nothing: the events say it."""


class LiveTable:
    """The arms, how far they are, the mean of the metric so far, and the time left.

    Args:
      live: draws it.
    """

    def __init__(self, directory: SweepDirectory, live: rich.live.Live):
        self._directory, self._live = directory, live
        self._began, self._first = time.monotonic(), 0.0

    def say(self, sentence: str) -> None:
        """An event, on lines that stay above the table."""
        with contextlib.suppress(OSError):  # The terminal may be gone.
            self._live.console.print(sentence)

    def update(self, standings: Standings) -> None:
        """Draws the table again."""
        done = share(standings.all())
        if not self._first:
            self._first, self._began = done or 1e-12, time.monotonic()
        with contextlib.suppress(OSError):
            self._live.update(render(self._directory, standings, left=self._left(done)))

    def _left(self, done: float) -> str:
        """How long the rest takes at the speed since the start of this process."""
        gained, passed = done - self._first, time.monotonic() - self._began
        return quantities.duration((1 - done) * passed / gained) if gained > 1e-9 else ''


@contextlib.contextmanager
def shown(directory: SweepDirectory) -> Iterator[EventLines | LiveTable]:
    """The view of a sweep: a table where stderr is a terminal, else lines."""
    console = terminal.Console(file=terminal.notes())
    if not console.is_terminal:
        yield EventLines()
        return
    with rich.live.Live(console=console, refresh_per_second=2) as live:
        yield LiveTable(directory, live)


def share(standings: Sequence[Standing]) -> float:
    """The share of all steps that is done."""
    total = sum(each.steps for each in standings)
    return sum(each.steps if each.state is State.FINISHED else each.step for each in standings) / total


def render(directory: SweepDirectory, standings: Standings, *, left: str = '') -> rich.table.Table:
    """The table of how far a sweep is.

    Args:
      left: how long the rest takes; '' where that is not known yet.
    """
    about, best = directory.description, standings.best()
    table = rich.table.Table(box=None, pad_edge=False, header_style='bold', caption_justify='left')
    table.add_column('arm', overflow='fold')
    table.add_column('progress')
    table.add_column('seeds', justify='right')
    table.add_column(about.metric, justify='right')
    table.add_column('')
    for arm in about.arms:
        every, found = standings.of(arm), standings.mean(arm)
        done = share(every)
        finished = sum(each.state is State.FINISHED for each in every)
        value = '' if found is None else f'{quantities.number(found[0])} ({found[1]})'
        table.add_row(
            rich.text.Text(f'{arm} (baseline)' if arm == about.baseline else arm),
            _bar(done),
            f'{finished}/{len(every)}',
            rich.text.Text(value, style='bold' if arm == best else ''),
            rich.text.Text(_states(every)),
        )
    total = f'{share(standings.all()):.0%} of all steps'
    table.caption = f'{total}, about {left} left' if left else total
    return table


def _bar(done: float) -> rich.text.Text:
    filled = round(BAR * done)
    return rich.text.Text('━' * filled, style='green') + rich.text.Text('━' * (BAR - filled), style='dim')


def _states(standings: Sequence[Standing]) -> str:
    """What the trials do that are neither finished nor waiting: '2 running, 1 failed'."""
    told = [each.state for each in standings if each.state not in (State.FINISHED, State.WAITING)]
    return ', '.join(f'{told.count(state)} {state.value}' for state in dict.fromkeys(told))
