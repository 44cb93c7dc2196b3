"""Watches a session: where its time goes, which steps are slow and why, and which host has stopped."""

import collections
import contextlib
import dataclasses
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from bigmodel_jax.console import quantities
from bigmodel_jax.hosts import processes
from bigmodel_jax.run_directory import locking

# What a session does at a moment, and how that is said of one that is stuck in it.
PHASES = {
    'train': 'waiting for the devices',
    'data': 'waiting for data',
    'checkpoint': 'busy with a checkpoint',
    'compile': 'compiling',
    'evaluation': 'evaluating',
    'other': 'busy on the host',
}
PLANNED = ('compile', 'evaluation')  # May take as long as they like.
BETWEEN_STEPS = ('checkpoint', *PLANNED)  # No part of the seconds per step.
REMEMBERED = 100  # Steps of which the median is taken.
ENOUGH = 5  # Steps without which it says nothing.
WARMED_UP = 30  # Steps before a slow one is reported: the first save, report and fingerprint take their time.
HEARTBEATS = 'heartbeats'
TRACED = 'phase: '  # Before the name of a phase in a trace of the profiler.

Times = dict[str, float]  # Phase -> seconds.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """From when on something is reported."""

    times: float = 10.0  # A step is slow, and a session stuck, beyond so many times the median of a step ...
    slow_s: float = 1.0  # ... and beyond so much: for a slow step,
    stuck_s: float = 30.0  # and for a session of which no step ends.
    starving: float = 0.5  # Share of the time of steps spent waiting for data.
    beat_s: float = 5.0  # Between heartbeats; a host that misses three is not there.


class Lap(NamedTuple):
    """What the steps since the last lap took."""

    seconds_per_step: float  # Without compilation, evaluations and checkpoints; 0.0 if no step was timed.
    times: Times  # Of every phase; they add up to all the time since the last lap.
    finding: str | None  # That the steps starved, if they did.


class Clock:
    """Cuts the time of a session into phases; time in none of the others is 'other'.

    Args:
      now: seconds on a clock that never goes back.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, limits: Limits = Limits()):
        self.limits, self._now = limits, now
        self._current, self._since = 'other', now()
        self._all, self._of_lap, self._of_step = Times(), Times(), Times()
        self._steps, self._first, self._starved = 0, True, 0
        self._recent: collections.deque[Times] = collections.deque(maxlen=REMEMBERED)
        self._longest = Times()
        self.last_step, self.ended_s = 0, now()  # The last step that ended, and when.

    @property
    def current(self) -> str:
        """The phase that the session is in."""
        return self._current

    @property
    def idle_s(self) -> float:
        """Seconds since a step ended."""
        return self._now() - self.ended_s

    def longest_s(self, phase: str) -> float:
        """Seconds that the session was in a phase without a break, at most; 0.0 if it never was."""
        return self._longest.get(phase, 0.0)

    @property
    def median_s(self) -> float:
        """Of the last steps; 0.0 as long as there are too few."""
        return statistics.median(map(_length, list(self._recent))) if len(self._recent) >= ENOUGH else 0.0

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The time spent within is of this phase. The first step of a session compiles, so 'train' is 'compile'."""
        before = self._current
        phase = 'compile' if name == 'train' and self._first else name
        self._enter(phase)
        try:
            with jax.profiler.TraceAnnotation(TRACED + phase):
                yield
        finally:
            self._enter(before)

    def _enter(self, phase: str) -> None:
        now = self._now()
        self._longest[self._current] = max(self._longest.get(self._current, 0.0), now - self._since)
        for times in (self._all, self._of_lap, self._of_step):
            times[self._current] = times.get(self._current, 0.0) + now - self._since
        self._current, self._since = phase, now

    def step(self, number: int) -> str | None:
        """A step is done; says so if it was slow, and why."""
        self._enter(self._current)
        of_step, self._of_step = self._of_step, Times()
        self.last_step, self.ended_s = number, self._now()
        if self._first:
            # What comes before the first step is done is not of the steps.
            self._first, self._of_lap = False, Times()
            return None
        self._steps += 1
        finding = self._slow(number, of_step)
        self._recent.append(of_step)
        return finding

    def _slow(self, number: int, of_step: Times) -> str | None:
        length = sum(seconds for phase, seconds in of_step.items() if phase not in PLANNED)
        if length <= self.limits.slow_s:  # The median of short steps would cost a part of them.
            return None
        median = self.median_s
        if len(self._recent) < WARMED_UP or length <= self.limits.times * median:
            return None
        usual = {phase: statistics.median(each.get(phase, 0.0) for each in self._recent) for phase in of_step}
        grown = max(of_step.keys() - set(PLANNED), key=lambda phase: of_step[phase] - usual[phase])
        return (
            f'Step {number} took {length:.1f} s, {length / median:.0f} times the median of {median:.3g} s: '
            f'{of_step[grown]:.1f} s of it {PHASES[grown]}.'
        )

    def lap(self) -> Lap:
        """Ends a lap."""
        self._enter(self._current)
        times, of_lap, steps = self._all, self._of_lap, self._steps
        self._all, self._of_lap, self._steps = Times(), Times(), 0
        whole, waited = _length(of_lap), of_lap.get('data', 0.0)
        finding = self._starving(steps, waited / whole) if steps and whole else None
        return Lap(whole / steps if steps else 0.0, {phase: times.get(phase, 0.0) for phase in PHASES}, finding)

    def _starving(self, steps: int, share: float) -> str | None:
        """What is said of a lap that waited for data; of the 1st such lap, the 2nd, 4th, 8th and so on."""
        if share <= self.limits.starving:
            return None
        self._starved += 1
        if self._starved.bit_count() > 1:
            return None
        return (
            f'The last {steps} steps waited for data {share:.0%} of their time: the devices starve. '
            'Read faster: from a nearer disk, with less work for each example.'
        )


def _length(times: Mapping[str, float]) -> float:
    return sum(seconds for phase, seconds in times.items() if phase not in BETWEEN_STEPS)


def record(times: Times) -> dict[str, float]:
    """The metrics of a record of kind 'time'."""
    return {f'{phase}_s': seconds for phase, seconds in times.items()}


class Heartbeat(NamedTuple):
    """The state of a process, as the others read it."""

    number: int  # Grows with each.
    step: int  # The last that ended.
    phase: str


class Watcher:
    """As a context manager, a thread that says when the session is stuck: in which phase, or on which host.

    Each process publishes heartbeats; the first reports which hosts are stuck or silent, once each time that no step
    ends.

    Args:
      say: (step, text); called by the thread.
    """

    def __init__(self, clock: Clock, say: Callable[[int, str], Any]):
        self._clock, self._say, self._limits = clock, say, clock.limits
        # The last of each host, with the time at which it was new.
        self._heard = {host: (Heartbeat(0, 0, 'other'), time.monotonic()) for host in range(processes.count())}
        self._said: tuple[int, list[int]] | None = None  # After which step it was said, and of which silent hosts.
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name='watcher', daemon=True)

    def __enter__(self) -> 'Watcher':
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        # It may hang in a call to a host that is gone, and must not keep the process from ending.
        self._thread.join(timeout=2 * self._limits.beat_s)

    def _run(self) -> None:
        count = 0
        while not self._ended.wait(self._limits.beat_s):
            count += 1
            try:
                self._beat(Heartbeat(count, self._clock.last_step, self._clock.current))
            except jax.errors.JaxRuntimeError:
                return  # The first process is gone, and with it the run.
            if processes.is_first():
                with contextlib.suppress(locking.DirectoryInUse):  # The main thread meets it as well.
                    self._look()

    def _beat(self, mine: Heartbeat) -> None:
        found: Mapping[int, Any] = {processes.index(): mine}
        if processes.count() > 1:
            processes.publish(HEARTBEATS, mine)
            found = processes.published(HEARTBEATS) if processes.is_first() else {}
        for host, values in found.items():
            heartbeat = Heartbeat(*values)
            if self._heard[host][0] != heartbeat:
                self._heard[host] = (heartbeat, time.monotonic())

    def _look(self) -> None:
        clock, idle_s = self._clock, self._clock.idle_s
        if idle_s <= max(self._limits.stuck_s, self._limits.times * clock.median_s):
            return
        silent = self._silent(time.monotonic())
        text = verdict({host: beat for host, (beat, _) in self._heard.items()}, silent)
        if text is not None and self._said != (clock.last_step, sorted(silent)):
            self._said = (clock.last_step, sorted(silent))
            self._say(clock.last_step, f'No step has ended for {quantities.duration(idle_s)}: {text}.')

    def _silent(self, now: float) -> dict[int, float]:
        """Hosts that are not heard of any more, with the seconds for which they are not."""
        ages = {host: now - when for host, (_, when) in self._heard.items()}
        return {host: age for host, age in ages.items() if age > 3 * self._limits.beat_s}


def verdict(heard: Mapping[int, Heartbeat], silent: Mapping[int, float]) -> str | None:
    """Why no step ends; None if that is planned.

    Args:
      heard: the last heartbeat of each host.
      silent: hosts that are not heard of any more -> seconds.
    """
    if silent:
        return ', '.join(
            f'host {host} has not been heard of for {seconds:.0f} s, since it was {PHASES[heard[host].phase]} '
            f'after step {heard[host].step}'
            for host, seconds in sorted(silent.items())
        )
    if all(beat.phase in PLANNED for beat in heard.values()):
        return None
    # Those that wait for the devices wait for the others.
    late = {host: beat for host, beat in heard.items() if beat.phase != 'train'} or heard
    if len(heard) == 1:
        return f'it is {PHASES[heard[0].phase]} after step {heard[0].step}'
    if len(late) == len(heard) and len({(beat.phase, beat.step) for beat in late.values()}) == 1:
        return f'all hosts are {PHASES[late[0].phase]} after step {late[0].step}'
    return ', '.join(
        f'host {host} is {PHASES[beat.phase]} after step {beat.step}' for host, beat in sorted(late.items())
    )
