"""RandAugment: a few operations of fourteen, drawn for each image, all with one magnitude. By Pillow."""

import dataclasses
import types
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import annotated_types
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import counter_rng, libraries, transforms

Level = Annotated[float, annotated_types.Ge(0), annotated_types.Le(10)]
Byte = Annotated[int, annotated_types.Ge(0), annotated_types.Le(255)]
Operation = Callable[['Drawn'], Any]  # To an image of Pillow.
OPERATION, SIGN = 0, 1  # Ends of the keys that operations are drawn with.


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What an operation is given."""

    image: Any  # Of Pillow.
    strength: float  # In [-1, 1]: the magnitude as a share of the greatest one, and a sign that is drawn.
    fill: tuple[int, ...]  # The color, of each channel, of pixels that lie outside of the image.

    def affine(self, *numbers: float) -> Any:
        """The image at (a x + b y + c, d x + e y + f) for each pixel (x, y), by the nearest pixel."""
        pillow = _pillow()
        affine, nearest = pillow.Transform.AFFINE, pillow.Resampling.NEAREST
        return self.image.transform(self.image.size, affine, numbers, nearest, fillcolor=self.fill)

    def enhanced(self, enhancer: Any) -> Any:
        """Blended with, or away from, what a class of PIL.ImageEnhance makes of the image."""
        return enhancer(self.image).enhance(1 + 0.9 * self.strength)


def _pillow(module: str = 'Image') -> types.ModuleType:
    return libraries.load(f'PIL.{module}', 'RandAugment is made by Pillow', package='pillow', extra='vision')


# ---- the operations -------------------------------------------------------------------------------------------------

DEGREES, SHEAR, SHIFT, BITS = 30.0, 0.3, 150 / 331, 4


def identity(of: Drawn) -> Any:
    return of.image


def autocontrast(of: Drawn) -> Any:
    return _pillow('ImageOps').autocontrast(of.image)


def equalize(of: Drawn) -> Any:
    return _pillow('ImageOps').equalize(of.image)


def rotate(of: Drawn) -> Any:
    return of.image.rotate(DEGREES * of.strength, _pillow().Resampling.NEAREST, fillcolor=of.fill)


def solarize(of: Drawn) -> Any:
    return _pillow('ImageOps').solarize(of.image, round(256 * (1 - abs(of.strength))))


def posterize(of: Drawn) -> Any:
    return _pillow('ImageOps').posterize(of.image, 8 - round(BITS * abs(of.strength)))


def color(of: Drawn) -> Any:
    return of.enhanced(_pillow('ImageEnhance').Color)


def contrast(of: Drawn) -> Any:
    return of.enhanced(_pillow('ImageEnhance').Contrast)


def brightness(of: Drawn) -> Any:
    return of.enhanced(_pillow('ImageEnhance').Brightness)


def sharpness(of: Drawn) -> Any:
    return of.enhanced(_pillow('ImageEnhance').Sharpness)


def shear_x(of: Drawn) -> Any:
    return of.affine(1, SHEAR * of.strength, 0, 0, 1, 0)


def shear_y(of: Drawn) -> Any:
    return of.affine(1, 0, 0, SHEAR * of.strength, 1, 0)


def translate_x(of: Drawn) -> Any:
    return of.affine(1, 0, round(SHIFT * of.image.width * of.strength), 0, 1, 0)


def translate_y(of: Drawn) -> Any:
    return of.affine(1, 0, 0, 0, 1, round(SHIFT * of.image.height * of.strength))


# In the order of the paper.
OPERATIONS: tuple[Operation, ...] = (
    identity,
    autocontrast,
    equalize,
    rotate,
    solarize,
    color,
    posterize,
    contrast,
    brightness,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)


# ---- the transform --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandAugment(transforms.Transform):
    """`count` operations one after the other, each drawn from the 14 of the paper; images are bytes.

    The greatest strengths, at magnitude 10, are those of AutoAugment; at magnitude 0 an operation with a strength
    leaves the image as it is:

      identity, autocontrast, equalize         no strength
      rotate                                   30 degrees around the middle
      shear_x, shear_y                         0.3 columns for a row, or rows for a column
      translate_x, translate_y                 150 / 331 of the width, or of the height
      color, contrast, brightness, sharpness   PIL.ImageEnhance with 0.1 or 1.9; 1 leaves the image
      posterize                                4 bits of each byte are kept
      solarize                                 every byte is inverted; with less, those from 256 (1 - strength) up

    What is turned, sheared, moved or enhanced is so in one of two directions, each half of the time. The first code of
    the authors has posterize and solarize the other way round, weakest at 10, and enhances in one direction.

    Source: Cubuk et al. (2019), arXiv:1909.13719, section 3 and figure 2; the strengths: Cubuk et al. (2018),
    arXiv:1805.09501, table 6.
    """

    random: ClassVar[bool] = True
    count: config.Positive = 2  # N
    magnitude: Level = 9.0  # M, of 10.
    fill: Byte = 128  # Of pixels that come from outside of the image, in each channel.

    def __call__(self, value: np.ndarray, key: np.ndarray) -> np.ndarray:
        if value.dtype != np.uint8:
            raise config.InputError(
                f'RandAugment changes bytes, but is given {value.dtype}; put it before Normalize and ColorNoise.'
            )
        channels = value.shape[-1]
        image = _pillow().fromarray(np.ascontiguousarray(value[..., 0] if channels == 1 else value))
        chosen = counter_rng.integers(len(OPERATIONS), key, np.arange(self.count), OPERATION).tolist()
        signs = np.where(counter_rng.uniform(key, np.arange(self.count), SIGN) < 0.5, -1, 1).tolist()
        for number, sign in zip(chosen, signs):
            drawn = Drawn(image, sign * self.magnitude / 10, (self.fill,) * channels)
            image = OPERATIONS[number](drawn)
        return np.asarray(image).reshape(value.shape)

    def shape(self, shape: transforms.Shape) -> transforms.Shape:
        if shape[-1] not in (1, 3):
            raise config.InputError(
                f'RandAugment changes images of 1 or 3 channels, but these have {shape[-1]}; leave it out.'
            )
        return shape
