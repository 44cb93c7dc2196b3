"""How well risks are predicted where times are censored: concordance, calibration at a horizon, subgroups."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.data.tabular import tabular
from bigmodel_jax.evaluate import all_rows, artifacts, evaluation, metric
from bigmodel_jax.evaluate import survival_scores as scores
from bigmodel_jax.evaluate.class_scores import Bounded
from bigmodel_jax.objectives import objective, requirements

PyTree = Any
DEFINITIONS: metric.Definitions = {
    'concordance': metric.Definition('higher'),
    'concordance_low': metric.Definition('higher'),
    'concordance_high': metric.Definition('higher'),
    'brier': metric.Definition('lower'),
    'calibration_error': metric.Definition('lower'),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prognosis(evaluation.Evaluation):
    """The predicted risk of every row of `data`, against its time and event.

    Metrics: Harrell's 'concordance' with its 95% interval ('concordance_low', 'concordance_high'); of the survival by
    `horizon`, which follows from the risks and the baseline hazard of the training rows, the 'brier' score and
    'calibration_error', the mean distance of the predicted from the observed share over groups of equal size. All are
    nan if the model gives nan for a row.

    Artifacts: predicted and observed survival of these groups with Kaplan and Meier's 95% intervals, as a curve and a
    table; the same for the subgroups, with their concordance.
    """

    data: batches.Data
    horizon: config.PositiveFloat  # In the unit of the times.
    every_steps: config.Positive
    groups: config.Positive = 5  # Of the calibration, by predicted risk.
    subgroups: tuple[str, ...] = ()  # Columns of the table; of many numbers, those up to the median and above it.
    name: str = 'test'

    def requires(self, of: objective.Objective, outputs: requirements.Outputs) -> requirements.Requirements | None:
        return requirements.SURVIVAL

    def metrics(self, of: objective.Objective, measured: evaluation.MeasuredNames) -> metric.Definitions:
        return DEFINITIONS

    def build(self, setting: evaluation.EvaluationContext) -> evaluation.Evaluator:
        return PrognosisEvaluator(self, setting, setting.open(self.data, self.name))


def _risks(outputs: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
    return outputs['values'].astype(jnp.float32), batch['times'], batch['events']


class PrognosisEvaluator(evaluation.Evaluator):
    """Predicts all rows, and those of the training data, in order, and scores them on the host."""

    def __init__(self, of: Prognosis, setting: evaluation.EvaluationContext, data: batches.Batches):
        self.fingerprint = data.examples.fingerprint
        self._of, self._setting, self._data = of, setting, data
        self._subgroups = tabular.subgroups(data.examples, of.subgroups)
        self._predict = all_rows.AllRows(setting, _risks)

    def _rows(self, data: batches.Batches, params: PyTree, model_state: PyTree) -> tuple[np.ndarray, ...]:
        """Risks, times and events of all rows, [N] each."""
        found = self._predict(data, params, model_state)
        risks_N, times_N, events_N = (each[: len(data.examples)] for each in found)
        return risks_N.astype(np.float64), times_N.astype(np.float64), events_N.astype(bool)

    def run(self, params: PyTree, model_state: PyTree) -> evaluation.EvaluationResult:
        rows = self._rows(self._data, params, model_state)
        training = self._rows(self._setting.training, params, model_state)
        if np.isnan(rows[0]).any() or np.isnan(training[0]).any():
            return evaluation.EvaluationResult({name: each.measured(math.nan) for name, each in DEFINITIONS.items()})
        horizon = self._of.horizon
        # Risks relative to the mean of the training rows, so that their exponentials are not too large.
        risks_N, times_N, events_N = training
        middle = risks_N.mean()
        baseline = scores.baseline_hazard(risks_N - middle, times_N, events_N, horizon)
        risks_N, times_N, events_N = rows
        predicted_N = scores.survival(risks_N - middle, baseline)
        known = (*rows, predicted_N)
        groups = np.array_split(np.argsort(-predicted_N, kind='stable'), min(self._of.groups, len(risks_N)))
        parts = [_part(f'{number} of {len(groups)}', chosen, known, horizon)
                 for number, chosen in enumerate(groups, 1)]  # fmt: skip
        value = scores.concordance(risks_N, times_N, events_N)
        values = {
            'concordance': value.value,
            'concordance_low': value.low,
            'concordance_high': value.high,
            'brier': scores.brier(predicted_N, times_N, events_N, horizon),
            'calibration_error': _distance(parts),
        }
        shown: list[artifacts.Artifact] = [_calibration(parts, horizon), _table('Groups by predicted risk', parts)]
        if self._subgroups:
            of = [_part(name, np.flatnonzero(mask), known, horizon) for name, mask in self._subgroups.items()]
            shown.append(_table('Subgroups', of))
        return evaluation.EvaluationResult(
            {name: each.measured(values[name]) for name, each in DEFINITIONS.items()}, tuple(shown)
        )


@dataclasses.dataclass(frozen=True)
class GroupScores(config.Value):
    """Some of the rows."""

    name: str
    rows: int
    events: int
    predicted: float  # The mean survival by the horizon.
    observed: Bounded
    concordance: Bounded


def _part(name: str, chosen: np.ndarray, rows: tuple[np.ndarray, ...], horizon: float) -> GroupScores:
    risks_N, times_N, events_N, predicted_N = (each[chosen] for each in rows)
    return GroupScores(
        name,
        len(chosen),
        int(events_N.sum()),
        float(predicted_N.mean()) if len(chosen) else math.nan,
        scores.kaplan_meier(times_N, events_N, horizon),
        scores.concordance(risks_N, times_N, events_N),
    )


def _distance(parts: list[GroupScores]) -> float:
    """The mean distance of predicted from observed survival; groups that were not observed so long are left out."""
    known = [each for each in parts if not math.isnan(each.observed.value)]
    rows = sum(each.rows for each in known)
    return sum(abs(each.predicted - each.observed.value) * each.rows for each in known) / rows if rows else math.nan


def _calibration(parts: list[GroupScores], horizon: float) -> artifacts.Figure:
    known = sorted((each for each in parts if not math.isnan(each.observed.value)), key=lambda each: each.predicted)
    x = tuple(each.predicted for each in known)
    lines = (
        artifacts.Line(name='observed', x=x, y=tuple(each.observed.value for each in known)),
        artifacts.Line(name='95% low', x=x, y=tuple(each.observed.low for each in known)),
        artifacts.Line(name='95% high', x=x, y=tuple(each.observed.high for each in known)),
        artifacts.Line(name='calibrated', x=(0.0, 1.0), y=(0.0, 1.0)),
    )
    chart = artifacts.Chart(title=f'observed by predicted survival at {horizon:g}', lines=lines)
    return artifacts.Figure(title='Calibration', panels=(chart,))


def _table(title: str, parts: list[GroupScores]) -> artifacts.Table:
    rows = tuple(
        (each.name, each.rows, each.events, round(each.predicted, 3), _shown(each.observed), _shown(each.concordance))
        for each in parts
    )
    columns = ('rows of', 'rows', 'events', 'predicted survival', 'observed (95%)', 'concordance (95%)')
    return artifacts.Table(title=title, columns=columns, rows=rows)


def _shown(of: Bounded) -> str:
    return '-' if math.isnan(of.value) else f'{of.value:.3f} ({of.low:.3f} to {of.high:.3f})'
