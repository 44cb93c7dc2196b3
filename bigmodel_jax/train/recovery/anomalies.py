"""What a session does about steps that went wrong, as the experiment's guard says; see optim/anomaly_policy.py."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bigmodel_jax.optim import anomaly_policy
from bigmodel_jax.train import metrics

ADVICE = 'lower the learning rate, clip the gradient, or look at the batch: replay RUN --step'


class Met(NamedTuple):
    """What becomes of some steps."""

    kept: list[metrics.StepMetrics]  # Of the steps that count.
    said: list[tuple[int, str]]  # Step, and what happened in it.
    back: tuple[int, str] | None  # The step from which the run goes back, and why.


class Anomalies:
    """Meets the steps of a session.

    Args:
      position: of the checkpoint that the session begins with.
    """

    def __init__(self, guard: anomaly_policy.AnomalyPolicy, position: Mapping[str, Any]):
        self._guard = guard
        self._in_a_row = position.get('wrong_in_a_row', 0)
        self.rollbacks = position.get('rollbacks', 0)

    @property
    def position(self) -> dict[str, int]:
        """What a checkpoint keeps of it."""
        return {'wrong_in_a_row': self._in_a_row, 'rollbacks': self.rollbacks}

    def meet(self, steps: Sequence[metrics.ReadStep], saved: Callable[[], int | None]) -> Met:
        """Takes note of the steps that were read.

        Args:
          saved: gives the step of the newest checkpoint, for the message.

        Raises:
          Anomalous: one went wrong, and the run stops.
        """
        kept: list[metrics.StepMetrics] = []
        said: list[tuple[int, str]] = []
        for each in steps:
            what = describe(each)
            if what is None:
                self._in_a_row = 0
                kept.append(each.metrics)
                continue
            self._in_a_row += 1
            if isinstance(self._guard, anomaly_policy.RollBack) and each.verdict != anomaly_policy.OK:
                if self.rollbacks >= self._guard.limit:
                    raise _stop(f'{what} The run has gone back {self.rollbacks} times, the limit', each.number, saved())
                return Met([], [], (each.number, what))
            skipped = isinstance(self._guard, anomaly_policy.Skip) and each.verdict != anomaly_policy.OK
            if not skipped:
                raise _stop(what, each.number, saved())
            if isinstance(self._guard, anomaly_policy.Skip) and self._in_a_row > self._guard.limit:
                raise _stop(f'{what} That is {self._in_a_row} steps in a row, over the limit', each.number, saved())
            said.append((each.number, f'{what} The step was skipped.'))
        return Met(kept, said, None)

    def back(self) -> None:
        """The run goes back."""
        self.rollbacks += 1
        self._in_a_row = 0


def describe(step: metrics.ReadStep) -> str | None:
    """What went wrong in a step, in one sentence; None if nothing did."""
    bad = metrics.not_finite(step.metrics)
    if step.verdict == anomaly_policy.OK:
        return None if bad is None else f'step {step.number}: {bad} is {step.metrics[bad][0]}.'
    if not step.metrics.get('loss', (0.0, 1.0))[1]:
        return (
            f'step {step.number}: nothing in its batch counts, as all its weights are 0, so that it has no loss. Leave '
            'such examples out, use larger batches, or let such steps be skipped: '
            'watch.anomalies=anomaly_policy.Skip().'
        )
    values = {name: _ratio(step.metrics[name]) for name in ('loss', 'grad_norm') if name in step.metrics}
    shown = ', '.join(f'{name} {value:.6g}' for name, value in values.items())
    return f'step {step.number}: {anomaly_policy.WORDS[step.verdict]}: {shown}.'


def _ratio(mean: tuple[float, float]) -> float:
    return mean[0] / mean[1] if mean[1] else mean[0]


def _stop(what: str, number: int, saved: int | None) -> metrics.Anomalous:
    kept = 'There is no checkpoint yet' if saved is None else f'The newest checkpoint is of step {saved}'
    return metrics.Anomalous(f'{what} {kept}; {ADVICE} {number}. Or choose what to do: watch.anomalies.')
