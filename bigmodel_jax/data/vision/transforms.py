"""Transforms of images: crops, flips, resizing and normalization, in NumPy.

An image is an array [Y, X, Z] of uint8 or of a float. Randomness is a function of the key; see data/transforms.py.
"""

import dataclasses
import functools
import importlib.util
import types
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import counter_rng, transforms

Size = tuple[config.Positive, config.Positive]  # Rows and columns.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Normalize(transforms.Transform):
    """(pixel / divisor - mean) / deviation, in float32."""

    divisor: config.PositiveFloat = 255.0  # 1 leaves pixels as they are.
    mean: tuple[float, ...] = (0.0,)  # Of each channel, or one number for all.
    deviation: tuple[config.PositiveFloat, ...] = (1.0,)

    def __call__(self, value: np.ndarray, key: np.ndarray) -> np.ndarray:
        # In rows of all channels of a line: NumPy is slow where the last axis has 3 numbers.
        mean, deviation = (_in_a_line(each, value.shape) for each in (self.mean, self.deviation))
        made = value.astype(np.float32).reshape(value.shape[0], -1)
        made /= np.float32(self.divisor)
        made -= mean
        made /= deviation
        return made.reshape(value.shape)

    def undone(self, value: np.ndarray) -> np.ndarray:
        """pixel / divisor, in float32, of the pixels that became `value`."""
        mean, deviation = np.array(self.mean, np.float32), np.array(self.deviation, np.float32)
        return value * deviation + mean

    def shape(self, shape: transforms.Shape) -> transforms.Shape:
        if not self.divisor or not all(self.deviation):
            raise config.InputError(f'{self}: the divisor and the deviations should be above 0.')
        for name, values in (('mean', self.mean), ('deviation', self.deviation)):
            if len(values) not in (1, shape[-1]):
                raise config.InputError(
                    f'Normalize({name}=...) has {len(values)} numbers for {shape[-1]} channels; give one for each, '
                    'or one.'
                )
        return shape


def shares(made_by: Sequence[transforms.Transform], image: np.ndarray) -> np.ndarray:
    """Images that these transforms made, as they were before the last of them if that is Normalize: pixel / divisor."""
    last = made_by[-1] if made_by else None
    return last.undone(image) if isinstance(last, Normalize) else image


def _in_a_line(of_channels: tuple[float, ...], shape: transforms.Shape) -> np.ndarray:
    """A number for each pixel and channel of a line of an image, or one for all."""
    numbers = np.array(of_channels, np.float32)
    return numbers if len(numbers) == 1 else np.tile(numbers, shape[1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnBackground(transforms.Transform):
    """An image with an alpha channel, the last of its channels, laid on a background of one level; bytes."""

    level: config.NonNegative = 255

    def __call__(self, value: np.ndarray, key: np.ndarray) -> np.ndarray:
        alpha = value[..., -1:].astype(np.float32) / 255
        return np.round(value[..., :-1] * alpha + np.float32(self.level) * (1 - alpha)).astype(np.uint8)

    def shape(self, shape: transforms.Shape) -> transforms.Shape:
        if shape[-1] not in (2, 4) or self.level > 255:
            raise config.InputError(
                f'{self}: an image has {shape[-1]} channels; the last of 2 or 4 is alpha. Levels are 0 to 255.'
            )
        return (*shape[:-1], shape[-1] - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomFlip(transforms.Transform):
    """The image reflected left to right, with a probability."""

    random: ClassVar[bool] = True
    probability: config.Fraction = 0.5

    def __call__(self, value: np.ndarray, key: np.ndarray) -> np.ndarray:
        return value[:, ::-1] if counter_rng.uniform(key, 0) < self.probability else value


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomCrop(transforms.Transform):
    """A part of the image at a random place, after `padding` pixels of 0 were added on each side.

    Source: He et al. (2015), arXiv:1512.03385, section 4.2, with padding=4 on images of 32 x 32.
    """

    random: ClassVar[bool] = True
    size: Size | None = None  # None: of the image before it was padded.
    padding: config.NonNegative = 0

    def __call__(self, value: np.ndarray, key: np.ndarray) -> np.ndarray:
        rows, columns = self.size or value.shape[:2]
        padded = _padded(value, self.padding) if self.padding else value
        top = int(counter_rng.integers(padded.shape[0] - rows + 1, key, 0))
        left = int(counter_rng.integers(padded.shape[1] - columns + 1, key, 1))
        return padded[top : top + rows, left : left + columns]

    def shape(self, shape: transforms.Shape) -> transforms.Shape:
        rows, columns = self.size or shape[:2]
        _check_crop('RandomCrop', (rows, columns), (shape[0] + 2 * self.padding, shape[1] + 2 * self.padding))
        return (rows, columns, *shape[2:])


def _padded(image: np.ndarray, size: int) -> np.ndarray:
    """np.pad() with zeros, in a tenth of the time for a small image."""
    rows, columns, channels = image.shape
    found = np.zeros((rows + 2 * size, columns + 2 * size, channels), image.dtype)
    found[size : size + rows, size : size + columns] = image
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class CenterCrop(transforms.Transform):
    """The middle of the image; where it cannot be in the middle, half a pixel up and left of it."""

    size: Size

    def __call__(self, value: np.ndarray, key: np.ndarray) -> np.ndarray:
        rows, columns = self.size
        top, left = (value.shape[0] - rows) // 2, (value.shape[1] - columns) // 2
        return value[top : top + rows, left : left + columns]

    def shape(self, shape: transforms.Shape) -> transforms.Shape:
        _check_crop('CenterCrop', self.size, shape[:2])
        return (*self.size, *shape[2:])


def _check_crop(name: str, size: tuple[int, ...], available: tuple[int, ...]) -> None:
    if size[0] > available[0] or size[1] > available[1]:
        raise config.InputError(
            f'{name} of {size[0]} x {size[1]} pixels does not fit into an image of {available[0]} x {available[1]}; '
            'use a smaller size, or Resize first.'
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resize(transforms.Transform):
    """The image resized without keeping its proportions: bilinear, and averaged where it becomes smaller.

    The columns are resized first and then the rows, each as Pillow does it and rounded as Pillow rounds bytes; where
    Pillow is installed, by Pillow, which is quicker. Pillow itself chooses the order of the two by a rule that depends
    on its version, and can differ by one level.
    """

    size: Size

    def __call__(self, value: np.ndarray, key: np.ndarray) -> np.ndarray:
        if value.dtype == np.uint8 and value.shape[-1] in (1, 3) and _pillow() is not None:
            return _resized_by_pillow(value, self.size)
        return _resized(_resized(value, self.size[1], axis=1), self.size[0], axis=0)

    def shape(self, shape: transforms.Shape) -> transforms.Shape:
        return (*self.size, *shape[2:])


SCALE = 2.0**22  # Of the whole numbers that Pillow multiplies bytes by.


def _resized(image: np.ndarray, size: int, *, axis: int) -> np.ndarray:
    """The image with `size` pixels along one axis."""
    if image.shape[axis] == size:
        return image
    weights = _weights(image.shape[axis], size)
    if image.dtype != np.uint8:
        return np.moveaxis(np.tensordot(weights, image, axes=(1, axis)), 0, axis).astype(image.dtype)
    # Products and sums of whole numbers far below 2^53 are exact, in whichever order they are added.
    whole = np.floor(weights * SCALE + 0.5)
    sums = np.moveaxis(np.tensordot(whole, image.astype(np.float64), axes=(1, axis)), 0, axis)
    return np.clip(np.floor((sums + SCALE / 2) / SCALE), 0, 255).astype(np.uint8)


@functools.cache
def _pillow() -> types.ModuleType | None:
    return importlib.import_module('PIL.Image') if importlib.util.find_spec('PIL') else None


def _resized_by_pillow(image: np.ndarray, size: Size) -> np.ndarray:
    pillow = _pillow()
    assert pillow is not None
    stored = pillow.fromarray(image[..., 0] if image.shape[-1] == 1 else np.ascontiguousarray(image))
    for columns, rows in ((size[1], image.shape[0]), (size[1], size[0])):
        stored = stored.resize((columns, rows), pillow.Resampling.BILINEAR)
    return np.asarray(stored).reshape(*size, image.shape[-1])


@functools.lru_cache(maxsize=64)
def _weights(before: int, after: int) -> np.ndarray:
    """[after, before] float64: how much each old pixel gives to each new one; rows sum to 1."""
    scale = before / after
    support = max(scale, 1.0)  # Half the width of the triangle.
    centers = (np.arange(after) + 0.5) * scale
    pixels = np.arange(before)
    firsts = np.maximum(np.trunc(centers - support + 0.5), 0)[:, None]
    lasts = np.minimum(np.trunc(centers + support + 0.5), before)[:, None]
    triangle = np.maximum(1 - np.abs((pixels - centers[:, None] + 0.5) * (1.0 / support)), 0)
    weights = np.where((pixels >= firsts) & (pixels < lasts), triangle, 0)
    # Summed one after another and multiplied by the inverse, as Pillow does it, so that they are rounded alike.
    return weights * (1.0 / np.cumsum(weights, axis=1)[:, -1:])
