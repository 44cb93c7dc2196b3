"""What a run must reach before its model is deployed: bounds on metrics of its evaluations.

A requirement is a config like any other and stands in `Experiment.requires`. `report` says whether a run meets it, and
`export` and `serve` refuse a run that does not, unless they are told otherwise. It says nothing of the training: it may
be added or changed at any time.
"""

import dataclasses
import math

from bigmodel_jax import config


@dataclasses.dataclass(frozen=True)
class Requirement:
    """A bound on a metric: `Requirement('test/accuracy', at_least=0.985)`, or at_most where a low value is better.

    Raises:
      InputError: there is not exactly one bound, or it is no number.
    """

    metric: str  # Of an evaluation, as 'test/accuracy'. Its last value counts.
    _: dataclasses.KW_ONLY
    at_least: config.Real | None = None
    at_most: config.Real | None = None

    def __post_init__(self) -> None:
        given = [each for each in (self.at_least, self.at_most) if each is not None]
        if len(given) != 1 or (isinstance(given[0], float) and math.isnan(given[0])):
            raise config.InputError(
                f'requires: Requirement({self.metric!r}, at_least={self.at_least}, at_most={self.at_most}) needs one '
                'bound: at_least where a high value is better, or at_most where a low one is.'
            )

    def __str__(self) -> str:
        """'test/accuracy >= 0.985'."""
        sign, bound = ('>=', self.at_least) if self.at_most is None else ('<=', self.at_most)
        return f'{self.metric} {sign} {bound:g}'

    def is_met(self, value: float) -> bool:
        """Whether a value of the metric is within the bound; nan never is."""
        if self.at_most is not None:
            return value <= self.at_most
        return self.at_least is not None and value >= self.at_least
