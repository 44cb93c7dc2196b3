"""Whether a run meets the requirements of its experiment. No JAX."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from bigmodel_jax import config
from bigmodel_jax.console import quantities
from bigmodel_jax.requirement import Requirement
from bigmodel_jax.runs import directory

MET, NOT_MET, NOT_MEASURED = 'met', 'not met', 'not measured'


class RequirementVerdict(NamedTuple):
    """A requirement with what the run has.

    Attributes:
      value: of the metric; None where it was not measured.
      step: at which it was measured.
    """

    requirement: Requirement
    value: float | None
    step: int | None
    verdict: str  # MET, NOT_MET or NOT_MEASURED.
    reason: str = ''  # Why it was not measured.

    @property
    def shown(self) -> str:
        """What the run has, for a reader: '0.9916 at step 600'."""
        if self.value is None or self.step is None:
            return self.reason
        return f'{quantities.number(self.value)} at step {self.step:,}'

    def to_json(self) -> dict[str, Any]:
        """For a file that goes with the model."""
        return {
            'requirement': str(self.requirement), 'value': self.value, 'step': self.step, 'verdict': self.verdict
        }  # fmt: skip


def judge(run: directory.Run, step: int | None = None) -> list[RequirementVerdict]:
    """Every requirement of the run's experiment with its verdict, in their order.

    Args:
      step: of the checkpoint whose model is judged, by the values that were measured at this step; None: the run, by
        the last values.

    Raises:
      InputError: what is stored is no requirement.
    """
    return [_judge(run, config.from_json(stored), step) for stored in run.stored.get('requires', ())]


def _judge(run: directory.Run, requirement: Requirement, step: int | None) -> RequirementVerdict:
    if requirement.metric not in run.metric_names:
        reason = f'the run has no value of {requirement.metric} yet'
        return RequirementVerdict(requirement, None, None, NOT_MEASURED, reason)
    steps, values = run.metrics(requirement.metric)
    measured = dict(zip(steps.tolist(), values.tolist()))
    at = max(measured) if step is None else step
    if at not in measured:
        reason = f'{requirement.metric} was not measured at step {at:,}, but last at step {max(measured):,}'
        return RequirementVerdict(requirement, None, None, NOT_MEASURED, reason)
    verdict = MET if requirement.is_met(measured[at]) else NOT_MET
    return RequirementVerdict(requirement, measured[at], at, verdict)


def overall(found: Sequence[RequirementVerdict]) -> str | None:
    """The verdict on all requirements together: the worst of them; None without any."""
    words = {each.verdict for each in found}
    return next((word for word in (NOT_MET, NOT_MEASURED, MET) if word in words), None)


def unmet(run: directory.Run, step: int | None = None) -> list[str]:
    """A clause for each requirement that the run does not meet: 'test/accuracy >= 0.985 (0.9130 at step 20)'.

    Args:
      step: as of judge().
    """
    return [f'{each.requirement} ({each.shown})' for each in judge(run, step) if each.verdict != MET]


def check(name: str, missed: Sequence[str], *, verb: str, anyway: bool) -> None:
    """Refuses a model that does not meet its requirements.

    Args:
      name: of the run or of the exported model, for people.
      missed: as unmet() gives it.
      verb: what is refused, such as 'export'.
      anyway: whether it is to be done all the same.

    Raises:
      InputError: there is such a requirement.
    """
    if missed and not anyway:
        raise config.InputError(
            f'{name} does not meet what its experiment requires, {"; ".join(missed)}: train or evaluate it further, or '
            f'{verb} it all the same with --anyway.'
        )
