"""Numbers of a sweep as they stand in its tables."""

import math
import statistics
from collections.abc import Sequence

from bigmodel_jax.console import quantities
from bigmodel_jax.sweeps.reporting.answer import SweepAnswer, TrialResult
from bigmodel_jax.sweeps.statistics import estimates

MINUS, TIMES, PLUS_MINUS = '\N{MINUS SIGN}', '\N{MULTIPLICATION SIGN}', '\N{PLUS-MINUS SIGN}'
UNKNOWN = '\N{EN DASH}'  # Where there is no number.


def decimals(answer: SweepAnswer) -> int:
    """How many decimals the table needs, so that half the typical interval has two digits."""
    halves = [(each.interval.high - each.interval.low) / 2 for _, each in answer.compared]
    spreads = [half for half in [*halves, *(arm.deviation for arm in answer.arms)] if math.isfinite(half) and half > 0]
    if not spreads:
        return 4
    return min(max(1 - math.floor(math.log10(statistics.median_low(spreads))), 0), 8)


def number(value: float, places: int, *, sign: bool = False) -> str:
    """A value with so many decimals, with a real minus sign; a dash for what is not known."""
    if math.isnan(value):
        return UNKNOWN
    text = f'{value:{"+" if sign else ""},.{places}f}' if math.isfinite(value) else f'{value:{"+" if sign else ""}}'
    return text.replace('-', MINUS)


def probability(p: float) -> str:
    """A p-value to two digits: 0.031, <0.0001."""
    return UNKNOWN if math.isnan(p) else '<0.0001' if p < 1e-4 else f'{p:.2g}' if p < 0.995 else '1'


def parameters(value: int | None) -> str:
    """A number of parameters for a table."""
    return UNKNOWN if value is None else quantities.whole(value)


def seeds(trials: Sequence[TrialResult]) -> str:
    """Seeds for a reader: '0, 1, 2'."""
    return ', '.join(str(each.entry.seed) for each in trials)


def mean(value: float, deviation: float, places: int) -> str:
    """'3.841 +- 0.012', with the sign for it."""
    spread = '' if math.isnan(deviation) else f' {PLUS_MINUS} {number(deviation, places)}'
    return f'{number(value, places)}{spread}'


def interval(found: estimates.ConfidenceInterval, places: int) -> str:
    """'[-0.021, +0.003]', with a real minus sign."""
    if math.isnan(found.low):
        return UNKNOWN
    low, high = (number(float(end), places, sign=True) for end in found)
    return f'[{low}, {high}]'


def spread(difference: float, found: estimates.ConfidenceInterval, places: int) -> str:
    """A difference with its interval: '-0.009 [-0.021, +0.003]', with real minus signs."""
    alone = number(difference, places, sign=True)
    return alone if math.isnan(found.low) else f'{alone} {interval(found, places)}'
