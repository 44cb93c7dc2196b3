"""How well classes are predicted: errors, calibration, AUC with intervals; a confusion matrix and curves to look at."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.data.tabular import tabular
from bigmodel_jax.evaluate import all_rows, artifacts, class_scores, evaluation, metric
from bigmodel_jax.objectives import objective, requirements

PyTree = Any
SHOWN = 32  # Classes of a confusion matrix and of a table; of more, those that are confused most.
POINTS = 200  # Of a ROC curve.

GENERAL: metric.Definitions = {
    'error': metric.Definition('lower', '%'),
    'top5_error': metric.Definition('lower', '%'),
    'nll': metric.Definition('lower', 'nats'),
    'brier': metric.Definition('lower'),
    'calibration_error': metric.Definition('lower'),
}
BINARY: metric.Definitions = {
    'auc': metric.Definition('higher'),
    'auc_low': metric.Definition('higher'),
    'auc_high': metric.Definition('higher'),
    **{
        f'{name}{end}': metric.Definition('higher')
        for name in ('sensitivity', 'specificity')
        for end in ('', '_low', '_high')
    },
}


class Predicted(NamedTuple):
    """What was predicted, and of what.

    Attributes:
      logits_NV, labels_N: of the examples, in their order; views of one are one.
      names: of the classes.
      data: batches of which example i is row i * data.examples.views of one pass.
      params: the weights of the model.
    """

    logits_NV: np.ndarray
    labels_N: np.ndarray
    names: tuple[str, ...]
    data: batches.Batches
    params: PyTree


class Showing:
    """Interface of the configs that show examples with what was predicted."""

    def artifacts(self, found: Predicted, of: Any) -> Sequence[artifacts.Artifact]:
        """What is shown.

        Args:
          of: the model's config.
        """
        raise NotImplementedError

    def check(self, data: batches.Data) -> None:
        """Raises InputError if it cannot show examples of such data."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classes(evaluation.Evaluation):
    """The predicted classes of every row of `data`, whose logits are held in memory.

    Metrics: the share of wrong classes ('error', in %) and, with more than five classes, of those not among the five
    most probable ('top5_error'); 'nll' and 'brier'; and 'calibration_error' (Guo et al., 2017). With two classes, of
    which class 1 is the positive one, also the area under the ROC curve with its 95% interval ('auc', 'auc_low',
    'auc_high'), and 'sensitivity' and 'specificity' at a probability of one half, with Wilson's ('_low', '_high'). All
    are nan if the model gives nan for a row; those that a missing class leaves without meaning are nan too.

    Where the data shows each example several times (images.Images.views), the probabilities of its views are averaged.

    Artifacts: the confusion matrix, precision, recall and F1 of each class with Wilson's 95% intervals, the curve of
    calibration, and with two classes the ROC curve; of a table the same rates for its subgroups; and what `showing`
    shows of the examples.
    """

    data: batches.Data
    every_steps: config.Positive
    names: tuple[str, ...] = ()  # Of the classes; empty: their numbers.
    bins: config.Positive = 15  # Of the calibration.
    subgroups: tuple[str, ...] = ()  # Columns of a table; of many numbers, those up to the median and above it.
    name: str = 'test'
    showing: Showing | None = None  # Such as evaluate/vision/image_gallery.py; None: no example is shown.

    def requires(self, of: objective.Objective, outputs: requirements.Outputs) -> requirements.Requirements | None:
        return requirements.LABELS

    def metrics(self, of: objective.Objective, measured: evaluation.MeasuredNames) -> metric.Definitions:
        return definitions(self.classes)

    def build(self, setting: evaluation.EvaluationContext) -> evaluation.Evaluator:
        if self.names and len(self.names) != self.classes:
            raise config.InputError(
                f'Evaluation {self.name!r} names {len(self.names)} classes, but its data has {self.classes}.'
            )
        if self.showing is not None:
            self.showing.check(self.data)
        return ClassesEvaluator(self, setting, setting.open(self.data, self.name))

    @property
    def classes(self) -> int:
        """How many there are.

        Raises:
          InputError: the data does not say.
        """
        field = self.data.fields.get('labels')
        if field is None or field.upper_bound is None:
            raise config.InputError(
                f"Evaluation {self.name!r} needs data whose field 'labels' has an upper bound: the number of classes."
            )
        return field.upper_bound


def definitions(classes: int) -> metric.Definitions:
    """The metrics of a problem with so many classes."""
    general = {name: each for name, each in GENERAL.items() if name != 'top5_error' or classes > 5}
    return {**general, **BINARY} if classes == 2 else general


class ClassesEvaluator(evaluation.Evaluator):
    """Predicts all rows, in order, and scores them on the host."""

    def __init__(self, of: Classes, setting: evaluation.EvaluationContext, data: batches.Batches):
        self.fingerprint = data.examples.fingerprint
        self._of, self._setting, self._data = of, setting, data
        self._subgroups = tabular.subgroups(data.examples, of.subgroups)
        self._predict = all_rows.AllRows(setting, _logits)

    def run(self, params: PyTree, model_state: PyTree) -> evaluation.EvaluationResult:
        data = self._data
        logits_NV, labels_N, weights_N = self._predict(data, params, model_state)
        counted_N = weights_N > 0
        known = definitions(self._of.classes)
        if not counted_N.any() or np.isnan(logits_NV[counted_N]).any():
            return evaluation.EvaluationResult({name: each.measured(math.nan) for name, each in known.items()})
        views = data.examples.views
        logits_NV = averaged(logits_NV[counted_N][:, : self._of.classes], views)
        labels_N = labels_N[counted_N][::views]
        values = scores(logits_NV, labels_N, bins=self._of.bins)
        shown = list(pictures(logits_NV, labels_N, names=self._names, bins=self._of.bins))
        if self._subgroups:
            masks = {name: mask[counted_N[: len(mask)]] for name, mask in self._subgroups.items()}
            shown.append(_subgroup_table(logits_NV, labels_N, masks))
        if self._of.showing is not None:
            of = Predicted(logits_NV, labels_N, self._names, data, params)
            shown += self._of.showing.artifacts(of, self._setting.model)
        return evaluation.EvaluationResult({name: known[name].measured(values[name]) for name in known}, shown)

    @property
    def _names(self) -> tuple[str, ...]:
        return self._of.names or tuple(map(str, range(self._of.classes)))


def _logits(outputs: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
    return outputs['logits'].astype(jnp.float32), batch['labels'], batch[batches.EXAMPLE_WEIGHTS]


def averaged(logits_NV: np.ndarray, views: int) -> np.ndarray:
    """The logarithms of the mean probabilities of so many successive rows each, [N / views, V] float64.

    Source: Krizhevsky et al. (2012), section 4.1: the predictions of the softmax are averaged over ten crops.
    """
    if views == 1:
        return logits_NV
    logs_NV = special.log_softmax(logits_NV.astype(np.float64), axis=-1)
    return special.logsumexp(logs_NV.reshape(-1, views, logs_NV.shape[-1]), axis=1) - math.log(views)


def scores(logits_NV: np.ndarray, labels_N: np.ndarray, *, bins: int) -> dict[str, float]:
    """The values of all metrics, by name."""
    found_NV = class_scores.probabilities(logits_NV)
    values = {
        'error': class_scores.error(logits_NV, labels_N, top=1),
        'top5_error': class_scores.error(logits_NV, labels_N, top=5),
        'nll': class_scores.nll(logits_NV, labels_N),
        'brier': class_scores.brier(found_NV, labels_N),
        'calibration_error': class_scores.calibration(found_NV, labels_N, bins=bins).error,
    }
    if logits_NV.shape[1] != 2:
        return values
    positive_N = labels_N == 1
    for name, rate in rates(found_NV, positive_N).items():
        values |= {name: rate.value, f'{name}_low': rate.low, f'{name}_high': rate.high}
    if positive_N.all() or not positive_N.any():
        return {**values, 'auc': math.nan, 'auc_low': math.nan, 'auc_high': math.nan}
    area = class_scores.auc(found_NV[:, 1], positive_N)
    return {**values, 'auc': area.value, 'auc_low': area.low, 'auc_high': area.high}


def rates(found_NV: np.ndarray, positive_N: np.ndarray) -> dict[str, class_scores.Bounded]:
    """Sensitivity and specificity at a probability of one half."""
    predicted_N = found_NV[:, 1] > 0.5
    return {
        'sensitivity': class_scores.rate(int((predicted_N & positive_N).sum()), int(positive_N.sum())),
        'specificity': class_scores.rate(int((~predicted_N & ~positive_N).sum()), int((~positive_N).sum())),
    }


def pictures(
    logits_NV: np.ndarray, labels_N: np.ndarray, *, names: tuple[str, ...], bins: int
) -> tuple[artifacts.Artifact, ...]:
    """The artifacts."""
    found_NV, classes = class_scores.probabilities(logits_NV), len(names)
    matrix_VV = class_scores.confusion(labels_N, logits_NV.argmax(axis=-1), classes=classes)
    wrong = matrix_VV - np.diag(np.diag(matrix_VV))
    chosen = np.arange(classes)
    if classes > SHOWN:
        chosen = np.sort(np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind='stable')[:SHOWN])
    curves = [_calibration(class_scores.calibration(found_NV, labels_N, bins=bins))]
    if classes == 2 and 0 < (labels_N == 1).sum() < len(labels_N):
        curves.append(_roc(found_NV[:, 1], labels_N == 1))
    return (
        _confusion(matrix_VV, names, chosen),
        _table(class_scores.by_class(matrix_VV), names, chosen),
        artifacts.Figure(title='Calibration' if len(curves) == 1 else 'Calibration and ROC', panels=tuple(curves)),
    )


def _confusion(matrix_VV: np.ndarray, names: tuple[str, ...], chosen: np.ndarray) -> artifacts.Figure:
    shares_VV = matrix_VV / np.maximum(matrix_VV.sum(axis=1, keepdims=True), 1)
    shown = shares_VV[np.ix_(chosen, chosen)].round(4)
    labels = tuple(names[i] for i in chosen)
    heatmap = artifacts.Heatmap(
        title='share of each class (row) by prediction (column)',
        values=tuple(map(tuple, shown.tolist())),
        rows=labels,
        columns=labels,
    )
    some = '' if len(chosen) == len(names) else f': the {len(chosen)} of {len(names)} classes that are confused most'
    return artifacts.Figure(title=f'Confusion matrix{some}', panels=(heatmap,))


def _table(counts: tuple[class_scores.ClassCounts, ...], names: tuple[str, ...], chosen: np.ndarray) -> artifacts.Table:
    rows = []
    for i in chosen.tolist():
        of = counts[i]
        rows.append((names[i], of.actual, of.predicted, _shown(of.precision), _shown(of.recall), round(of.f1, 4)))
    columns = ('class', 'rows', 'predicted', 'precision (95%)', 'recall (95%)', 'F1')
    return artifacts.Table(title='Classes', columns=columns, rows=tuple(rows))


def _subgroup_table(logits_NV: np.ndarray, labels_N: np.ndarray, masks: dict[str, np.ndarray]) -> artifacts.Table:
    found_NV, binary = class_scores.probabilities(logits_NV), logits_NV.shape[1] == 2
    rows = []
    for name, mask_N in masks.items():
        right = int((logits_NV[mask_N].argmax(axis=-1) == labels_N[mask_N]).sum())
        cells: list[artifacts.Cell] = [name, int(mask_N.sum()), _shown(class_scores.rate(right, int(mask_N.sum())))]
        if binary:
            positive_N = labels_N[mask_N] == 1
            cells += [_shown(each) for each in rates(found_NV[mask_N], positive_N).values()]
            both = 0 < positive_N.sum() < len(positive_N)
            cells.append(_shown(class_scores.auc(found_NV[mask_N, 1], positive_N)) if both else '-')
        rows.append(tuple(cells))
    more = ('sensitivity (95%)', 'specificity (95%)', 'AUC (95%)') if binary else ()
    return artifacts.Table(title='Subgroups', columns=('rows of', 'rows', 'accuracy (95%)', *more), rows=tuple(rows))


def _shown(of: class_scores.Bounded) -> str:
    return '-' if math.isnan(of.value) else f'{of.value:.3f} ({of.low:.3f} to {of.high:.3f})'


def _calibration(of: class_scores.Calibration) -> artifacts.Chart:
    measured = artifacts.Line(name='accuracy', x=tuple(of.confidence.tolist()), y=tuple(of.accuracy.tolist()))
    ideal = artifacts.Line(name='calibrated', x=(0.0, 1.0), y=(0.0, 1.0))
    return artifacts.Chart(title='accuracy by confidence', lines=(measured, ideal))


def _roc(scores_N: np.ndarray, positive_N: np.ndarray) -> artifacts.Chart:
    false, true = class_scores.roc(scores_N, positive_N)
    kept = np.unique(np.linspace(0, len(false) - 1, POINTS).round().astype(int))
    curve = artifacts.Line(name='model', x=tuple(false[kept].tolist()), y=tuple(true[kept].tolist()))
    chance = artifacts.Line(name='chance', x=(0.0, 1.0), y=(0.0, 1.0))
    return artifacts.Chart(title='true by false positive rate', lines=(curve, chance))
