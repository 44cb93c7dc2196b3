"""Transforms: what is done to each record on its way into a batch, as a tuple of small configs.

`transforms=(RandomCrop(padding=4), RandomFlip(), Normalize())` are applied in this order. Each is a pure function of
the record and of a key that is made from (seed, epoch, example, position in the tuple). So an example is changed in the
same way wherever and whenever it is read, by whichever worker, and in another way in the next epoch.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from bigmodel_jax.data import counter_rng
from bigmodel_jax.data.records import Record

Shape = tuple[int, ...]


class Transform:
    """Interface of the configs that change a record."""

    random: ClassVar[bool] = False  # Whether the key matters.
    reads: ClassVar[str] = 'image'  # The field that it changes.

    def __call__(self, value: Any, key: np.ndarray) -> Any:
        """The field's new value; the old one is left as it is.

        Args:
          value: of the field that it `reads`.
          key: [] uint64: random numbers are functions of it, as in counter_rng.uniform(key, 0).
        """
        raise NotImplementedError

    def shape(self, shape: Shape) -> Shape:
        """The shape of its result for an array of that shape.

        Raises:
          InputError: it cannot be applied to such an array.
        """
        return shape


def apply(transforms: Sequence[Transform], record: Record, *, seed: int, epoch: int, example: int) -> Record:
    """The record after all transforms."""
    changed = dict(record)
    for position, transform in enumerate(transforms):
        key = counter_rng.bits(seed, epoch, example, position)
        changed[transform.reads] = transform(changed[transform.reads], key)
    return changed


def shape(transforms: Sequence[Transform], shape: Shape) -> Shape:
    """The shape of the result of all transforms for an array of that shape."""
    for transform in transforms:
        shape = transform.shape(shape)
    return shape
