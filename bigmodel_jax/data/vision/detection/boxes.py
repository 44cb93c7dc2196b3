"""How data sets write boxes, and whether boxes can be those of objects in an image."""

import dataclasses
from collections.abc import Callable

import numpy as np

from bigmodel_jax import config

ROUNDING = 1.0  # Pixels by which a box may lie outside of its image, as the rounded boxes of data sets do.
Where = Callable[[], str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoxLayout:
    """Interface of the ways of writing boxes."""

    def edges(self, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """[n, 4] in pixels: the left, upper, right and lower edges of boxes [n, 4] of an image.

        Args:
          size: the rows and columns of the image.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corners(BoxLayout):
    """Left, upper, right and lower edge in pixels."""

    def edges(self, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return boxes


@dataclasses.dataclass(frozen=True, kw_only=True)
class CornerAndSize(BoxLayout):
    """Left and upper edge, width and height in pixels, as in COCO's files."""

    def edges(self, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsShares(BoxLayout):
    """Upper, left, lower and right edge as shares of the image, as in TFDS."""

    def edges(self, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        rows, columns = size
        return boxes[:, [1, 0, 3, 2]] * np.array([columns, rows, columns, rows])


def areas(boxes: np.ndarray) -> np.ndarray:
    """[n] of boxes [n, 4] given by their edges; 0 where one has a negative side."""
    found: np.ndarray = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    return found


def problems(boxes: np.ndarray, size: tuple[int, int]) -> list[tuple[int, str]]:
    """What is wrong with boxes [n, 4] given by their edges: the number of each wrong one, and a sentence."""
    rows, columns = size
    limits = np.array([columns, rows, columns, rows])
    rules = (
        (~np.isfinite(boxes).all(axis=1), 'is not finite'),
        ((boxes[:, 2:] < boxes[:, :2]).any(axis=1), 'has a negative size: its right or lower edge comes first'),
        (
            (boxes < -ROUNDING).any(axis=1) | (boxes > limits + ROUNDING).any(axis=1),
            f'lies outside of its image of {rows} x {columns} pixels',
        ),
    )
    found = {}
    for wrong, said in rules:
        for number in np.flatnonzero(wrong).tolist():
            edges = ', '.join(f'{edge:.6g}' for edge in boxes[number])
            found.setdefault(number, f'the box with left, upper, right and lower edges ({edges}) {said}')
    return sorted(found.items())


def checked(boxes: np.ndarray, size: tuple[int, int], where: Where) -> np.ndarray:
    """[n, 4] float32: boxes given by their edges, cut at those of the image.

    Raises:
      InputError: one has a negative size, or lies outside of the image by more than rounding; `where` names it.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    wrong = problems(boxes, size)
    if wrong:
        number, said = wrong[0]
        raise config.InputError(
            f'{where()}, object {number}: {said}. Mend the box or leave the object out; is the layout of the boxes the '
            'right one (Corners, CornerAndSize, TfdsShares)?'
        )
    rows, columns = size
    return np.clip(boxes, 0, [columns, rows, columns, rows]).astype(np.float32)
