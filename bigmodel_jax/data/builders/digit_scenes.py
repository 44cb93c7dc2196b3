"""Scenes of handwritten digits on photographs, for detection: drawn when they are read, without a download.

The photographs are the two that come with scikit-learn; the digits are those of any source of images with labels.
"""

import dataclasses
import hashlib
from typing import Literal, NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import counter_rng, libraries, records
from bigmodel_jax.data.sources import scikit_learn
from bigmodel_jax.data.vision.transforms import Resize

KEYLESS = np.array(0, np.uint64)  # Of transforms that draw nothing.
INK = 0.35  # How dark a pixel of a digit is, of 1, that its box contains.
ATTEMPTS = 12  # At a place that is free, before a digit is left out.
APART_PIXELS = 1.0  # Between two boxes, at least.
SCALES = (1, 2, 4)  # By which the photographs are reduced.
COLOURED = 0.4  # By how much a channel of a digit's colour is darker than white, at most.
DARK = 0.75  # How dark the shadow of a digit is.


class Glyph(NamedTuple):
    """A digit that may be drawn."""

    ink_YX: np.ndarray  # float32 in [0, 1], as large as its box.
    shadow_YX: np.ndarray  # The same of what is dark behind it, with one pixel more on each side.
    label: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigitScenes(records.Source):
    """Scenes with `image` [Y, X, 3] uint8, `boxes` [n, 4] float32 (left, upper, right, lower edge in pixels) and
    `labels` [n] int32, the digits. Scene i is a function of `first` + i and of the other fields alone.

    A scene is drawn when it is first read, and kept in memory. Digits are bright with a dark shadow, do not
    overlap, and have a tight box.
    """

    count: config.Positive
    first: config.NonNegative = 0  # Other numbers give other scenes.
    size: tuple[config.Positive, config.Positive] = (64, 64)  # Rows and columns.
    objects: tuple[config.NonNegative, config.Positive] = (0, 4)  # The fewest digits of a scene, and the most.
    heights: tuple[config.Positive, config.Positive] = (16, 28)  # Of a digit's image, in pixels.
    digits: records.Source = scikit_learn.ScikitLearn(name='digits')  # Of images with labels from 0 to 9.
    # The half of the photographs behind the digits: scenes of one half share no pixel with those of the other.
    half: Literal['left', 'right'] = 'left'

    def open(self) -> 'DigitSceneRecords':
        return DigitSceneRecords(self)


class DigitSceneRecords(records.Records):
    """Scenes by number."""

    def __init__(self, source: DigitScenes):
        self.name, self._source = 'digit scenes', source
        (low, high), (least, most) = source.objects, source.heights
        if low > high or least > most:
            raise config.InputError(
                f'DigitScenes(objects={source.objects}, heights={source.heights}): give the least and then the most.'
            )
        if most > min(source.size):
            raise config.InputError(f'DigitScenes: digits of {most} pixels do not fit into scenes of {source.size}.')
        self._photographs = _photographs(source.half, source.size)
        found = source.digits.open()
        images = [(np.asarray(record['image'], np.float32), int(record['label'])) for record in found]
        self._digits = [(image.reshape(image.shape[:2]) / max(float(image.max()), 1e-6), it) for image, it in images]
        self._glyphs: dict[tuple[int, int], Glyph] = {}
        self._drawn: dict[int, records.Record] = {}
        digest = hashlib.sha256(b''.join(np.ascontiguousarray(each).tobytes() for each in self._photographs))
        self.fingerprint = {
            'name': 'digit scenes 1',
            **{name: value for name, value in config.to_json(source).items() if name != 'digits'},
            'digits': dict(found.fingerprint),
            'photographs': digest.hexdigest(),
        }

    def __len__(self) -> int:
        return self._source.count

    def read(self, start: int, stop: int) -> list[records.Record]:
        return [self._scene(number) for number in range(len(self))[start:stop]]

    def _scene(self, number: int) -> records.Record:
        """Scene `number`, which is drawn once and then kept."""
        if number not in self._drawn:
            self._drawn[number] = self._draw(self._source.first + number)
        return self._drawn[number]

    def _draw(self, number: int) -> records.Record:
        key = counter_rng.bits(number)
        low, high = self._source.objects
        numbers = counter_rng.uniform(key, np.arange(4))
        image = self._background(numbers[:3])
        boxes = np.zeros((0, 4), np.float32)
        labels: list[int] = []
        for index in range(low + int(numbers[3] * (high - low + 1))):
            # Of each digit: which it is, its height, its colour, and the places that are tried.
            drawn = counter_rng.uniform(key, index, np.arange(5 + 2 * ATTEMPTS))
            glyph = self._glyph(drawn[:2])
            box = self._place(drawn[5:].reshape(-1, 2), glyph, boxes)
            if box is not None:
                _paint(image, glyph, box, drawn[2:5])
                boxes = np.concatenate([boxes, box[None].astype(np.float32)])
                labels.append(glyph.label)
        pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        return {'image': pixels, 'boxes': boxes, 'labels': np.array(labels, np.int32)}

    def _background(self, drawn: np.ndarray) -> np.ndarray:
        """[Y, X, 3] float32: a part of a photograph."""
        rows, columns = self._source.size
        chosen = self._photographs[int(drawn[0] * len(self._photographs))]
        top = int(drawn[1] * (chosen.shape[0] - rows + 1))
        left = int(drawn[2] * (chosen.shape[1] - columns + 1))
        return chosen[top : top + rows, left : left + columns].astype(np.float32)

    def _glyph(self, drawn: np.ndarray) -> Glyph:
        """A digit in one of the heights."""
        least, most = self._source.heights
        chosen, height = int(drawn[0] * len(self._digits)), least + int(drawn[1] * (most - least + 1))
        if (chosen, height) not in self._glyphs:
            image, label = self._digits[chosen]
            ink_YX = Resize(size=(height, height))(image[..., None], KEYLESS)[..., 0]
            rows, columns = (np.flatnonzero((ink_YX > INK).any(axis=axis)) for axis in (1, 0))
            ink_YX = ink_YX[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            self._glyphs[chosen, height] = Glyph(ink_YX, _shadow(ink_YX), label)
        return self._glyphs[chosen, height]

    def _place(self, places: np.ndarray, glyph: Glyph, taken: np.ndarray) -> np.ndarray | None:
        """[4] int64: the edges of the first box that touches none of those that are taken; None where there is none."""
        (rows, columns), (tall, wide) = self._source.size, glyph.ink_YX.shape
        corners = (places * np.array([columns - wide + 1, rows - tall + 1])).astype(np.int64)
        tried = np.concatenate([corners, corners + np.array([wide, tall])], axis=1)
        low = np.maximum(tried[:, None, :2] - APART_PIXELS, taken[:, :2])
        high = np.minimum(tried[:, None, 2:] + APART_PIXELS, taken[:, 2:])
        free = ~(high > low).all(axis=-1).any(axis=1)
        return tried[free.argmax()] if free.any() else None


def _paint(image: np.ndarray, glyph: Glyph, box: np.ndarray, drawn: np.ndarray) -> None:
    """Draws a digit and its shadow, which reaches one pixel further than its box, into an image."""
    (left, top, right, bottom), (rows, columns) = box.tolist(), image.shape[:2]
    region = slice(max(top - 1, 0), bottom + 1), slice(max(left - 1, 0), right + 1)
    own = slice(max(1 - top, 0), rows - top + 1), slice(max(1 - left, 0), columns - left + 1)
    ink, shadow = np.pad(glyph.ink_YX, 1)[own], glyph.shadow_YX[own]
    colour = 255 * (1 - COLOURED * drawn.astype(np.float32))
    behind = image[region]
    behind *= 1 - DARK * shadow[..., None]
    behind += ink[..., None] * (colour - behind)


def _shadow(ink_YX: np.ndarray) -> np.ndarray:
    """The ink of each pixel or of its darkest neighbour, with a margin of one pixel."""
    rows, columns = ink_YX.shape
    padded = np.pad(ink_YX, 2)
    moved = [padded[y : y + rows + 2, x : x + columns + 2] for y in range(3) for x in range(3)]
    found: np.ndarray = np.max(moved, axis=0)
    return found


def _photographs(half: str, size: tuple[int, int]) -> list[np.ndarray]:
    """Halves of the photographs in several sizes, [Y, X, 3] uint8, as far as a scene fits into them."""
    datasets = libraries.load(
        'sklearn.datasets', 'Two photographs come with scikit-learn', package='scikit-learn', extra='vision'
    )
    libraries.load('PIL.Image', 'scikit-learn reads its photographs with Pillow', package='pillow', extra='vision')
    found = []
    for photograph in datasets.load_sample_images().images:
        middle = photograph.shape[1] // 2
        part = np.ascontiguousarray(photograph[:, :middle] if half == 'left' else photograph[:, middle:])
        sizes = [(part.shape[0] // scale, part.shape[1] // scale) for scale in SCALES]
        found += [Resize(size=each)(part, KEYLESS) for each in sizes if each[0] >= size[0] and each[1] >= size[1]]
    if not found:
        raise config.InputError(f'Scenes of {size} pixels are larger than half a photograph; use smaller ones.')
    return found
