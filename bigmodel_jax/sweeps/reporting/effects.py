"""The effect of each arm, as the forest plot shows it."""

import math
from typing import NamedTuple

from bigmodel_jax.sweeps.reporting.answer import SweepAnswer
from bigmodel_jax.sweeps.reporting.cells import Look
from bigmodel_jax.sweeps.statistics import estimates

LOOKS: dict[str, Look] = {'better': 'better', 'worse': 'worse', 'diverged': 'worse'}
FINDINGS = {'open': 'not settled', 'untested': 'few seeds'}


class ShownEffect(NamedTuple):
    """A difference with its interval, which is nan where there is none.

    Attributes:
      look: how its finding is shown.
      title: a sentence on it.
    """

    label: str
    difference: float
    interval: estimates.ConfidenceInterval
    look: Look
    finding: str
    title: str


def of_arms(answer: SweepAnswer) -> list[ShownEffect]:
    """Of each arm that can be compared with the baseline."""
    return [
        ShownEffect(
            label=arm.arm,
            difference=found.difference,
            interval=found.interval,
            look=LOOKS.get(found.finding, 'open'),
            finding=FINDINGS.get(found.finding, found.finding),
            title=found.verdict,
        )
        for arm, found in answer.compared
        if math.isfinite(found.difference)
    ]
