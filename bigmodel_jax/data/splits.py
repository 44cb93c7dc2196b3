"""A share of the data that is held out: which documents, rows or images are for training and which for validation."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Annotated, Any

import annotated_types
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches

Share = Annotated[float, annotated_types.Gt(0), annotated_types.Lt(1)]
Bound = Annotated[float, annotated_types.Ge(0), annotated_types.Le(1)]
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

    def select_records(self, found: Any) -> np.ndarray:
        """As select(), of data.records.Records, which it may read."""
        return self.select(range(len(found)), found.name)


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups(Subset):
    """The rows whose group, such as a patient, falls into a part of the range from 0 to 1 by a hash of its name.

    All rows of a group are thus in one part, and stay there when rows or groups are added. The parts of by_group() have
    each row once. Shares are of groups, in expectation.
    """

    column: str  # What the group of a row is called.
    start: Bound
    stop: Bound
    seed: config.NonNegative = 0

    def __post_init__(self) -> None:
        if not self.start < self.stop:
            raise config.InputError(f'Groups: start={self.start} should be less than stop={self.stop}.')

    def select(self, names: Names, what: str) -> np.ndarray:
        raise config.InputError(f'{what} cannot be divided by groups, since its members have no columns.')

    def select_records(self, found: Any) -> np.ndarray:
        chosen, known = [], {}
        for first, chunk in found.chunks():
            for number, record in enumerate(chunk, first):
                group = _group(record, self.column, found, number)
                if group not in known:
                    known[group] = self.start <= _fraction(f'{self.seed} {group}') < self.stop
                if known[group]:
                    chosen.append(number)
        if not chosen:
            raise config.InputError(
                f'{found.name}: none of the {len(known)} groups in {self.column!r} falls into the part from '
                f'{self.start} to {self.stop}; use larger shares, or another seed.'
            )
        return np.array(chosen, np.int64)


def _group(record: Any, column: str, found: Any, number: int) -> str:
    value = record.get(column)
    if value is None or not str(value).strip():
        problem = 'is empty' if column in record else f'is missing.{config.nearest(column, map(str, record))}'
        raise config.InputError(
            f'{found.where(number)}: the group {column!r} {problem.rstrip(".")}. Without it the row might cross from '
            'one part to another.'
        )
    return str(value).strip()


def _fraction(name: str) -> float:
    """A number in [0, 1) by the hash of a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], 'big') / 2**56


def by_group(column: str, *, shares: tuple[float, ...], seed: int = 0) -> tuple[Groups, ...]:
    """Parts of a table that no group crosses: `train, test = splits.by_group('patient', shares=(0.8, 0.2))`.

    Raises:
      InputError: the shares do not add up to 1, or one is none.
    """
    if not np.isclose(sum(shares), 1.0, rtol=0, atol=1e-9) or min(shares) <= 0:
        raise config.InputError(f'shares={shares} should be positive and add up to 1.')
    ends = [round(float(end), 12) for end in np.cumsum(shares)]
    pairs = zip([0.0, *ends], [*ends[:-1], 1.0])
    return tuple(Groups(column=column, start=start, stop=stop, seed=seed) for start, stop in pairs)


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
