"""Where the time of a step went, against a painter that looks at every nanosecond by itself."""

import collections
import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bigmodel_jax.report.profile import breakdown, intervals
from bigmodel_jax.report.profile.breakdown import DeviceOp, HostSpan

END = 60
KINDS = ('compute', 'collective', 'copy', 'control')
moments = st.tuples(st.integers(-5, END + 5), st.integers(0, 25)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@st.composite
def traces(draw):
    ops = [
        DeviceOp(f'cpu:{device}', f'{device}.{line}', f'{kind}.{number}', kind, *times)
        for device, line, kind, number, times in draw(
            st.lists(
                st.tuples(st.integers(0, 1), st.integers(0, 2), st.sampled_from(KINDS), st.integers(0, 2), moments),
                min_size=1,
                max_size=14,
            )
        )
    ]
    phases = [
        HostSpan(name, *times)
        for name, times in draw(st.lists(st.tuples(st.sampled_from(('data', 'train')), moments), max_size=4))
    ]
    cut = draw(st.integers(1, END - 1))
    window = ((0, cut), (cut + draw(st.integers(0, 9)), END))
    return breakdown.StepTrace((3, 4), 2, tuple(intervals.union(window)), tuple(ops), phases=tuple(phases))


def at(trace, device, now):
    """The operations at work on a device at one nanosecond: the last that started on each line."""
    running = {}
    for op in sorted(trace.ops, key=lambda op: (op.start, -op.end)):
        if op.device == device and op.start <= now < op.end:
            running[op.line] = op
    return list(running.values())


def painted(trace):
    """The seconds of each device, by cause; and of each operation at work: one nanosecond after the other."""
    times, at_work = {op.device: collections.Counter() for op in trace.ops}, collections.Counter()
    moments = [now for window in trace.window for now in range(*window)]
    for device, now in itertools.product(times, moments):
        host = {each.name for each in trace.phases if each.start <= now < each.end}
        ops = at(trace, device, now)
        kinds, counts = {op.kind for op in ops}, times[device]
        busy = [cause for kind, cause in zip(KINDS, ('compute', 'collectives', 'copies')) if kind in kinds]
        cause = busy[0] if busy else 'input' if 'data' in host else 'idle'
        counts[cause] += 1
        counts['hidden'] += {'compute', 'collective'} <= kinds
        counts['idle in train'] += cause == 'idle' and 'train' in host
        counted = {'compute'} if 'compute' in kinds else {'collective', 'copy'}
        at_work.update(op.name for op in ops if op.kind in counted)
    return times, at_work


@settings(max_examples=80, deadline=None)
@given(traces())
def test_each_moment_counts_once_and_the_parts_add_up_to_the_steps(trace):
    found = breakdown.of(trace)
    times, at_work = painted(trace)
    for device in found.devices:
        expected = times[device.device]
        assert device.parts == {cause: expected[cause] for cause in breakdown.CAUSES}
        assert sum(device.parts.values()) == found.window_ns == intervals.length(trace.window)
        assert device.hidden == expected['hidden']
        assert dict(device.idle_phases).get('train', 0) == expected['idle in train']
    assert {op.name: op.ns for op in found.ops if op.ns} == dict(at_work)
    assert [op.ns for op in found.ops] == sorted((op.ns for op in found.ops), reverse=True)


def test_planted_overlap_is_found_within_a_percent():
    """Steps of 10 ms: 6 of products, 3 of a collective of which 2 lie beside them, 1 of copies, 1 without a batch."""
    step, ops, phases = 10_000_000, [], []
    random = np.random.default_rng(0)
    for number in range(4):
        start = number * step
        bounds = start + np.sort(random.integers(0, 6_000_000, 99))
        edges = [start, *bounds, start + 6_000_000]
        for device in ('tpu:0', 'tpu:1'):
            ops.append(DeviceOp(device, 'XLA Ops', 'while.1', 'control', start, start + 9_000_000))
            ops += [
                DeviceOp(device, 'XLA Ops', f'fusion.{i}', 'compute', int(a), int(b))
                for i, (a, b) in enumerate(itertools.pairwise(edges))
            ]
            ops.append(
                DeviceOp(device, 'async', 'all-gather-start.1', 'collective', start + 4_000_000, start + 7_000_000)
            )
            ops.append(DeviceOp(device, 'XLA Ops', 'copy.1', 'copy', start + 7_000_000, start + 8_000_000))
        phases.append(HostSpan('data', start + 8_500_000, start + 9_500_000))
    found = breakdown.of(breakdown.StepTrace((10, 13), 4, ((0, 4 * step),), tuple(ops), phases=tuple(phases)))
    expected = {'compute': 6e-3, 'collectives': 1e-3, 'copies': 1e-3, 'input': 1e-3, 'idle': 1e-3}
    for cause, seconds in expected.items():
        np.testing.assert_allclose(found.seconds(cause), seconds, rtol=0.01)
    np.testing.assert_allclose(sum(map(found.seconds, breakdown.CAUSES)), found.step_s)
    np.testing.assert_allclose(found.seconds('hidden'), 2e-3, rtol=0.01)


@given(st.lists(moments, max_size=8), st.lists(moments, max_size=8))
def test_intervals_are_sets_of_moments(left, right):
    sets = [{now for start, end in each for now in range(start, end)} for each in (left, right)]
    one, other = map(intervals.union, (left, right))
    for found, expected in (
        (one, sets[0]),
        (intervals.minus(one, other), sets[0] - sets[1]),
        (intervals.intersection(one, other), sets[0] & sets[1]),
    ):
        assert [now for start, end in found for now in range(start, end)] == sorted(expected)
        assert intervals.length(found) == len(expected)
    for span in right:
        assert intervals.Measure(one).within(span) == len(sets[0] & set(range(*span)))
