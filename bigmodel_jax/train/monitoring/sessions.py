"""The sessions of a run: each start or resumption, how far it came, and how it ended."""

import datetime
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bigmodel_jax.run_directory import event_log

ENDINGS = ('stop', 'end')  # The kinds of record that close a session.
DAY_S = 86_400.0


class SessionSummary(NamedTuple):
    """One process (or group of processes) that worked on a run."""

    started_s: float  # Unix time.
    first_step: int
    last_step: int  # The last step that it recorded.
    seconds: float
    ending: str | None  # 'finished', why it stopped, or None: it is still running or ended without a word.
    void_steps: int  # Steps that the next session did again.


def sessions(environment: Sequence[Mapping[str, Any]], every: Sequence[event_log.Record]) -> list[SessionSummary]:
    """The sessions of a run in the order of time.

    Args:
      environment: what environment.json holds.
      every: all records, those that a later session took back included.
    """
    parts = _parts(every)
    found = [_session(entry, parts[i] if i < len(parts) else []) for i, entry in enumerate(environment)]
    for i, (session, after) in enumerate(itertools.pairwise(found)):
        found[i] = session._replace(void_steps=max(session.last_step - after.first_step, 0))
    return found


def devices(entry: Mapping[str, Any]) -> int:
    """Of JAX, that a session used, by its entry in environment.json."""
    return math.prod(entry.get('mesh', {}).values())


def device_seconds(environment: Sequence[Mapping[str, Any]], every: Sequence[event_log.Record]) -> float:
    """Of all sessions: how long each took, times its devices; the arguments are those of sessions()."""
    return sum(each.seconds * devices(entry) for each, entry in zip(sessions(environment, every), environment))


def _parts(every: Sequence[event_log.Record]) -> list[list[event_log.Record]]:
    """The records of each session; none of what was recorded after its end, such as an evaluation on demand."""
    parts: list[list[event_log.Record]] = []
    for record in every:
        if record['kind'] in event_log.BEGINNINGS:
            parts.append([])
        if parts and not (parts[-1] and parts[-1][-1]['kind'] in ENDINGS):
            parts[-1].append(record)
    return parts


def _session(entry: Mapping[str, Any], own: list[event_log.Record]) -> SessionSummary:
    start = datetime.datetime.fromisoformat(entry['started']).timestamp()
    last = own[-1] if own else {'kind': '', 'step': entry['step'], 'time': start}
    ending = {'end': finished(last), 'stop': f'stopped by {last.get("reason")}'}.get(last['kind'])
    last_step = max([entry['step'], *[record['step'] for record in own]])
    return SessionSummary(start, entry['step'], last_step, _seconds(last['time'] - start, own), ending, 0)


def finished(end: Mapping[str, Any]) -> str:
    """How a run ended, from its record of the end, in words."""
    reason = end.get('reason')
    return 'finished' if reason is None else f'finished early at step {end["step"]}: {reason}'


def _seconds(by_the_clock: float, own: list[event_log.Record]) -> float:
    """How long a session took: by the clock of its records, unless that was set meanwhile."""
    measured = sum(sum(each['metrics'].values()) for each in own if each['kind'] == 'time')
    set_meanwhile = by_the_clock < 0 or (measured > 0 and by_the_clock > 10 * measured + DAY_S)
    return measured if set_meanwhile else by_the_clock
