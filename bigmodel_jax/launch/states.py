"""The states of a launch, its record on disk, and one turn of the machine that moves it from state to state.

    requested -> waiting -> ready -> running -> done
         ^                                |---> preempted -> requested, with the next attempt
         '--------------------------------'         |------> failed: the launch gives up, or it would fail again
                                                    '------> spent: the run ended by itself, with its budget

An attempt has its own name. The next one is created only after the one before was seen to be gone, so that no two run
at a time; and a state at which a launch ends is recorded only then, so that nothing is left running. Each change is
written before what it announces is done: a process that is killed at any moment is followed by one that goes on.
"""

import dataclasses
import enum
from typing import Any

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.hosts import exit_status
from bigmodel_jax.launch import programs
from bigmodel_jax.launch.job import Job
from bigmodel_jax.launch.seen import Created, Phase, Seen
from bigmodel_jax.launch.targets import target
from bigmodel_jax.storage import durable_files

FILE = 'launch.json'
# A request that nobody saw the answer of may arrive so late.
SETTLE_S = 2 * programs.TIMEOUT_S
# Looks after which hosts that have not ended, while another has failed, are not waited for.
PATIENCE = 4
REQUESTS = 10  # Of one attempt, before it is given up.
CRASHES = 3  # Attempts in a row that end by themselves with an error: the next one would too.
HISTORY = 200


class LaunchState(enum.Enum):
    """Of a launch."""

    REQUESTED = 'requested'
    WAITING = 'waiting'
    READY = 'ready'
    RUNNING = 'running'
    PREEMPTED = 'preempted'
    FAILED = 'failed'
    DONE = 'done'
    STOPPED = 'stopped'
    SPENT = 'budget spent'

    @property
    def is_end(self) -> bool:
        return self in (LaunchState.FAILED, LaunchState.DONE, LaunchState.STOPPED, LaunchState.SPENT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaunchBudget(config.Value):
    """When a launch gives up.

    Attributes:
      attempts: how often machines are asked for.
      hours: with machines, of all attempts together.
    """

    attempts: int = 20
    hours: float = 24.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record(config.Value):
    """What is known of a launch.

    Attributes:
      first: the attempt with which this launch began; those before belong to earlier ones.
      ending: the state that follows when the machines of this attempt are gone; None while they are wanted.
      confirmed: the attempt's machines were asked for, and the request was accepted or seen.
      asked_s: when they were last asked for, by the clock.
      used_s: with machines, of all attempts.
      looked_s: when they were last looked at.
      doubts: looks at which some hosts had ended badly, and others not at all.
      crashes: attempts in a row, up to this one, of which every host ended and some with an error of their own.
    """

    state: LaunchState = LaunchState.REQUESTED
    attempt: int = 1
    first: int = 1
    ending: LaunchState | None = None
    reason: str = ''
    confirmed: bool = False
    asked_s: float = 0.0
    used_s: float = 0.0
    looked_s: float = 0.0
    doubts: int = 0
    crashes: int = 0
    history: tuple[tuple[float, int, str, str], ...] = ()

    def to(self, state: LaunchState, now: float, reason: str = '', **changes: Any) -> 'Record':
        """This record in another state, which the history then tells."""
        entry = (round(now, 1), changes.get('attempt', self.attempt), state.value, reason)
        return dataclasses.replace(
            self, state=state, reason=reason, history=(*self.history, entry)[-HISTORY:], **changes
        )


@dataclasses.dataclass(frozen=True)
class Launch(config.Value):
    """A job, where it runs, and the directory of its record and files."""

    job: Job
    on: target.Target
    budget: LaunchBudget
    folder: epath.Path

    def place(self, record: Record) -> target.AttemptPlace:
        """Of the attempt of a record."""
        return target.AttemptPlace(self.job, record.attempt, str(self.folder))

    def save(self, record: Record) -> Record:
        """Writes the record, and returns it."""
        durable_files.write_json(self.folder / FILE, to_json(self, record))
        return record


def to_json(launch: Launch, record: Record) -> dict[str, Any]:
    """The content of launch.json."""
    stored = dataclasses.asdict(record)
    ending = None if record.ending is None else record.ending.value
    return {
        'job': config.to_json(launch.job),
        'target': config.to_json(launch.on),
        'budget': dataclasses.asdict(launch.budget),
        'record': stored | {'state': record.state.value, 'ending': ending},
    }


def read(folder: epath.PathLike) -> tuple[Launch, Record] | None:
    """The launch of a directory; None if there is none.

    Raises:
      InputError: its record is damaged.
    """
    path = epath.Path(folder) / FILE
    if not durable_files.exists(path):
        return None
    data = durable_files.read_json(path)
    try:
        stored = dict(data['record'])
        stored['state'] = LaunchState(stored['state'])
        stored['ending'] = None if stored['ending'] is None else LaunchState(stored['ending'])
        stored['history'] = tuple(tuple(each) for each in stored['history'])
        job, on = config.from_json(data['job']), config.from_json(data['target'])
        if not isinstance(job, Job) or not isinstance(on, target.Target):
            raise ValueError('it names no job or no target')
        return Launch(job, on, LaunchBudget(**data['budget']), epath.Path(folder)), Record(**stored)
    except (KeyError, TypeError, ValueError) as error:
        raise config.InputError(f'{path} is damaged: {error}.') from error


# ---- one turn -------------------------------------------------------------------------------------------------------


def turn(launch: Launch, record: Record, run: programs.Run, now: float) -> Record:
    """Looks once at what there is, and does what follows; the new record is saved.

    Args:
      now: seconds by a clock that goes on while no process watches.
    """
    if record.state.is_end:
        return record
    if record.ending is not None:
        return _close(launch, record, run, now)
    if not record.confirmed and record.asked_s == 0.0:
        return _create(launch, record, run, now)
    seen = launch.on.observe(launch.place(record), run)
    charged = _charged(record, seen, now)
    if (charged.used_s, charged.confirmed) != (record.used_s, record.confirmed):
        launch.save(charged)
    record = charged
    if record.used_s > 3600 * launch.budget.hours and seen.phase is not Phase.ENDED:
        return _end(
            launch, record, LaunchState.FAILED, f'the budget of {launch.budget.hours:g} hours is spent', now=now
        )
    return _follow(launch, record, seen, run=run, now=now)


def stop(launch: Launch, record: Record, now: float) -> Record:
    """The record of a launch that is to end; turn() then ends it."""
    if record.state.is_end or record.ending is LaunchState.STOPPED:
        return record
    return launch.save(dataclasses.replace(record, ending=LaunchState.STOPPED, reason='stopped by --stop'))


def _charged(record: Record, seen: Seen, now: float) -> Record:
    """The record with the time since the last look, if there were machines."""
    has_machines = record.state in (LaunchState.READY, LaunchState.RUNNING)
    is_seen = seen.phase not in (Phase.UNKNOWN, Phase.ABSENT)
    since = max(now - record.looked_s, 0.0) if has_machines and record.looked_s else 0.0
    return dataclasses.replace(
        record,
        used_s=record.used_s + since,
        looked_s=now,
        confirmed=record.confirmed or is_seen,
        doubts=0 if is_seen and not record.confirmed else record.doubts,
    )


def _create(launch: Launch, record: Record, run: programs.Run, now: float) -> Record:
    """Asks for the machines of an attempt; asking twice is asking once, as it has one name."""
    record = launch.save(dataclasses.replace(record, asked_s=now))  # Before: a request may be under way when we end.
    place = launch.place(record)
    for name, text in launch.on.files(place).items():
        durable_files.write(launch.folder / name, text.encode())
    *before, last = launch.on.create(place)
    for command in before:
        answer = run(command)
        if answer.status != 0:  # Nothing is asked for yet.
            problem = f'`{" ".join(command[:3])}`: {answer.problem}'
            return _doubt(launch, dataclasses.replace(record, asked_s=0.0), problem, now)
    answer = run(last)
    created = launch.on.judge(answer)
    if created is Created.REFUSED:
        return _end(launch, record, LaunchState.FAILED, f'{last[0]} refused: {answer.problem}', now=now)
    if created is Created.ACCEPTED:
        return launch.save(record.to(LaunchState.REQUESTED, now, confirmed=True, doubts=0))
    return _doubt(launch, record, answer.problem, now)


def _doubt(launch: Launch, record: Record, problem: str, now: float) -> Record:
    """The record after a request that failed and may do better; too many are the end."""
    record = launch.save(dataclasses.replace(record, reason=problem, doubts=record.doubts + 1))
    if record.doubts < REQUESTS:
        return record
    return _end(launch, record, LaunchState.FAILED, f'{REQUESTS} requests failed, the last: {problem}', now=now)


def _follow(launch: Launch, record: Record, seen: Seen, *, run: programs.Run, now: float) -> Record:
    """What follows from what was seen of an attempt whose machines are wanted."""
    if seen.phase is Phase.UNKNOWN:
        return record
    if seen.phase is Phase.ENDED:
        return _judge(launch, record, seen, now)
    if seen.phase is Phase.GIVEN_UP:
        return _end(launch, record, LaunchState.FAILED, seen.reason or 'the scheduler gave up', now=now)
    if seen.phase is Phase.ABSENT and not record.confirmed:
        # The request was never seen. It may still be under way; only then can another one be needed.
        return _create(launch, record, run, now) if now >= record.asked_s + SETTLE_S else record
    if seen.phase in (Phase.GONE, Phase.ABSENT, Phase.FAILED):
        why = seen.reason or seen.phase.value
        return _end(launch, dataclasses.replace(record, crashes=0), LaunchState.PREEMPTED, why, now=now)
    state = LaunchState(seen.phase.name.lower())
    return record if state is record.state else launch.save(record.to(state, now, seen.reason))


def _judge(launch: Launch, record: Record, seen: Seen, now: float) -> Record:
    """What follows when hosts have ended."""
    bad = [status for status in seen.statuses if status]
    if not bad:
        if len(seen.statuses) >= seen.hosts:
            return _end(launch, record, LaunchState.DONE, '', now=now)
        # The others end soon; if they do not, they were preempted.
        bad = [0]
    if len(seen.statuses) < seen.hosts and record.doubts < PATIENCE:
        return launch.save(dataclasses.replace(record, doubts=record.doubts + 1))
    if exit_status.SPENT in bad:
        spent = 'it saved and stopped; a larger --budget goes on'
        return _end(launch, record, LaunchState.SPENT, spent, now=now)
    if set(bad) == {exit_status.WRONG_INPUT} and len(bad) >= seen.hosts:
        return _end(launch, record, LaunchState.FAILED, 'the command refused its input; --logs shows why', now=now)
    crashed = len(seen.statuses) >= seen.hosts and all(status < exit_status.SIGNALS for status in bad)
    record = dataclasses.replace(record, crashes=record.crashes + 1 if crashed else 0)
    if record.crashes >= CRASHES:
        again = f'exit status {bad[0]} in {CRASHES} attempts in a row; --logs shows why'
        return _end(launch, record, LaunchState.FAILED, again, now=now)
    silent = f', {seen.hosts - len(seen.statuses)} hosts did not end' if len(seen.statuses) < seen.hosts else ''
    return _end(launch, record, LaunchState.PREEMPTED, f'exit status {bad[0]}{silent}', now=now)


def _end(launch: Launch, record: Record, state: LaunchState, reason: str, *, now: float) -> Record:
    """The record of an attempt whose machines are to go, and what follows then."""
    if state is LaunchState.PREEMPTED:
        record = record.to(LaunchState.PREEMPTED, now, reason)
        if record.attempt - record.first + 1 >= launch.budget.attempts:
            state, reason = LaunchState.FAILED, f'gave up after {launch.budget.attempts} attempts, the last: {reason}'
    return launch.save(dataclasses.replace(record, ending=state, reason=reason))


def _close(launch: Launch, record: Record, run: programs.Run, now: float) -> Record:
    """Removes what an attempt made, until it is seen to be gone; then moves on."""
    place = launch.place(record)
    is_gone = launch.on.is_gone(place, run)
    # Even the answer that there is nothing is not enough while a request may be under way.
    may_come = not record.confirmed and now < record.asked_s + SETTLE_S and record.asked_s > 0.0
    if not is_gone:
        for command in launch.on.delete(place):
            run(command)
    if not is_gone or may_come:
        return record
    assert record.ending is not None
    if record.ending is not LaunchState.PREEMPTED:
        return launch.save(record.to(record.ending, now, record.reason, ending=None))
    kept: dict[str, Any] = {
        'first': record.first,
        'used_s': record.used_s,
        'crashes': record.crashes,
        'history': record.history,
    }
    fresh = Record(attempt=record.attempt + 1, **kept)
    return launch.save(fresh.to(LaunchState.REQUESTED, now))
