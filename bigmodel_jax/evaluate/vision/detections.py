"""How well objects are detected: COCO's average precision, the health of the matching, and pictures with boxes."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.data.vision.detection import detection_images
from bigmodel_jax.evaluate import all_rows, artifacts, evaluation, metric
from bigmodel_jax.evaluate.vision import average_precision, box_drawing, matching_health
from bigmodel_jax.objectives import objective, requirements
from bigmodel_jax.objectives.detection import boxes as boxes_of
from bigmodel_jax.objectives.detection import detection

PyTree = Any
Array = Any  # A jax.Array on the devices, then a np.ndarray.


class DetectionRows(NamedTuple):
    """What is known of N images: of the data, of the predictions after the last layer, and of their matching."""

    weights_N: Array
    truth_edges: Array  # [N, O, 4] in shares of the image: left, upper, right, lower edge.
    labels_NO: Array
    mask_NO: Array
    crowd_NO: Array
    areas_NO: Array
    original_size: Array  # [N, 2] rows and columns.
    scores_NQ: Array  # The highest probability among the classes of objects.
    classes_NQ: Array  # The class that has it.
    found_edges: Array  # [N, Q, 4]
    empty_NQ: Array  # Whether 'no object' has the highest probability of all.
    query_NO: Array
    losses: Array  # [N, 5]: Matched's sums of each image.

    def counted(self) -> 'DetectionRows':
        """Without the rows of padding."""
        kept = self.weights_N > 0
        return DetectionRows(*(each[kept] for each in self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detections(evaluation.Evaluation):
    """The objects found in every image of `data`, all images being scored together.

    Metrics: the twelve of COCO in % ('ap' over IoUs of 0.5 to 0.95, 'ap50', 'ap75', 'ap_small' ..., 'ar100' ...), and
    those of matching_health.py: 'class_error', 'missed', 'queries_used', 'found_per_image', and the parts of the loss.

    Artifacts: the average precision of each class, the health of the matching, with a diagnosis where something is
    wrong that has a name, and images with the boxes of the data in green and those found in orange.
    """

    data: detection_images.DetectionImages
    every_steps: config.Positive
    names: tuple[str, ...] = ()  # Of the classes; empty: their numbers.
    name: str = 'test'
    shown: config.NonNegative = 8  # Images, spaced evenly over the data.
    threshold: config.Fraction = 0.5  # Of the scores of the boxes that are drawn and counted as found.

    def requires(self, of: objective.Objective, outputs: requirements.Outputs) -> requirements.Requirements | None:
        return requirements.OBJECTS

    def metrics(self, of: objective.Objective, measured: evaluation.MeasuredNames) -> metric.Definitions:
        return {**average_precision.DEFINITIONS, **matching_health.DEFINITIONS}

    def build(self, setting: evaluation.EvaluationContext) -> evaluation.Evaluator:
        if self.names and len(self.names) != self.data.classes:
            raise config.InputError(
                f'Evaluation {self.name!r} names {len(self.names)} classes, but its data has {self.data.classes}.'
            )
        average_precision.check()
        return DetectionsEvaluator(self, setting, setting.open(self.data, self.name))


class DetectionsEvaluator(evaluation.Evaluator):
    """Predicts all images, in order, and scores them on the host; every process does so alike."""

    def __init__(self, of: Detections, setting: evaluation.EvaluationContext, data: batches.Batches):
        self.fingerprint = data.examples.fingerprint
        self._of, self._data = of, data
        own = setting.objective
        self._objective = own if isinstance(own, detection.Detection) else detection.Detection()
        self._predict = all_rows.AllRows(setting, self._chosen)

    def run(self, params: PyTree, model_state: PyTree) -> evaluation.EvaluationResult:
        rows = DetectionRows(*self._predict(self._data, params, model_state)).counted()
        truths, found = zip(*(of_image(rows, number) for number in range(len(rows.weights_N))))
        classes = self._of.data.classes
        scores = average_precision.scores(truths, found, classes=classes)
        health = matching_health.health(rows, self._objective, threshold=self._of.threshold)
        measured = {
            name: dataclasses.replace(each.measured(scores.summary[name]), signature=scores.signature)
            for name, each in average_precision.DEFINITIONS.items()
        }
        measured |= {name: each.measured(health.values[name]) for name, each in matching_health.DEFINITIONS.items()}
        names = self._of.names or tuple(map(str, range(classes)))
        shown = [_classes_table(scores, rows, names), *health.artifacts, *self._pictures(rows, names)]
        return evaluation.EvaluationResult(measured, shown)

    def _chosen(self, outputs: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
        matched = self._objective.matched(outputs, batch)
        chances_BQV = jax.nn.softmax(outputs['logits'][:, -1].astype('float32'))
        parts = (matched.class_BL, matched.weight_BL, matched.l1_BL, matched.giou_BL, matched.wrong_BL)
        return DetectionRows(
            weights_N=batch[batches.EXAMPLE_WEIGHTS],
            truth_edges=boxes_of.corners(batch['boxes']),
            labels_NO=batch['labels'],
            mask_NO=batch['object_mask'],
            crowd_NO=batch['crowd'],
            areas_NO=batch['areas'],
            original_size=batch['original_size'],
            scores_NQ=chances_BQV[..., :-1].max(axis=-1),
            classes_NQ=chances_BQV[..., :-1].argmax(axis=-1),
            found_edges=boxes_of.corners(outputs['boxes'][:, -1].astype('float32')),
            empty_NQ=chances_BQV.argmax(axis=-1) == chances_BQV.shape[-1] - 1,
            query_NO=matched.query_BLO[:, -1],
            losses=jax.numpy.stack([each[:, -1].astype('float32') for each in parts], axis=-1),
        )

    def _pictures(self, rows: DetectionRows, names: tuple[str, ...]) -> list[artifacts.Image]:
        count = min(self._of.shown, len(rows.weights_N))
        chosen = np.unique(np.linspace(0, len(rows.weights_N) - 1, count).round().astype(np.int64)).tolist()
        return [self._picture(rows, number, names) for number in chosen]

    def _picture(self, rows: DetectionRows, number: int, names: tuple[str, ...]) -> artifacts.Image:
        examples = self._data.examples
        assert isinstance(examples, detection_images.DetectionExamples), examples
        read = examples.gather(np.array([number]), np.zeros(1, np.int64), self._data.seed)
        height, width = read['image_size'][0].tolist()
        there = np.flatnonzero(rows.mask_NO[number] > 0).tolist()
        true = [
            box_drawing.LabelledBox(rows.truth_edges[number, o].tolist(), names[rows.labels_NO[number, o]])
            for o in there
        ]
        certain = np.flatnonzero(rows.scores_NQ[number] >= self._of.threshold)
        found = [
            box_drawing.LabelledBox(
                rows.found_edges[number, q].tolist(),
                f'{names[rows.classes_NQ[number, q]]} {rows.scores_NQ[number, q]:.0%}',
            )
            for q in certain[np.argsort(-rows.scores_NQ[number, certain], kind='stable')].tolist()
        ]
        title = f'found: {_listed(found)}; there: {_listed(true)}'
        return box_drawing.drawn(examples.pixels(read['image'][0])[:height, :width], true, found, title)


def of_image(rows: DetectionRows, number: int) -> tuple[average_precision.Truth, average_precision.FoundObjects]:
    """The objects of an image and what was found in it, in the pixels that it had before the transforms."""
    height, width = rows.original_size[number].tolist()
    pixels = np.array([width, height, width, height], np.float64)
    there = (rows.mask_NO[number] > 0) | (rows.crowd_NO[number] > 0)
    truth = average_precision.Truth(
        boxes=rows.truth_edges[number][there] * pixels,
        labels=rows.labels_NO[number][there],
        crowd=rows.crowd_NO[number][there] > 0,
        areas=rows.areas_NO[number][there] * float(height * width),
    )
    found = average_precision.FoundObjects(
        boxes=rows.found_edges[number] * pixels, labels=rows.classes_NQ[number], scores=rows.scores_NQ[number]
    )
    return truth, found


def _listed(boxes: list[box_drawing.LabelledBox]) -> str:
    return ', '.join(each.text for each in boxes) or 'nothing'


def _classes_table(
    scores: average_precision.CocoScores, rows: DetectionRows, names: tuple[str, ...]
) -> artifacts.Table:
    counts = np.bincount(rows.labels_NO[rows.mask_NO > 0], minlength=len(names))
    lines: list[tuple[artifacts.Cell, ...]] = [
        (name, int(count), round(float(ap), 1), round(float(ap50), 1))
        for name, count, (ap, ap50) in zip(names, counts, scores.by_class)
    ]
    return artifacts.Table(
        title='Average precision of each class', columns=('class', 'objects', 'AP', 'AP50'), rows=tuple(lines)
    )
