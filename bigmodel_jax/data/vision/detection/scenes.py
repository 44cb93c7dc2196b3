"""Scenes: an image with its objects, and transforms that change both together, in NumPy.

Boxes are [n, 4] float32 in pixels: the left, the upper, the right and the lower edge; the pixel in the upper left
corner reaches from 0 to 1. A transform is a pure function of the scene and of a key; see data/transforms.py.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import counter_rng, transforms
from bigmodel_jax.data.vision.detection import boxes as boxes_of
from bigmodel_jax.data.vision.transforms import Resize

Sides = tuple[config.Positive, ...]
SCENE = 'scene'


class Scene(NamedTuple):
    """An image and the n objects in it."""

    image: np.ndarray  # [Y, X, Z]
    boxes: np.ndarray  # [n, 4] float32
    labels: np.ndarray  # [n] int32
    crowd: np.ndarray  # [n] bool: boxes around many objects, which no prediction need match.
    areas: np.ndarray  # [n] float32, in pixels: of the objects, not of their boxes where they are known better.

    @property
    def size(self) -> tuple[int, int]:
        """The rows and columns of the image."""
        return self.image.shape[0], self.image.shape[1]

    def kept(self, chosen: np.ndarray) -> 'Scene':
        """With only some of the objects; `chosen` [n] is bool."""
        return Scene(self.image, *(each[chosen] for each in self[1:]))


class SceneTransform(transforms.Transform):
    """Interface of the configs that change a scene: the image and the boxes of its objects together."""

    reads = SCENE

    def __call__(self, value: Scene, key: np.ndarray) -> Scene:
        raise NotImplementedError


# ---- flips ----------------------------------------------------------------------------------------------------------


def reflected(scene: Scene) -> Scene:
    """The scene reflected left to right."""
    columns = scene.image.shape[1]
    left, top, right, bottom = scene.boxes.T
    boxes = np.stack([columns - right, top, columns - left, bottom], axis=-1).astype(np.float32)
    return scene._replace(image=scene.image[:, ::-1], boxes=boxes.reshape(-1, 4))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlipScene(SceneTransform):
    """The scene reflected left to right, with a probability."""

    random: ClassVar[bool] = True
    probability: config.Fraction = 0.5

    def __call__(self, value: Scene, key: np.ndarray) -> Scene:
        return reflected(value) if counter_rng.uniform(key, 0) < self.probability else value


# ---- sizes ----------------------------------------------------------------------------------------------------------


def resized(scene: Scene, size: tuple[int, int]) -> Scene:
    """The scene with so many rows and columns."""
    rows, columns = scene.size
    down, right = size[0] / rows, size[1] / columns
    image = Resize(size=size)(scene.image, np.array(0, np.uint64))
    boxes = (scene.boxes * np.array([right, down, right, down])).astype(np.float32)
    return scene._replace(image=image, boxes=boxes, areas=(scene.areas * (down * right)).astype(np.float32))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResizeScene(SceneTransform):
    """The scene resized without keeping its proportions."""

    size: tuple[config.Positive, config.Positive]  # Rows and columns.

    def __call__(self, value: Scene, key: np.ndarray) -> Scene:
        return resized(value, self.size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResizeShorterSide(SceneTransform):
    """The scene resized with its proportions, so that its shorter side has one of `sides` pixels, which is drawn.

    Where the longer side would have more than `longest`, it has that instead.

    Source: Carion et al. (2020), arXiv:2005.12872, section A.4, and its code.
    """

    random: ClassVar[bool] = True
    sides: Sides
    longest: config.Positive | None = None

    def __call__(self, value: Scene, key: np.ndarray) -> Scene:
        side = self.sides[int(counter_rng.integers(len(self.sides), key, 0))]
        rows, columns = value.size
        shorter, longer = min(rows, columns), max(rows, columns)
        if self.longest is not None and longer / shorter * side > self.longest:
            side = round(self.longest * shorter / longer)
        # As in its code: the longer side is cut, not rounded.
        size = (side, int(side * columns / rows)) if rows <= columns else (int(side * rows / columns), side)
        return resized(value, (max(size[0], 1), max(size[1], 1)))


# ---- crops ----------------------------------------------------------------------------------------------------------


def cropped(scene: Scene, corner: tuple[int, int], size: tuple[int, int]) -> Scene:
    """A part of the scene. Boxes are cut at its edges; objects of which nothing is left are left out.

    Args:
      corner: its first row and column.
      size: its rows and columns.
    """
    (top, left), (rows, columns) = corner, size
    before = boxes_of.areas(scene.boxes)
    boxes = scene.boxes - np.array([left, top, left, top], np.float32)
    boxes = np.clip(boxes, 0, np.array([columns, rows, columns, rows], np.float32))
    after = boxes_of.areas(boxes)
    # Of an object whose outline is not known, as much is left as of its box.
    areas = scene.areas * (after / np.where(before > 0, before, 1))
    image = scene.image[top : top + rows, left : left + columns]
    return Scene(image, boxes, scene.labels, scene.crowd, areas.astype(np.float32)).kept(after > 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomPart(SceneTransform):
    """A part of the scene at a random place, each of whose sides is drawn between two numbers of pixels.

    A scene that is smaller stays as it is along that side.

    Source: Carion et al. (2020), arXiv:2005.12872, section A.4, and its code, with sides from 384 to 600.
    """

    random: ClassVar[bool] = True
    sides: tuple[config.Positive, config.Positive]  # The least and the most.

    def __call__(self, value: Scene, key: np.ndarray) -> Scene:
        low, high = self.sides
        size, corner = [], []
        for axis, side in enumerate(value.size):
            least, most = min(low, side), min(high, side)
            drawn = least + int(counter_rng.integers(most - least + 1, key, 0, axis))
            size.append(drawn)
            corner.append(int(counter_rng.integers(side - drawn + 1, key, 1, axis)))
        return cropped(value, (corner[0], corner[1]), (size[0], size[1]))

    def __post_init__(self) -> None:
        if self.sides[0] > self.sides[1]:
            raise config.InputError(f'RandomPart(sides={self.sides}): give the least and then the most.')


# ---- colours --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColorJitter(SceneTransform):
    """Brightness, contrast and saturation, each multiplied by a number that is drawn around 1; boxes stay.

    The image is of bytes, and is rounded to bytes at the end.
    """

    random: ClassVar[bool] = True
    strength: config.Fraction = 0.3  # The numbers are between 1 - strength and 1 + strength.

    def __call__(self, value: Scene, key: np.ndarray) -> Scene:
        if value.image.dtype != np.uint8:
            raise config.InputError(f'ColorJitter changes bytes, but is given {value.image.dtype}.')
        factors = 1 + self.strength * (2 * counter_rng.uniform(key, np.arange(3)) - 1)
        brightness, contrast, saturation = factors.astype(np.float32)
        image = value.image.astype(np.float32) * brightness
        image = (image - image.mean()) * contrast + image.mean()
        grey = image.mean(axis=-1, keepdims=True)
        image = (image - grey) * saturation + grey
        return value._replace(image=np.clip(np.rint(image), 0, 255).astype(np.uint8))


# ---- choices --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class EitherOf(SceneTransform):
    """One of two lists of transforms, each half of the time."""

    random: ClassVar[bool] = True
    first: tuple[SceneTransform, ...]
    second: tuple[SceneTransform, ...]

    def __call__(self, value: Scene, key: np.ndarray) -> Scene:
        chosen: Any = self.first if counter_rng.uniform(key, 0) < 0.5 else self.second
        for position, each in enumerate(chosen):
            value = each(value, counter_rng.bits(key, 1, position))
        return value
