"""Augmentations of photographs: random sizes, crops and colour noise, in NumPy.

Each is a pure function of the image and of a key made from (seed, epoch, example); see data/transforms.py.
"""

import dataclasses
import math
from typing import ClassVar

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import counter_rng, transforms
from bigmodel_jax.data.vision.transforms import Resize, Size

ATTEMPTS = 10  # At a crop that fits, before the middle of the image is taken.
# Of the colours of ImageNet's training images with pixels in [0, 1], as in github.com/facebookarchive/fb.resnet.torch:
# the variances along the principal components, and of each component its red, green and blue.
VARIANCES = (0.2175, 0.0188, 0.0045)
COMPONENTS = ((-0.5675, -0.5808, -0.5836), (0.7192, -0.0045, -0.6948), (0.4009, -0.8140, 0.4203))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResizeShorter(transforms.Transform):
    """The image resized so that its shorter side has `side` pixels, with its proportions; see Resize."""

    side: config.Positive

    def __call__(self, value: np.ndarray, key: np.ndarray) -> np.ndarray:
        rows, columns = self.shape(value.shape)[:2]
        return Resize(size=(rows, columns))(value, key)

    def shape(self, shape: transforms.Shape) -> transforms.Shape:
        shorter = min(shape[:2])
        rows, columns = (round(each * self.side / shorter) for each in shape[:2])
        return (rows, columns, *shape[2:])


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomResizeShorter(transforms.Transform):
    """As ResizeShorter, to a side that is drawn between two, both included.

    Source: Simonyan and Zisserman (2014), arXiv:1409.1556, section 3.1; He et al. (2015), section 3.4.
    """

    random: ClassVar[bool] = True
    sides: tuple[config.Positive, config.Positive] = (256, 480)

    def __call__(self, value: np.ndarray, key: np.ndarray) -> np.ndarray:
        low, high = self.sides
        return ResizeShorter(side=low + int(counter_rng.integers(high - low + 1, key, 0)))(value, key)

    def shape(self, shape: transforms.Shape) -> transforms.Shape:
        """The least that it can be: what fits into it fits always."""
        low, high = self.sides
        if low > high:
            raise config.InputError(f'RandomResizeShorter(sides=({low}, {high})): give the least and then the most.')
        return ResizeShorter(side=low).shape(shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomResizedCrop(transforms.Transform):
    """A part of random area and proportions, at a random place, resized to `size`.

    Source: Szegedy et al. (2014), arXiv:1409.4842, section 6; where no part fits in 10 attempts, the largest one in the
    middle whose proportions are allowed, as in torchvision.
    """

    random: ClassVar[bool] = True
    size: Size
    area: tuple[config.Fraction, config.Fraction] = (0.08, 1.0)  # Of that of the image: the least and the most.
    # Columns by rows: the least and the most; the logarithm is uniform between the two.
    proportions: tuple[config.PositiveFloat, config.PositiveFloat] = (3 / 4, 4 / 3)

    def __call__(self, value: np.ndarray, key: np.ndarray) -> np.ndarray:
        top, left, rows, columns = self._part(value.shape, key)
        return Resize(size=self.size)(value[top : top + rows, left : left + columns], key)

    def _part(self, shape: transforms.Shape, key: np.ndarray) -> tuple[int, int, int, int]:
        """The first row and column, and how many there are of each."""
        rows, columns = shape[:2]
        low, high = map(math.log, self.proportions)
        for attempt in range(ATTEMPTS):
            size, form, down, right = counter_rng.uniform(key, attempt, np.arange(4)).tolist()
            area = rows * columns * (self.area[0] + size * (self.area[1] - self.area[0]))
            proportion = math.exp(low + form * (high - low))
            wide, tall = round(math.sqrt(area * proportion)), round(math.sqrt(area / proportion))
            if 0 < wide <= columns and 0 < tall <= rows:
                return int(down * (rows - tall + 1)), int(right * (columns - wide + 1)), tall, wide
        tall = min(rows, round(columns / self.proportions[0]))
        wide = min(columns, round(rows * self.proportions[1]))
        return (rows - tall) // 2, (columns - wide) // 2, tall, wide

    def shape(self, shape: transforms.Shape) -> transforms.Shape:
        for name, (low, high) in (('area', self.area), ('proportions', self.proportions)):
            if not 0 < low <= high:
                raise config.InputError(f'RandomResizedCrop({name}=({low}, {high})): give the least and then the most.')
        return (*self.size, *shape[2:])


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColorNoise(transforms.Transform):
    """Adds a random colour to all pixels, along the principal components of the colours of the training images.

    The k-th component is added N(0, deviation^2) times its variance, one number for the whole image; float32.

    Source: Krizhevsky et al. (2012), section 4.1.
    """

    random: ClassVar[bool] = True
    deviation: config.Rate = 0.1
    divisor: config.PositiveFloat = 255.0  # What a pixel is divided by before its colours are those of the components.
    variances: tuple[config.Rate, ...] = VARIANCES
    components: tuple[tuple[float, ...], ...] = COMPONENTS

    def __call__(self, value: np.ndarray, key: np.ndarray) -> np.ndarray:
        drawn = counter_rng.normal(key, np.arange(len(self.variances)))
        color = (self.deviation * drawn * np.array(self.variances)) @ np.array(self.components)
        # Rounded to float32, whatever the last bits of a machine's logarithm and cosine are.
        return value.astype(np.float32) + (self.divisor * color).astype(np.float32)

    def shape(self, shape: transforms.Shape) -> transforms.Shape:
        channels = {len(each) for each in self.components}
        if channels != {shape[-1]} or len(self.components) != len(self.variances):
            raise config.InputError(
                f'ColorNoise has {len(self.variances)} variances and {len(self.components)} components of '
                f'{sorted(channels)} channels, but the images have {shape[-1]}; give as many of each.'
            )
        return shape
