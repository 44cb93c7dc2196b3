"""A share of the data that is held out: which documents, rows or images are for training and which for validation."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Annotated

import annotated_types
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches

Share = Annotated[float, annotated_types.Gt(0), annotated_types.Lt(1)]
Names = Sequence[str] | range  # Of the members of a data set: paths of files, or numbers of rows.


class Order:
    """Interface of the configs that order the members of a data set; the last ones are held out."""

    def ranked(self, names: Names) -> np.ndarray:
        """[n] int64: the members in this order."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shuffled(Order):
    """In the order of a hash of each member's name, such as the path of a file in its folder or the number of a row.

    The same on every machine and wherever the folder is.
    """

    seed: config.NonNegative = 0

    def ranked(self, names: Names) -> np.ndarray:
        if isinstance(names, range):
            keys = batches.mix(np.arange(len(names), dtype=np.uint64) ^ batches.mix(np.array([self.seed], np.uint64)))
        else:
            digests = [hashlib.sha256(f'{self.seed} {name}'.encode()).digest() for name in names]
            keys = np.array([int.from_bytes(digest[:8], 'big') for digest in digests], np.uint64)
        return np.argsort(keys, kind='stable')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sequential(Order):
    """In the order of the data set, such as rows sorted by time; the last ones are held out."""

    def ranked(self, names: Names) -> np.ndarray:
        return np.arange(len(names))


class Subset:
    """Interface of the configs that choose members of a data set."""

    def select(self, names: Names, what: str) -> np.ndarray:
        """[m] int64: the numbers of the chosen members, ascending.

        Args:
          what: where they come from, for messages.

        Raises:
          InputError: there are too few to hold any out.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(Subset):
    """What is left when a share is held out. With equal fields, Train and Validation have each member once."""

    held_out: Share
    order: Order = Shuffled()

    def select(self, names: Names, what: str) -> np.ndarray:
        return np.sort(self.order.ranked(names)[: -count_of(len(names), self.held_out, what)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation(Subset):
    """The share that is held out, rounded to whole members, but at least one."""

    held_out: Share
    order: Order = Shuffled()

    def select(self, names: Names, what: str) -> np.ndarray:
        return np.sort(self.order.ranked(names)[-count_of(len(names), self.held_out, what) :])


def count_of(members: int, share: float, what: str) -> int:
    """How many of the members are held out."""
    if members < 2:
        raise config.InputError(
            f'{what} cannot be divided into training and validation data: it has {members or "no"} member. '
            'Divide it into smaller ones, or name other data for validation.'
        )
    return min(max(round(members * share), 1), members - 1)


def both(*, held_out: Share, order: Order = Shuffled()) -> tuple[Train, Validation]:
    """The two parts of a data set: `train, validation = splits.both(held_out=0.1)`."""
    return Train(held_out=held_out, order=order), Validation(held_out=held_out, order=order)
