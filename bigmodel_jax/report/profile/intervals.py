"""Sets of moments as sorted, disjoint intervals of whole nanoseconds, each with its start and not its end."""

import bisect
import itertools
from collections.abc import Iterable, Iterator

Interval = tuple[int, int]


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The moments that are in any of the intervals, which may overlap; empty ones are left out."""
    found: list[Interval] = []
    for start, end in sorted(each for each in intervals if each[0] < each[1]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def intersection(left: list[Interval], right: list[Interval]) -> list[Interval]:
    """The moments that are in both unions."""
    return list(_common(left, right))


def _common(left: list[Interval], right: list[Interval]) -> Iterator[Interval]:
    i = j = 0
    while i < len(left) and j < len(right):
        start, end = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if start < end:
            yield start, end
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1


def minus(left: list[Interval], right: list[Interval]) -> list[Interval]:
    """The moments of the union `left` that are not in the union `right`."""
    if not left:
        return []
    bounds = [left[0][0], *(bound for each in right for bound in each), left[-1][1]]
    gaps = [(start, end) for start, end in zip(bounds[::2], bounds[1::2]) if start < end]
    return intersection(left, gaps)


def length(intervals: Iterable[Interval]) -> int:
    """Nanoseconds of all the intervals together."""
    return sum(end - start for start, end in intervals)


class Measure:
    """Tells quickly how much of an interval lies in a union."""

    def __init__(self, union: list[Interval]):
        self._starts = [start for start, _ in union]
        self._ends = [end for _, end in union]
        self._before = [0, *itertools.accumulate(end - start for start, end in union)]

    def within(self, interval: Interval) -> int:
        """Nanoseconds of the interval that are in the union."""
        return self._until(interval[1]) - self._until(interval[0])

    def _until(self, moment: int) -> int:
        found = bisect.bisect_right(self._starts, moment)
        beyond = max(self._ends[found - 1] - moment, 0) if found else 0
        return self._before[found] - beyond
