"""Images with boxes drawn on them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bigmodel_jax.data import libraries
from bigmodel_jax.evaluate import artifacts

SIDE = 320  # Pixels of the longer side, at least: small images are enlarged by a whole number.
TRUE, FOUND = (0, 200, 0), (255, 60, 0)  # Colours: of the boxes of the data, and of those that were found.


class LabelledBox(NamedTuple):
    """A box, [4] in shares of the image: left, upper, right, lower edge; and what is written beside it."""

    edges: Sequence[float]
    text: str


def drawn(image: np.ndarray, true: Sequence[LabelledBox], found: Sequence[LabelledBox], title: str) -> artifacts.Image:
    """An image [Y, X, 1 or 3] of floats in [0, 1] with true boxes in green and found ones in orange.

    Raises:
      InputError: Pillow is not installed, which writes the labels.
    """
    purpose = 'The labels of boxes are drawn by Pillow'
    pillow, drawing = (
        libraries.load(f'PIL.{name}', purpose, package='pillow', extra='vision') for name in ('Image', 'ImageDraw')
    )
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    times = max(1, -(-SIDE // max(pixels.shape[:2])))
    canvas = pillow.fromarray(np.ascontiguousarray(pixels.repeat(times, axis=0).repeat(times, axis=1)))
    pen = drawing.Draw(canvas)
    for colour, edges, text, below in _lines(true, found):
        left, top, right, bottom = (edges * np.tile([canvas.width - 1, canvas.height - 1], 2)).round().tolist()
        pen.rectangle((left, top, right, bottom), outline=colour, width=2)
        pen.text((left + 3, bottom - 13 if below else top + 2), text, fill=colour)
    return artifacts.Image.of(np.asarray(canvas), title)


def _lines(
    true: Sequence[LabelledBox], found: Sequence[LabelledBox]
) -> Iterator[tuple[tuple[int, int, int], np.ndarray, str, bool]]:
    """Of each box its colour, its edges in order within the image, its text, and whether that stands at the bottom."""
    for boxes, colour in ((true, TRUE), (found, FOUND)):
        for each in boxes:
            low, high = np.clip(np.reshape(each.edges, (2, 2)).astype(np.float64), 0, 1)
            yield colour, np.concatenate([np.minimum(low, high), np.maximum(low, high)]), each.text, colour == FOUND
