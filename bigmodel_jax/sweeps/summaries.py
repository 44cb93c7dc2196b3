"""Which value of a metric's curve stands for a trial: the last, the best, or the mean of the last ones."""

import dataclasses
import math
from collections.abc import Mapping

from bigmodel_jax import config
from bigmodel_jax.evaluate import metric

Curve = Mapping[int, float]  # Step -> value, in any order.


class Summary:
    """Interface of the configs that reduce a curve to one number."""

    def of(self, curve: Curve, direction: metric.Direction) -> float:
        """The number that stands for a curve of at least one value; nan or an infinity for one that diverged."""
        raise NotImplementedError

    def __str__(self) -> str:
        """In words, for the heading of a table."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Final(Summary):
    """The value at the last step."""

    def of(self, curve: Curve, direction: metric.Direction) -> float:
        return curve[max(curve)]

    def __str__(self) -> str:
        return 'final'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Best(Summary):
    """The best value of the curve.

    It favours arms that are evaluated more often, and on the data by which it is chosen it is too good.
    """

    def of(self, curve: Curve, direction: metric.Direction) -> float:
        step = metric.best(curve, direction)
        return math.nan if step is None else curve[step]

    def __str__(self) -> str:
        return 'best'


@dataclasses.dataclass(frozen=True, kw_only=True)
class TailMean(Summary):
    """The mean of the last `count` values, which varies less than the last one alone."""

    count: config.Positive

    def of(self, curve: Curve, direction: metric.Direction) -> float:
        values = [curve[step] for step in sorted(curve)[-self.count :]]
        return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan

    def __str__(self) -> str:
        return f'mean of the last {self.count}'
