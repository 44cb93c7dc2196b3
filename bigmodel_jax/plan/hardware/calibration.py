"""How much of a chip's peak real training reaches, from published step times: half fit it, half bound the error.

Two factors: the share of the peak at which matrix products run (one per kind of chip), and the slowdown of each
doubling of the number of slices (one for all). The error bar is the worst deviation among the other half of the runs,
which the fit has not seen. Nothing beyond these runs has tested the bar itself: models, meshes and programs unlike
theirs may well lie outside.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

from bigmodel_jax.plan.hardware import published

# No run repeats better than this, and a few rows may agree by luck.
LEAST = 0.05
# With fewer held-out rows of a chip than this, the bar is as wide as over all chips.
ENOUGH = 6
# Without any row of the chip: so many times as wide.
UNKNOWN = 2.0
# The slowdowns per doubling among which the fit chooses.
SLOWDOWNS = tuple(step / 1_000 for step in range(101))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Factors:
    """What the roofline takes from experience, and how far that can be trusted."""

    compute: float  # Share of the peak reached by matrix products.
    per_doubling: float  # Slowdown of each doubling of the slices: 0.02 is 2%.
    low: float  # The error bar, as factors on the predicted time.
    high: float
    fitted: int  # Published rows of this chip that the fit used.
    held_out: int  # Rows that it has not seen; the worst of them is the error bar.
    outside: int  # Of the fitted rows of this chip, those that lie outside the error bar.


def halves(
    rows: Sequence[published.PublishedStep],
) -> tuple[list[published.PublishedStep], list[published.PublishedStep]]:
    """The rows to fit and those held out: of each chip every other row, in the order of the table."""
    fit, held_out = [], []
    for name in dict.fromkeys(row.slice.chip.name for row in rows):
        own = [row for row in rows if row.slice.chip.name == name]
        fit += own[0::2]
        held_out += own[1::2]
    return fit, held_out


def share(row: published.PublishedStep, per_doubling: float) -> float:
    """The share of the peak at which a row's matrix products ran, in the time that nothing else is known to take."""
    busy_s = row.seconds / (1 + per_doubling) ** math.log2(row.slice.count) - row.exposed_s
    return row.counts.matmul_flops / (row.slice.chip.flops * busy_s)


@functools.cache
def fit() -> tuple[dict[str, float], float]:
    """Share of the peak for each chip, and the slowdown per doubling of slices: the least squares of log(share)."""
    rows, _ = halves(published.rows())

    def levels(per_doubling: float) -> tuple[dict[str, float], float]:
        by_chip: dict[str, list[float]] = {}
        for row in rows:
            by_chip.setdefault(row.slice.chip.name, []).append(math.log(share(row, per_doubling)))
        means = {name: sum(values) / len(values) for name, values in by_chip.items()}
        squares = sum((value - means[name]) ** 2 for name, values in by_chip.items() for value in values)
        return means, squares

    per_doubling = min(SLOWDOWNS, key=lambda value: levels(value)[1])
    return {name: math.exp(mean) for name, mean in levels(per_doubling)[0].items()}, per_doubling


@functools.cache
def factors(chip: str) -> Factors:
    """The factors of a kind of chip; of one without published rows, the mean of all with a wider bar."""
    levels, per_doubling = fit()
    _, held_out = halves(published.rows())
    own = [row for row in held_out if row.slice.chip.name == chip]
    bounding = own if len(own) >= ENOUGH else held_out
    level = levels.get(chip) or math.exp(sum(map(math.log, levels.values())) / len(levels))
    spread = max([LEAST, *(abs(_deviation(row)) for row in bounding)])
    outside = sum(abs(_deviation(row)) > spread for row in published.rows() if row.slice.chip.name == chip)
    if chip not in levels:
        spread *= UNKNOWN
    return Factors(
        compute=level,
        per_doubling=per_doubling,
        low=math.exp(-spread),
        high=math.exp(spread),
        fitted=sum(row.slice.chip.name == chip for row in published.rows()) - len(own),
        held_out=len(bounding),
        outside=outside,
    )


def _deviation(row: published.PublishedStep) -> float:
    """log(predicted share / measured share) of a row."""
    levels, per_doubling = fit()
    return math.log(levels[row.slice.chip.name] / share(row, per_doubling))
