"""Classification and regression metrics, computed by scikit-learn and SciPy."""

import dataclasses
import math
import types
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches, libraries
from bigmodel_jax.evaluate import all_rows, evaluation, metric
from bigmodel_jax.objectives import objective, requirements

PyTree = Any


class Score:
    """Interface of the scores of predictions."""

    name: ClassVar[str]
    library: ClassVar[str]  # The package that computes it.
    direction: ClassVar[metric.Direction] = 'higher'  # In which it is better.

    def __call__(self, truth: np.ndarray, predicted: np.ndarray) -> float:
        """A number, both arrays being [n]."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy(Score):
    """The fraction of rows whose predicted label is right."""

    name: ClassVar[str] = 'accuracy'
    library: ClassVar[str] = 'sklearn'

    def __call__(self, truth: np.ndarray, predicted: np.ndarray) -> float:
        return float(load('sklearn.metrics').accuracy_score(truth, predicted))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matthews(Score):
    """Matthews' correlation coefficient, which CoLA is scored by; 0 if all rows get one label."""

    name: ClassVar[str] = 'matthews'
    library: ClassVar[str] = 'sklearn'

    def __call__(self, truth: np.ndarray, predicted: np.ndarray) -> float:
        return float(load('sklearn.metrics').matthews_corrcoef(truth, predicted))


@dataclasses.dataclass(frozen=True, kw_only=True)
class F1(Score):
    """The harmonic mean of precision and recall of label 1, which MRPC and QQP are scored by."""

    name: ClassVar[str] = 'f1'
    library: ClassVar[str] = 'sklearn'

    def __call__(self, truth: np.ndarray, predicted: np.ndarray) -> float:
        return float(load('sklearn.metrics').f1_score(truth, predicted))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pearson(Score):
    """The linear correlation of numbers; 0 if all predictions are the same."""

    name: ClassVar[str] = 'pearson'
    library: ClassVar[str] = 'scipy'

    def __call__(self, truth: np.ndarray, predicted: np.ndarray) -> float:
        constant = np.ptp(predicted) == 0 or np.ptp(truth) == 0
        return 0.0 if constant else float(load('scipy.stats').pearsonr(truth, predicted).statistic)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spearman(Score):
    """The correlation of ranks, which STS-B is scored by in table 1; 0 if all predictions are the same."""

    name: ClassVar[str] = 'spearman'
    library: ClassVar[str] = 'scipy'

    def __call__(self, truth: np.ndarray, predicted: np.ndarray) -> float:
        constant = np.ptp(predicted) == 0 or np.ptp(truth) == 0
        return 0.0 if constant else float(load('scipy.stats').spearmanr(truth, predicted).statistic)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classified(evaluation.Evaluation):
    """Metrics of the labels (or numbers) that the model predicts for every row of `data`.

    All scores are nan if the model gives nan for a row, or if no row has a weight.

    The model returns 'logits' [B, V] of labels, or 'values' [B] of numbers; the data has 'labels' or 'values'.
    """

    data: batches.Data
    scores: tuple[Score, ...]
    every_steps: config.Positive
    name: str = 'dev'

    def requires(self, of: objective.Objective, outputs: requirements.Outputs) -> requirements.Requirements | None:
        # As the evaluator chooses: numbers where the model returns some, else labels.
        return requirements.VALUES if 'values' in outputs else requirements.LABELS

    def metrics(self, of: objective.Objective, measured: evaluation.MeasuredNames) -> metric.Definitions:
        return {score.name: metric.Definition(score.direction) for score in self.scores}

    def build(self, setting: evaluation.EvaluationContext) -> evaluation.Evaluator:
        for score in self.scores:
            load(score.library)
        data = setting.open(self.data, self.name)
        return ClassifiedEvaluator(self, setting, data)


def _labels(outputs: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
    """The label of each row, the prediction, whether that is a number, and the weight of the row; [B] each."""
    weights = batch[batches.EXAMPLE_WEIGHTS]
    if 'values' in outputs:
        return batch['values'], outputs['values'], jnp.isfinite(outputs['values']), weights
    known = ~jnp.isnan(outputs['logits']).any(axis=-1)
    return batch['labels'], jnp.argmax(outputs['logits'], axis=-1), known, weights


class ClassifiedEvaluator(evaluation.Evaluator):
    """Predicts all rows, in order, and scores them on the host."""

    def __init__(self, classified: Classified, setting: evaluation.EvaluationContext, data: batches.Batches):
        self.fingerprint = data.examples.fingerprint
        self._classified, self._setting, self._data = classified, setting, data
        self._predict = all_rows.AllRows(setting, _labels)

    def run(self, params: PyTree, model_state: PyTree) -> evaluation.EvaluationResult:
        truth, predicted, known, weights = self._predict(self._data, params, model_state)
        counted = weights > 0
        # A prediction that is not a number has no score, and neither has an empty set of rows.
        scored = counted.any() and known[counted].all()
        return evaluation.EvaluationResult(
            {
                score.name: metric.Metric(
                    score(truth[counted], predicted[counted]) if scored else math.nan,
                    score.direction,
                    signature=signature(score),
                )
                for score in self._classified.scores
            }
        )


def signature(score: Score) -> str:
    """Which library, and version of it, gives a score."""
    return f'{score.library} {load(score.library).__version__}'


def load(name: str) -> types.ModuleType:
    """A module of scikit-learn or SciPy.

    Raises:
      InputError: it is not installed.
    """
    return libraries.load(name, 'These scores are computed by scikit-learn', package='scikit-learn')
