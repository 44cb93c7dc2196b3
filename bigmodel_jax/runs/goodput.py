"""Goodput: the share of a run's time that was training whose result was kept, and where the rest went."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bigmodel_jax.run_directory import event_log
from bigmodel_jax.train.monitoring import sessions as sessions_lib

TRAINING, AGAIN, PAUSES, OTHER = 'training', 'steps done again', 'between sessions', 'other'
# What the records call it -> what it is called here.
PARTS = {
    'train_s': TRAINING,
    'compile_s': 'compilation',
    'data_s': 'waiting for data',
    'checkpoint_s': 'checkpoints',
    'evaluation_s': 'evaluation',
    'other_s': OTHER,
}
ORDER = (TRAINING, *list(PARTS.values())[1:-1], AGAIN, PAUSES, OTHER)
# Of steps that were done again, these were lost; the rest, such as compilation, would have been needed anyway.
IN_VAIN = ('train_s', 'data_s', 'other_s')


class TimePart(NamedTuple):
    """Where a part of the time went; the shares of all parts add up to 1."""

    name: str
    seconds: float
    share: float


class Interval(NamedTuple):
    """What was recorded of the steps after `first` up to `last`."""

    first: int
    last: int
    times: Mapping[str, float]


def goodput(
    sessions: Sequence[sessions_lib.SessionSummary], every_record: Sequence[event_log.Record]
) -> list[TimePart] | None:
    """All parts from the first start to the last sign of life, in ORDER; None if no times were recorded.

    Args:
      every_record: of metrics.jsonl, also those that were taken back.
    """
    seconds = dict.fromkeys(ORDER, 0.0)
    intervals = _intervals(every_record)
    if not intervals:
        return None
    for interval, kept in intervals:
        for name, value in interval.times.items():
            part = PARTS[name]
            seconds[part] += value * kept if name in IN_VAIN else value
            seconds[AGAIN] += value * (1 - kept) if name in IN_VAIN else 0.0
    # Before the first and after the last record of a session something happens as well.
    within = sum(session.seconds for session in sessions)
    seconds[OTHER] += max(within - sum(seconds.values()), 0.0)
    ends = [session.started_s + session.seconds for session in sessions]
    seconds[PAUSES] = sum(max(after.started_s - end, 0.0) for after, end in zip(sessions[1:], ends))
    total = sum(seconds.values())
    return [TimePart(name, value, value / total if total else 0.0) for name, value in seconds.items()]


def _intervals(every_record: Sequence[event_log.Record]) -> list[tuple[Interval, float]]:
    """Each interval with the share of its steps that was kept."""
    parts: list[Interval | int] = []  # And the steps to which the run went back, in the order of time.
    first = 0
    for record in every_record:
        step = record['step']
        if record['kind'] in event_log.BACK:
            parts.append(step)
            first = step
        elif record['kind'] == 'time':
            parts.append(Interval(min(first, step), step, known(record['metrics'])))
            first = step
    found: list[tuple[Interval, float]] = []
    limit = max((record['step'] for record in every_record), default=0)
    for part in reversed(parts):
        if isinstance(part, int):
            limit = min(limit, part)  # The earliest step to which the run went back later.
        else:
            found.append((part, _kept(part, limit)))
    return found[::-1]


def _kept(interval: Interval, step: int) -> float:
    """The share of an interval's steps that hold when the run goes on from `step`."""
    if interval.last <= step:
        return 1.0
    return max(step - interval.first, 0) / (interval.last - interval.first) if interval.last > interval.first else 0.0


def known(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Those of PARTS among the metrics of a record of kind 'time'."""
    return {name: value for name, value in metrics.items() if name in PARTS}


def shares(record: event_log.Record) -> dict[str, float]:
    """Part -> share of the time since the report before, from a record of kind 'time'; {} if no time passed."""
    times = known(record['metrics'])
    total = sum(times.values())
    return {PARTS[name]: seconds / total for name, seconds in times.items()} if total > 0 else {}


class TimeSegment(NamedTuple):
    """A part of the bar; lengths in SVG units."""

    part: TimePart
    x: float
    width: float
    shade: int  # Which of the colours.


def bar(parts: Sequence[TimePart], width: float) -> list[TimeSegment]:
    """The parts side by side; those of no time are left out."""
    segments, x = [], 0.0
    for shade, part in enumerate(parts):
        length = part.share * width
        if length > 0:
            segments.append(TimeSegment(part, round(x, 2), round(length, 2), shade))
        x += length
    return segments
