"""Examples mixed with others: mixup and CutMix, each a pure function of (seed, epoch, example).

An example is mixed with a partner that is drawn from the whole data set, whatever the batch, the host or the worker;
the partner is augmented as it is where it is read for itself in the same epoch.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import counter_rng

# Apart from the positions of transforms, with which the keys of augmentations end.
PARTNER, SHARE, PLACE = 2**32, 2**32 + 1, 2**32 + 2


class Mixed(NamedTuple):
    """An example and its partner as one image."""

    image: np.ndarray  # [Y, X, Z] float32
    share: float  # How much of it is the partner's.


class Mixing:
    """Interface of the configs that mix two images."""

    def partners(self, examples: np.ndarray, epochs: np.ndarray, seed: int, *, count: int) -> np.ndarray:
        """[n] int64: the partner of each of the `examples` [n], among `count`."""
        return counter_rng.integers(count, seed, epochs, examples, PARTNER)

    def __call__(self, image: np.ndarray, partner: np.ndarray, key: np.ndarray) -> Mixed:
        """The two mixed; `key` is that of the example."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixup(Mixing):
    """The weighted mean of two images. Source: Zhang et al. (2017), arXiv:1710.09412, section 2."""

    alpha: config.PositiveFloat = 0.2  # The weight is drawn from Beta(alpha, alpha).

    def __call__(self, image: np.ndarray, partner: np.ndarray, key: np.ndarray) -> Mixed:
        share = np.float32(beta(self.alpha, key))
        return Mixed(image + share * (partner - image), float(share))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutMix(Mixing):
    """A rectangle of one image in the other. Source: Yun et al. (2019), arXiv:1905.04899, section 3.1."""

    alpha: config.PositiveFloat = 1.0  # The area is drawn from Beta(alpha, alpha).

    def __call__(self, image: np.ndarray, partner: np.ndarray, key: np.ndarray) -> Mixed:
        rows, columns = image.shape[:2]
        side = math.sqrt(np.float32(beta(self.alpha, key)))
        down, right = counter_rng.uniform(key, PLACE, np.arange(2)).tolist()
        top, bottom = _within(down * rows, side * rows, rows)
        left, end = _within(right * columns, side * columns, columns)
        made = image.copy()
        made[top:bottom, left:end] = partner[top:bottom, left:end]
        return Mixed(made, (bottom - top) * (end - left) / (rows * columns))


def _within(center: float, length: float, size: int) -> tuple[int, int]:
    """The first and the last but one pixel of a piece of that length, cut at the edges of the image."""
    return max(round(center - length / 2), 0), min(round(center + length / 2), size)


def beta(alpha: float, key: np.ndarray) -> float:
    """A number drawn from Beta(alpha, alpha), by the inverse of its distribution function."""
    from scipy import special  # Takes half a second to import.

    return float(special.betaincinv(alpha, alpha, counter_rng.uniform(key, SHARE)))
