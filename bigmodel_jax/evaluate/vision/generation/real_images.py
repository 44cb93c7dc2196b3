"""Real images as bytes, and a normal distribution of each class fitted to them: what a generator should beat."""

import dataclasses
import hashlib
from typing import NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches, counter_rng
from bigmodel_jax.data.vision import images, transforms

ROWS = 256  # Images that are read, or made, at a time.
ROUNDING = 1e-3  # How far off a pixel of [0, 1] may be that was normalised in float32 and is undone.


class LabelledImages(NamedTuple):
    """Images of bytes and their classes, in memory."""

    pixels_NYXZ: np.ndarray  # uint8
    labels_N: np.ndarray

    @property
    def digest(self) -> str:
        """The beginning of a hash of both."""
        found = hashlib.sha256(repr(self.pixels_NYXZ.shape).encode())
        found.update(self.pixels_NYXZ.tobytes())
        found.update(self.labels_N.astype('<i8').tobytes())
        return found.hexdigest()[:12]


class PlainImages:
    """Images of data as they are, without what training changes: random transforms and mixing.

    Args:
      name: what they are, for messages.

    Raises:
      InputError: they do not have the declared shape without it.
    """

    def __init__(self, data: images.Images, name: str):
        kept = tuple(each for each in data.transforms if not each.random)
        self._name, self._made_by = name, kept
        try:
            self._examples = images.ImageExamples(dataclasses.replace(data, transforms=kept, mixing=None, views=None))
        except config.InputError as error:
            raise config.InputError(f'{name}, read without its random transforms: {error}') from error
        self.fingerprint = self._examples.fingerprint

    def __len__(self) -> int:
        return len(self._examples)

    def read(self) -> LabelledImages:
        """All of them, as bytes.

        Raises:
          InputError: their pixels are not between 0 and 1.
        """
        pixels, labels = [], []
        for start in range(0, len(self), ROWS):
            indices = np.arange(start, min(start + ROWS, len(self)))
            batch = self._examples.gather(indices, np.zeros_like(indices), 0)
            pixels.append(as_bytes(self._shares(batch['image'])))
            labels.append(batch['labels'])
        return LabelledImages(np.concatenate(pixels), np.concatenate(labels).astype(np.int64))

    def _shares(self, image_NYXZ: np.ndarray) -> np.ndarray:
        """The pixels of images of a batch, in [0, 1]."""
        shares = transforms.shares(self._made_by, image_NYXZ)
        low, high = float(shares.min()), float(shares.max())
        if low < -ROUNDING or high > 1 + ROUNDING:
            raise config.InputError(
                f'{self._name} holds pixels from {low:.3g} to {high:.3g}, without the mean and deviation of a last '
                'Normalize, and nothing says what is black and what white. To have bytes between -1 and 1, use '
                'Normalize(mean=(0.5,), deviation=(0.5,)).'
            )
        return shares


def need_images(data: batches.Data, name: str) -> images.Images:
    """`data`, if it is Images.

    Raises:
      InputError: it is not.
    """
    if not isinstance(data, images.Images):
        raise config.InputError(f'{name} should be Images, of pixels and classes; it is {type(data).__name__}.')
    return data


def as_bytes(shares: np.ndarray) -> np.ndarray:
    """uint8 of pixels in [0, 1], as an image file would hold them."""
    return (np.clip(shares, 0, 1) * 255).round().astype(np.uint8)


def spread(count: int, total: int) -> np.ndarray:
    """[count] int64 below `total`, spaced evenly; some several times where there are more."""
    return np.arange(count) * total // count


def of_normal_distributions(real: LabelledImages, labels_N: np.ndarray, *, seed: int) -> np.ndarray:
    """Images of these classes as bytes, each drawn from the normal distribution of its class's pixels.

    A sample is the mean of the class plus a sum of its centred images with independent normal weights, so that it has
    exactly their covariance, also where there are fewer images than pixels.

    Args:
      labels_N: a class without real images gets the distribution of all.
    """
    shape = real.pixels_NYXZ.shape[1:]
    made = np.empty((len(labels_N), *shape), np.uint8)
    for label in np.unique(labels_N):
        chosen = np.flatnonzero(labels_N == label)
        of_class = real.labels_N == label
        pixels = real.pixels_NYXZ[of_class if of_class.sum() > 1 else slice(None)]
        x_MP = pixels.reshape(len(pixels), -1).astype(np.float32) / np.float32(255)
        mean_P = x_MP.mean(axis=0, dtype=np.float64)
        x_MP -= mean_P.astype(np.float32)
        for start in range(0, len(chosen), ROWS):
            rows = chosen[start : start + ROWS]
            weights_NM = counter_rng.normal(seed, rows[:, None], np.arange(len(x_MP))).astype(np.float32)
            drawn_NP = mean_P + weights_NM @ x_MP / np.sqrt(max(len(x_MP) - 1, 1))
            made[rows] = as_bytes(drawn_NP).reshape(-1, *shape)
    return made
