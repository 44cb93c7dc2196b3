"""Several views of each image, of which an evaluation averages the predictions: the ten crops of AlexNet."""

import dataclasses

import numpy as np

from bigmodel_jax.data import transforms
from bigmodel_jax.data.vision.transforms import CenterCrop, Size


class Views:
    """Interface of the configs that show an image several times; it comes after the transforms."""

    count: int

    def __call__(self, image: np.ndarray, number: int) -> np.ndarray:
        """View `number`, below `count`, of an image [Y, X, Z]."""
        raise NotImplementedError

    def shape(self, shape: transforms.Shape) -> transforms.Shape:
        """The shape of each view of an image of that shape.

        Raises:
          InputError: it does not fit.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TenCrops(Views):
    """The middle, the four corners, and the reflections of these five.

    Source: Krizhevsky et al. (2012), section 4.1; He et al. (2015), arXiv:1512.03385, section 3.4.
    """

    count = 10
    size: Size  # Rows and columns of each.

    def __call__(self, image: np.ndarray, number: int) -> np.ndarray:
        (rows, columns), (Y, X, _) = self.size, image.shape
        middle = (Y - rows) // 2, (X - columns) // 2
        corners = ((top, left) for top in (0, Y - rows) for left in (0, X - columns))
        top, left = (middle, *corners)[number % 5]
        view = image[top : top + rows, left : left + columns]
        return view if number < 5 else view[:, ::-1]

    def shape(self, shape: transforms.Shape) -> transforms.Shape:
        return CenterCrop(size=self.size).shape(shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reflections(Views):
    """The image and its reflection, left to right."""

    count = 2

    def __call__(self, image: np.ndarray, number: int) -> np.ndarray:
        return image if number == 0 else image[:, ::-1]

    def shape(self, shape: transforms.Shape) -> transforms.Shape:
        return shape
