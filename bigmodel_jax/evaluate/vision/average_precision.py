"""The average precision of detections as COCO measures it, by pycocotools."""

import contextlib
import importlib.metadata
import io
import math
import types
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bigmodel_jax.data import libraries
from bigmodel_jax.evaluate import metric

PERCENT = 100.0
# In the order of pycocotools' summary.
NAMES = (
    'ap', 'ap50', 'ap75', 'ap_small', 'ap_medium', 'ap_large',
    'ar1', 'ar10', 'ar100', 'ar_small', 'ar_medium', 'ar_large',
)  # fmt: skip
DEFINITIONS: metric.Definitions = {name: metric.Definition('higher', '%') for name in NAMES}


class Truth(NamedTuple):
    """The objects of an image. Boxes are [n, 4] in pixels: left, upper, right, lower edge."""

    boxes: np.ndarray
    labels: np.ndarray  # [n]
    crowd: np.ndarray  # [n] bool
    areas: np.ndarray  # [n], in pixels.


class FoundObjects(NamedTuple):
    """What was found in an image; boxes as in Truth."""

    boxes: np.ndarray
    labels: np.ndarray  # [n]
    scores: np.ndarray  # [n]


class CocoScores(NamedTuple):
    """Attributes:
    summary: the twelve numbers of COCO, in %, by name; nan where there is no object that they are about.
    by_class: of each class its AP at an IoU of 0.5 to 0.95, and at 0.5, [V, 2] in %; nan for one without objects.
    signature: what computed them.
    """

    summary: dict[str, float]
    by_class: np.ndarray
    signature: str


def scores(truths: Sequence[Truth], found: Sequence[FoundObjects], *, classes: int) -> CocoScores:
    """The scores of what was found in some images.

    Raises:
      InputError: pycocotools is not installed.
    """
    coco, cocoeval = _library('coco'), _library('cocoeval')
    signature = f'pycocotools {importlib.metadata.version("pycocotools")}, bbox'
    of_images = [{'id': number} for number in range(len(truths))]
    categories = [{'id': number} for number in range(classes)]
    objects = list(_objects(truths))
    if not objects:
        return CocoScores(dict.fromkeys(NAMES, math.nan), np.full((classes, 2), math.nan), signature)
    with contextlib.redirect_stdout(io.StringIO()):  # It reports its progress there.
        truth, results = coco.COCO(), coco.COCO()
        truth.dataset = {'images': of_images, 'categories': categories, 'annotations': objects}
        results.dataset = {'images': of_images, 'categories': categories, 'annotations': list(_results(found))}
        truth.createIndex()
        results.createIndex()
        run = cocoeval.COCOeval(truth, results, 'bbox')
        run.evaluate()
        run.accumulate()
        run.summarize()
    summary = {name: _percent(value) for name, value in zip(NAMES, run.stats.tolist())}
    return CocoScores(summary, _by_class(run.eval['precision']), signature)


def check() -> None:
    """Raises InputError if pycocotools is not installed."""
    _library('cocoeval')


def _library(module: str) -> types.ModuleType:
    purpose = 'The average precision of COCO is computed by pycocotools'
    return libraries.load(f'pycocotools.{module}', purpose, package='pycocotools', extra='detection')


def _objects(truths: Sequence[Truth]) -> Any:
    """The objects as COCO's file has them; numbers begin with 1, since pycocotools takes 0 for none."""
    number = 0
    for image, of in enumerate(truths):
        for box, label, crowd, area in zip(*(each.tolist() for each in of)):
            number += 1
            entry = {'id': number, 'image_id': image, 'category_id': int(label), 'iscrowd': int(crowd), 'area': area}
            yield entry | {'bbox': _written(box)}


def _results(found: Sequence[FoundObjects]) -> Any:
    """As pycocotools' loadRes() would have them."""
    number = 0
    for image, of in enumerate(found):
        for box, label, score in zip(*(each.tolist() for each in of)):
            number += 1
            written = _written(box)
            entry = {'id': number, 'image_id': image, 'category_id': int(label), 'score': score, 'iscrowd': 0}
            yield entry | {'bbox': written, 'area': written[2] * written[3]}


def _written(box: Sequence[float]) -> list[float]:
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]


def _by_class(precision: np.ndarray) -> np.ndarray:
    """[V, 2] of pycocotools' precisions [thresholds, recalls, classes, areas, limits]; -1 stands for no object."""
    every = precision[:, :, :, 0, -1]
    found = []
    for each in (every, every[:1]):
        known = each > -1
        counts = known.sum(axis=(0, 1))
        means = np.where(known, each, 0).sum(axis=(0, 1)) / np.maximum(counts, 1)
        found.append(np.where(counts > 0, PERCENT * means, math.nan))
    return np.stack(found, axis=-1)


def _percent(value: float) -> float:
    return math.nan if value < 0 else PERCENT * value
