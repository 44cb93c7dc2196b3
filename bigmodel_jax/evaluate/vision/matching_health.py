"""Whether the matching of queries with objects works: which queries are used, which boxes are missed, which loss is
large; and what is wrong by its name where a detector learns nothing."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigmodel_jax.evaluate import artifacts, metric

PERCENT = 100.0
NEAR = 0.5  # The IoU from which a box counts as found.
# Signs of a detector that has learned nothing, and what mostly causes them.
FEW_USED, SAME_BOX, ALL_WRONG = 10.0, 0.01, 99.0

DEFINITIONS: metric.Definitions = {
    'class_error': metric.Definition('lower', '%'),
    'missed': metric.Definition('lower', '%'),
    'queries_used': metric.Definition('higher', '%'),
    'found_per_image': metric.Definition(),
    'class_loss': metric.Definition('lower'),
    'l1_loss': metric.Definition('lower'),
    'giou_loss': metric.Definition('lower'),
}


@dataclasses.dataclass(frozen=True)
class Health:
    """Attributes:
    values: of the metrics.
    artifacts: a table, and a text where something is wrong that has a name.
    """

    values: Mapping[str, float]
    artifacts: Sequence[artifacts.Artifact]


def health(rows: Any, weights: Any, *, threshold: float) -> Health:
    """The health of the matching over all images.

    Args:
      rows: detections.DetectionRows of the images.
      weights: the objective, whose weights say how much each loss counts.
      threshold: of the scores of the boxes that count as found.
    """
    there_NO = rows.mask_NO > 0
    objects, images, Q = int(there_NO.sum()), len(rows.weights_N), rows.scores_NQ.shape[1]
    sure_NQ = rows.scores_NQ >= threshold
    matched = np.unique(rows.query_NO[there_NO & (rows.query_NO >= 0)])
    unmatched = int((there_NO & (rows.query_NO < 0)).sum())
    class_sum, weight, l1, giou, wrong = rows.losses.sum(axis=0, dtype=np.float64).tolist()
    values = {
        'class_error': _share(wrong, objects),
        'missed': _share(objects - _hits(rows, sure_NQ), objects),
        'queries_used': PERCENT * len(matched) / Q,
        'found_per_image': float(sure_NQ.sum()) / images,
        'class_loss': class_sum / weight,
        'l1_loss': l1 / objects if objects else np.nan,
        'giou_loss': giou / objects if objects else np.nan,
    }
    lines = [
        ('objects in an image, mean', round(objects / images, 2)),
        (f'boxes found in an image (score from {threshold:g}), mean', round(values['found_per_image'], 2)),
        ('queries that find an object in some image', f'{int((~rows.empty_NQ).any(axis=0).sum())} of {Q}'),
        ('queries matched with an object in some image', f'{len(matched)} of {Q}'),
        ('objects that no query was matched with', f'{unmatched} of {objects}'),
        (f'objects without a found box of their class at an IoU of {NEAR:g}, %', round(values['missed'], 1)),
        ('matched queries with another class than their object, %', round(values['class_error'], 1)),
    ]
    lines += [
        (f'loss of {what}, times its weight of {factor:g}', round(factor * values[name], 4))
        for what, name, factor in (
            ('classes', 'class_loss', weights.class_weight),
            ('boxes, L1', 'l1_loss', weights.l1_weight),
            ('boxes, generalised IoU', 'giou_loss', weights.giou_weight),
        )
    ]
    table = artifacts.Table(title='Health of the matching', columns=('', 'value'), rows=tuple(lines))
    said = diagnosis(values, rows.found_edges, objects=objects)
    shown = [artifacts.Text(title='Diagnosis of the detector', text='\n'.join(said))] if said else []
    return Health(values, (table, *shown))


def diagnosis(values: Mapping[str, float], found_edges: np.ndarray, *, objects: int) -> list[str]:
    """What is wrong by its name, a sentence each; nothing where a detector finds objects.

    Args:
      found_edges: [N, Q, 4] in shares of the image.
    """
    if not objects:
        return ['The data holds no object, so that nothing can be found.']
    said = []
    if values['found_per_image'] == 0:
        said.append(
            'No query finds anything: all predict that there is no object. A detector begins so, and stays so after '
            'too few steps or images (DETR needs many more than a detector with anchors), with too high a '
            'learning rate, or with objective.no_object too large.'
        )
    if values['class_error'] >= ALL_WRONG:
        said.append(
            'No object is given its class. Labels that count from 1, or a model with other classes than the data, show '
            'in this way; look at the labels of the pictures.'
        )
    if found_edges.std(axis=(0, 1)).max() < SAME_BOX:
        said.append(
            'All queries predict the same box in every image. The losses of boxes are not learned: look at the layout '
            'of the boxes, and at the learning rate.'
        )
    if values['queries_used'] < FEW_USED:
        said.append(f'Only {values["queries_used"]:.1f}% of the queries are ever matched; most are idle.')
    return said


def _share(count: float, of: int) -> float:
    return PERCENT * count / of if of else np.nan


def _hits(rows: Any, sure_NQ: np.ndarray) -> int:
    """How many objects have a found box of their class that is near enough."""
    hits = 0
    for truth, found, there_O, labels_O, sure_Q, classes_Q in zip(
        rows.truth_edges, rows.found_edges, rows.mask_NO > 0, rows.labels_NO, sure_NQ, rows.classes_NQ
    ):
        near_OQ = iou(truth[there_O], found[sure_Q]) >= NEAR
        hits += int((near_OQ & (labels_O[there_O, None] == classes_Q[sure_Q])).any(axis=1).sum())
    return hits


def iou(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[O, Q]: the intersection over union of boxes [O, 4] and [Q, 4] given by their edges."""
    low = np.maximum(left[:, None, :2], right[:, :2])
    high = np.minimum(left[:, None, 2:], right[:, 2:])
    shared_OQ = np.prod(np.maximum(high - low, 0), axis=-1)
    areas_O, areas_Q = (np.prod(np.maximum(each[:, 2:] - each[:, :2], 0), axis=-1) for each in (left, right))
    union_OQ = areas_O[:, None] + areas_Q - shared_OQ
    return shared_OQ / np.where(union_OQ > 0, union_OQ, 1)
