"""Running a sweep: trials are given to an engine until all are finished, failed, or held back by a limit.

What was computed is in the directories of the trials, so that a sweep that was killed is continued by the same call: a
finished trial is never run again, and one that was interrupted resumes from its checkpoint.
"""

import collections
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from bigmodel_jax.hosts import preemption
from bigmodel_jax.run_directory import locking
from bigmodel_jax.sweeps import failures
from bigmodel_jax.sweeps.engines import engine
from bigmodel_jax.sweeps.standings import Standings, State
from bigmodel_jax.sweeps.sweep_directory import SweepDirectory, TrialEntry

POLL_S = 0.2
REFRESH_S = 1.0  # Between two looks at the directories of the trials that run.
LOOK_AGAIN_S = 5.0  # After which a trial that runs elsewhere is looked at again.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class SweepView(Protocol):
    """What shows how far the sweep is."""

    def say(self, sentence: str) -> None:
        """An event."""

    def update(self, standings: Standings) -> None:
        """Called every REFRESH_S seconds."""


class Limit:
    """Interface: what may keep trials from starting, or stop them before their end."""

    def check(self, standings: Standings) -> None:
        """Raises InputError if nothing could start; called before anything does."""

    def allows(self, standings: Standings, entry: TrialEntry, running: Sequence[TrialEntry]) -> str | None:
        """None if a trial may start now; else why not, as a sentence without its period."""
        raise NotImplementedError

    def stops(self, standings: Standings, running: Sequence[TrialEntry]) -> dict[TrialEntry, str]:
        """Of the trials that run, those that have to stop with a checkpoint, and why."""
        raise NotImplementedError

    def rules_out(self, standings: Standings, waiting: Sequence[TrialEntry]) -> dict[TrialEntry, str]:
        """Of the trials that wait, those that will not run whatever comes of the others, and why."""
        return {}

    def stop_after(self, standings: Standings, entry: TrialEntry) -> int | None:
        """The step after which a trial that starts now stops with a checkpoint, and waits again; None: its last."""
        return None


class SweepEnd(NamedTuple):
    """How a start of a sweep ended.

    Attributes:
      failed: what failed in this start or, not tried again, in an earlier one.
      held: trial -> why a limit kept it from starting, or stopped it.
      stopped_by: the name of the signal that ended it.
      message: a sentence of the engine, where trials go on without this process.
    """

    standings: Standings
    failed: tuple[failures.Failure, ...]
    held: dict[TrialEntry, str]
    stopped_by: str | None = None
    message: str = ''

    @property
    def finished(self) -> bool:
        """Whether every trial is."""
        return all(each.state is State.FINISHED for each in self.standings.all())


def check(directory: SweepDirectory, on: engine.Engine, limits: Sequence[Limit] = ()) -> None:
    """Finds out whether a sweep can be run, before anything of it is written.

    Raises:
      InputError: the engine cannot be used, or a limit would let nothing start.
    """
    on.check(directory)
    standings = Standings(directory)
    for limit in limits:
        limit.check(standings)


def run(
    directory: SweepDirectory, on: engine.Engine, view: SweepView, *, retry: bool = False, limits: Sequence[Limit] = ()
) -> SweepEnd:
    """Runs what is not finished of a sweep, for which check() has found nothing wrong.

    Args:
      view: is told what happens.
      retry: also those that failed before.
      limits: what may keep trials from starting or stop them, such as a budget.
    """
    with on.jobs(directory) as jobs, _listening() as heard:
        supervisor = Supervisor(directory, jobs, view, standings=Standings(directory), limits=limits)
        supervisor.choose(retry=retry)
        return supervisor.run(heard)


class Supervisor:
    """Gives trials to an engine and follows them.

    Args:
      standings: of the trials, kept up to date.
    """

    def __init__(
        self,
        directory: SweepDirectory,
        jobs: engine.Jobs,
        view: SweepView,
        *,
        standings: Standings,
        limits: Sequence[Limit] = (),
    ):
        self._directory, self._jobs, self._view, self._limits = directory, jobs, view, limits
        self.standings = standings
        self._waiting: collections.deque[TrialEntry] = collections.deque()
        self._running: list[TrialEntry] = []
        self._began: dict[TrialEntry, int] = {}  # At which step it was submitted.
        self._elsewhere: dict[TrialEntry, float] = {}  # And when to look again.
        self._held: dict[TrialEntry, str] = {}
        self._stopping: dict[TrialEntry, str] = {}
        self._failed: list[failures.Failure] = []

    def choose(self, *, retry: bool) -> None:
        """Decides which trials are to run."""
        every = self.standings.all()
        failed = [each.entry for each in every if each.state is State.FAILED]
        for entry in failed:
            if retry:
                self.standings.forget_failure(entry)
            else:
                damage = self.standings.damage.get(entry.name)
                known = failures.Failure(entry, damage.rstrip('.'), ()) if damage else None
                found = known or failures.read(self._directory, entry)
                self._failed += [found] if found is not None else []
        # Of each seed those that were begun first, so that a sweep that is interrupted often gets whole trials.
        todo = [each.entry for each in self.standings.all() if each.state not in (State.FINISHED, State.FAILED)]
        self._waiting.extend(todo)
        done = len(every) - len(todo) - len(self._failed)
        words = [f'{len(every)} trials', f'{done} finished before' if done else '', f'{len(todo)} to run']
        if self._failed:
            words.append(f'{len(self._failed)} failed before (--retry tries them again)')
        self._view.say(f'{", ".join(filter(None, words))}: {self._jobs.describe()}')

    def run(self, heard: Callable[[float], signal.Signals | None]) -> SweepEnd:
        """Until nothing is left that may run, or a signal came.

        Args:
          heard: waits for so many seconds or until a signal comes, and returns the signal that came, if any.
        """
        asked: signal.Signals | None = None
        refreshed = 0.0
        while True:
            self._collect()
            if asked is None:
                self._start()
            if time.monotonic() - refreshed > REFRESH_S:
                refreshed = time.monotonic()
                self._look()
            if not self._running and (asked is not None or not (self._waiting or self._elsewhere)):
                return self._end(asked)
            came = heard(POLL_S)
            if came is not None and asked is None:
                asked = came
                message = self._jobs.interrupt(came)
                if message is not None:
                    return self._end(asked, message)
                self._stopping |= dict.fromkeys(self._running, f'{came.name}; the same command continues')
                self._view.say(
                    f'{came.name}: {len(self._running)} trials are asked to stop with a checkpoint (Ctrl-C again: at '
                    'once)'
                )

    def _end(self, asked: signal.Signals | None, message: str = '') -> SweepEnd:
        self._look()
        stopped_by = None if asked is None else asked.name
        return SweepEnd(self.standings, tuple(self._failed), self._held, stopped_by, message)

    def _look(self) -> None:
        """Reads how far the running trials are, stops those that a limit says, and shows it."""
        self.standings.refresh([*self._running, *self._elsewhere])
        for limit in self._limits:
            found = limit.stops(self.standings, [entry for entry in self._running if entry not in self._stopping])
            self._jobs.stop(list(found))
            self._stopping |= found
        self._view.update(self.standings)

    def _start(self) -> None:
        """Gives the engine as many trials as it has room for."""
        now = time.monotonic()
        for entry in [entry for entry, at in self._elsewhere.items() if at <= now]:
            del self._elsewhere[entry]
            self._waiting.append(entry)
        self._rule_out()
        chosen: list[TrialEntry] = []
        blocked: dict[TrialEntry, str] = {}
        for _ in range(len(self._waiting)):
            if self._jobs.room() <= len(chosen):
                break
            entry = self._waiting.popleft()
            why = self._blocked(entry, [*self._running, *chosen])
            if why is not None:
                blocked[entry] = why
            elif self._is_free(entry):
                chosen.append(entry)
        if chosen or self._running or self._elsewhere:  # They may turn out to need less, or be what is waited for.
            self._waiting.extendleft(reversed(blocked))
        else:
            self._held |= blocked
        self._submit(chosen)

    def _submit(self, chosen: Sequence[TrialEntry]) -> None:
        by_step: dict[int | None, list[TrialEntry]] = {}
        for entry in chosen:
            steps = [limit.stop_after(self.standings, entry) for limit in self._limits]
            by_step.setdefault(min((step for step in steps if step is not None), default=None), []).append(entry)
        for step, entries in by_step.items():
            self._jobs.submit(entries, stop_after=step)
        self._running += chosen
        for entry in chosen:
            self._began[entry] = before = self.standings[entry].step
            self.standings.mark(entry, State.RUNNING)
            self._view.say(f'{entry.name}: {f"resumes after step {before}" if before else "starts"}')

    def _rule_out(self) -> None:
        """Takes those out of the queue that will not run."""
        for limit in self._limits:
            for entry, why in limit.rules_out(self.standings, list(self._waiting)).items():
                self._waiting.remove(entry)
                self._stopped(entry, why)

    def _stopped(self, entry: TrialEntry, why: str) -> None:
        self.standings.mark(entry, State.STOPPED)
        self._held[entry] = why
        self._view.say(f'{entry.name}: stopped at step {self.standings[entry].step}: {why}')

    def _blocked(self, entry: TrialEntry, running: Sequence[TrialEntry]) -> str | None:
        """Why a limit keeps a trial from starting now."""
        reasons = (limit.allows(self.standings, entry, running) for limit in self._limits)
        return next((why for why in reasons if why is not None), None)

    def _is_free(self, entry: TrialEntry) -> bool:
        """Whether nobody else trains a trial, or has; if so, it is put where it belongs."""
        owner = locking.in_use(self._directory.trial(entry))
        if owner is not None:
            self._is_elsewhere(entry, owner)
            return False
        self.standings.refresh([entry])
        if self.standings[entry].state is State.FINISHED:  # Elsewhere, meanwhile.
            self._view.say(f'{entry.name}: finished elsewhere{self._value(entry)}')
            return False
        return True

    def _is_elsewhere(self, entry: TrialEntry, owner: str) -> None:
        if self.standings[entry].state is not State.ELSEWHERE:
            self._view.say(f'{entry.name}: {owner} is training it; its end is waited for')
        self.standings.mark(entry, State.ELSEWHERE)
        self._elsewhere[entry] = time.monotonic() + LOOK_AGAIN_S

    def _collect(self) -> None:
        """Takes in what has ended."""
        for job in self._jobs.ended():
            self._running.remove(job.entry)
            self.standings.refresh([job.entry])
            self._judge(job)

    def _judge(self, job: engine.EndedJob) -> None:
        entry = job.entry
        why = self._stopping.pop(entry, None)
        if self.standings[entry].state is State.FINISHED:
            self._view.say(f'{entry.name}: finished{self._value(entry)}')
        elif why is not None:
            self._stopped(entry, why)
        elif job.status == 0 and self.standings[entry].step > self._began[entry]:
            self.standings.mark(entry, State.STARTED)
            self._waiting.append(entry)
        elif job.status == 2 and (owner := locking.in_use(self._directory.trial(entry))) is not None:
            self._is_elsewhere(entry, owner)
        elif job.status == 0 or job.status in (128 + number for number in preemption.SIGNALS):
            self.standings.mark(entry, State.STOPPED)
            by = f' by {signal.Signals(job.status - 128).name}' if job.status else ''
            self._view.say(f'{entry.name}: stopped{by} from outside, with a checkpoint; the same command resumes it')
        else:
            self.standings.mark(entry, State.FAILED)
            self._failed.append(failures.record(self._directory, job))
            self._view.say(str(self._failed[-1]))

    def _value(self, entry: TrialEntry) -> str:
        value = self.standings.summary(self.standings[entry])
        return '' if value is None else f': {self._directory.description.metric} {value:.5g}'


@contextlib.contextmanager
def _listening() -> Iterator[Callable[[float], signal.Signals | None]]:
    """Within this context signals are noted; a second Ctrl-C raises KeyboardInterrupt. In a thread none is heard."""
    came: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda seconds: time.sleep(seconds)  # type: ignore[func-returns-value]
        return

    def note(number: int, _: object) -> None:
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(signal.Signals(number))

    def wait(seconds: float) -> signal.Signals | None:
        if not came:
            time.sleep(seconds)  # A signal is noted meanwhile.
        return came[0] if came else None

    heard = [each for each in SIGNALS if each == signal.SIGINT or signal.getsignal(each) != signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heard}
    try:
        yield wait
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
