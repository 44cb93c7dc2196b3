"""Images with what a classifier predicts for them, its worst mistakes, and the filters of its first layer."""

import dataclasses
import math
from typing import Any

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.data.vision import images
from bigmodel_jax.evaluate import artifacts, class_scores, classes

TILE = 24  # Pixels of the side of a filter in the picture.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageGallery(classes.Showing):
    """For Classes(showing=...), whose data are Images: some examples, the worst mistakes, and the first filters.

    The examples are spaced evenly over the data; the mistakes are those with the highest probabilities. A model without
    filters over the pixels (`first_filters`) shows none.
    """

    examples: config.Positive = 12
    mistakes: config.Positive = 12
    filters: config.Positive = 64  # At most.

    def check(self, data: batches.Data) -> None:
        if not isinstance(data, images.Images):
            raise config.InputError(
                f'ImageGallery shows the pixels of Images, but the data is {type(data).__name__}; leave it out.'
            )

    def artifacts(self, found: classes.Predicted, of: Any) -> tuple[artifacts.Artifact, ...]:
        probabilities_NV = class_scores.probabilities(found.logits_NV)
        count = len(found.labels_N)
        chosen = np.unique(np.linspace(0, count - 1, min(self.examples, count)).round().astype(np.int64))
        predicted_N = found.logits_NV.argmax(axis=-1)
        (wrong,) = np.nonzero(predicted_N != found.labels_N)
        certain = probabilities_NV[wrong, predicted_N[wrong]]
        worst = wrong[np.argsort(-certain, kind='stable')[: self.mistakes]]
        made = [_picture(number, probabilities_NV, found) for number in (*chosen.tolist(), *worst.tolist())]
        kernel_YXZF = of.first_filters(found.params)
        if kernel_YXZF is not None and kernel_YXZF.shape[2] in (1, 3):
            made.append(_filters(np.asarray(kernel_YXZF, np.float32)[..., : self.filters]))
        return tuple(made)


def _picture(number: int, probabilities_NV: np.ndarray, found: classes.Predicted) -> artifacts.Image:
    """Example `number`, with the class that is predicted, its probability, and the class that it is of."""
    examples = found.data.examples
    assert isinstance(examples, images.ImageExamples), examples
    read = examples.gather(np.array([number * examples.views]), np.zeros(1, np.int64), found.data.seed)
    best, label = int(probabilities_NV[number].argmax()), int(found.labels_N[number])
    said = f'{found.names[best]} {probabilities_NV[number, best]:.0%}'
    title = said if best == label else f'mistake: {said}, is {found.names[label]}'
    return artifacts.Image.of(examples.pixels(read['image'][0]), title)


def _filters(kernel_YXZF: np.ndarray) -> artifacts.Image:
    """All filters as one picture, each scaled to [0, 1] by itself and enlarged, with a white line between them."""
    Y, X, Z, F = kernel_YXZF.shape
    low = kernel_YXZF.min(axis=(0, 1, 2))
    scaled_FYXZ = np.moveaxis((kernel_YXZF - low) / np.maximum(np.ptp(kernel_YXZF, axis=(0, 1, 2)), 1e-12), -1, 0)
    enlarged = max(1, TILE // max(Y, X))
    tiles = scaled_FYXZ.repeat(enlarged, axis=1).repeat(enlarged, axis=2)
    columns = math.ceil(math.sqrt(F))
    rows = -(-F // columns)
    height, width = Y * enlarged + 1, X * enlarged + 1
    picture = np.ones((rows * height, columns * width, Z), np.float32)
    for number, tile in enumerate(tiles):
        top, left = number // columns * height, number % columns * width
        picture[top : top + height - 1, left : left + width - 1] = tile
    return artifacts.Image.of(picture, f'The {F} filters of the first layer')
