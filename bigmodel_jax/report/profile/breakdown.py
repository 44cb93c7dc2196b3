"""Where the time of traced steps went: a pure function of intervals."""

import collections
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bigmodel_jax.report.profile import intervals
from bigmodel_jax.report.profile.intervals import Interval
from bigmodel_jax.report.profile.op_kinds import Kind

INPUT = 'data'  # The phase in which the host waits for a batch.


class DeviceOp(NamedTuple):
    """An operation that a device executed once; times are in nanoseconds on one clock."""

    device: str
    line: str  # Of one line (a thread or stream of a device) only the operation that started last is at work.
    name: str
    kind: Kind
    start: int
    end: int


class HostSpan(NamedTuple):
    """A step, or a phase of one, on the host that runs the loop."""

    name: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class StepTrace:
    """What a trace says of some consecutive steps."""

    steps: tuple[int, int]  # The first and the last.
    count: int  # How many were done.
    window: tuple[Interval, ...]  # When the host was in these steps, in order; not between them.
    ops: tuple[DeviceOp, ...]
    phases: tuple[HostSpan, ...]  # Of the host: 'data', 'train', 'checkpoint'; see watching.PHASES.


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceTime:
    """Nanoseconds of one device over all the traced steps; the first five add up to the window exactly.

    Each moment counts once: as compute if anything computes then, else as a collective, else as a copy; and if the
    device does nothing, as waiting for input while the host waits for a batch, else as idle.
    """

    device: str
    compute: int
    collectives: int  # Exposed: nothing computed at the same time. Includes waiting for slower devices.
    copies: int
    input: int
    idle: int
    hidden: int  # Collectives that ran while something computed; a part of compute.
    idle_phases: tuple[tuple[str, int], ...]  # What the host did meanwhile, longest first; a part of idle.

    @property
    def parts(self) -> dict[str, int]:
        """The five parts of the window."""
        return {cause: getattr(self, cause) for cause in CAUSES}


CAUSES = ('compute', 'collectives', 'copies', 'input', 'idle')


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpTime:
    """An operation of the program over all its executions in the traced steps, on all devices together."""

    name: str
    kind: Kind
    count: int
    ns: int  # At work; of a collective or copy, only while nothing computed.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Breakdown:
    """Where the time of the traced steps went."""

    steps: tuple[int, int]  # The first and the last.
    count: int  # How many were done.
    window_ns: int
    devices: tuple[DeviceTime, ...]
    ops: tuple[OpTime, ...]  # The longest first.

    @property
    def step_s(self) -> float:
        """Seconds of a step, on the average."""
        return self.window_ns / self.count / 1e9

    def seconds(self, cause: str) -> float:
        """Seconds of a step that went to a cause (a field of DeviceTime), the mean of steps and devices."""
        return sum(getattr(each, cause) for each in self.devices) / len(self.devices) / self.count / 1e9

    def op_seconds(self, op: OpTime) -> float:
        """Seconds of a step in which an operation was at work, the mean of steps and devices."""
        return op.ns / len(self.devices) / self.count / 1e9


class _Pieces(NamedTuple):
    """When an operation was at work."""

    op: DeviceOp
    pieces: list[Interval]


def of(trace: StepTrace) -> Breakdown:
    """The breakdown of traced steps."""
    by_device: dict[str, list[DeviceOp]] = collections.defaultdict(list)
    for op in trace.ops:
        by_device[op.device].append(op)
    names = sorted(by_device, key=lambda name: (name.rpartition(':')[0], _ordinal(name)))
    devices, ops = [], collections.defaultdict(list)
    for name in names:
        time, of_ops = _device(name, by_device[name], trace)
        devices.append(time)
        for op, ns in of_ops:
            ops[op.name, op.kind].append(ns)
    totals = [OpTime(name=name, kind=kind, count=len(each), ns=sum(each)) for (name, kind), each in ops.items()]
    return Breakdown(
        steps=trace.steps,
        count=trace.count,
        window_ns=intervals.length(trace.window),
        devices=tuple(devices),
        ops=tuple(sorted(totals, key=lambda each: (-each.ns, each.name))),
    )


def _ordinal(device: str) -> int:
    number = device.rpartition(':')[2]
    return int(number) if number.isdecimal() else 0


def _device(name: str, ops: Sequence[DeviceOp], trace: StepTrace) -> tuple[DeviceTime, list[tuple[DeviceOp, int]]]:
    """The time of one device, and the nanoseconds that each execution of an operation was at work."""
    window = list(trace.window)
    clip = functools.partial(intervals.intersection, right=window)
    found = [each for each in at_work(ops) if each.op.kind != 'control']
    kinds: dict[str, list[Interval]] = collections.defaultdict(list)
    for op, pieces in found:
        kinds[op.kind] += pieces
    unions = {kind: clip(intervals.union(kinds[kind])) for kind in ('compute', 'collective', 'copy')}
    compute = unions['compute']
    collectives = intervals.minus(unions['collective'], compute)
    busy = intervals.union([*compute, *collectives])
    copies = intervals.minus(unions['copy'], busy)
    resting = intervals.minus(window, intervals.union([*busy, *copies]))
    waits = intervals.union((each.start, each.end) for each in trace.phases if each.name == INPUT)
    idle = intervals.minus(resting, waits)
    time = DeviceTime(
        device=name,
        compute=intervals.length(compute),
        collectives=intervals.length(collectives),
        copies=intervals.length(copies),
        input=intervals.length(intervals.intersection(resting, waits)),
        idle=intervals.length(idle),
        hidden=intervals.length(intervals.intersection(unions['collective'], compute)),
        idle_phases=tuple(_phases(idle, trace.phases)),
    )
    inside = intervals.Measure(window)
    exposed = intervals.Measure(intervals.minus(window, compute))
    by_kind = {'compute': inside, 'collective': exposed, 'copy': exposed}
    return time, [(op, sum(map(by_kind[op.kind].within, pieces))) for op, pieces in found]


def _phases(idle: list[Interval], phases: Sequence[HostSpan]) -> Iterator[tuple[str, int]]:
    names = {each.name for each in phases} - {INPUT}
    found = {
        name: intervals.length(
            intervals.intersection(
                idle, intervals.union((each.start, each.end) for each in phases if each.name == name)
            )
        )
        for name in names
    }
    yield from sorted(((name, ns) for name, ns in found.items() if ns), key=lambda pair: (-pair[1], pair[0]))


def at_work(ops: Sequence[DeviceOp]) -> list[_Pieces]:
    """When each operation was at work: of those that run on one line, it is the one that started last.

    So what an operation executes within itself (the body of a loop) is not counted twice.
    """
    found = [_Pieces(op, []) for op in sorted(ops, key=lambda each: (each.line, each.start, -each.end))]
    stack: list[_Pieces] = []
    line, cursor = '', 0
    for each in found:
        if each.op.line != line:
            _finish(stack, cursor)
            line, cursor = each.op.line, each.op.start
        cursor = _advance(stack, cursor, each.op.start)
        stack.append(each)
    _finish(stack, cursor)
    return found


def _advance(stack: list[_Pieces], cursor: int, until: int) -> int:
    """Gives the time from `cursor` to `until` to the operations that run then."""
    while stack and stack[-1].op.end <= until:
        top = stack.pop()
        if cursor < top.op.end:
            top.pieces.append((cursor, top.op.end))
            cursor = top.op.end
    if stack and cursor < until:
        stack[-1].pieces.append((cursor, until))
    return until


def _finish(stack: list[_Pieces], cursor: int) -> None:
    _advance(stack, cursor, max((each.op.end for each in stack), default=cursor))
    stack.clear()
