"""What is learnt from the training rows of a table before any model is: means, deviations and the known categories.

The values are stored with the run, as fitted/values.json, and are what evaluates and resumes it, whatever has become of
the training rows since then.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import annotated_types
import numpy as np
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.data import records

FOLDER, FILE = 'fitted', 'values.json'  # Of a work directory.


# ---- what a table holds -----------------------------------------------------------------------------------------


class MissingValues:
    """Interface: what becomes of a cell without a value."""

    flags: bool = False  # Whether each column of numbers gets a second one that is 1 where its value is missing.

    def is_missing(self, value: Any) -> bool:
        """Whether a cell stands for no value, which is then filled in."""
        return False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refused(MissingValues):
    """A cell without a value is an error, which names it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imputed(MissingValues):
    """A number that is missing becomes the mean of its column in the training rows, and is flagged in a column of its
    own (Little and Rubin, 2002, section 4.2); a category that is missing becomes the unknown one."""

    flags = True

    spellings: tuple[str, ...] = ('', 'NA', 'N/A', 'NaN', 'nan', 'null', 'None', '?')  # Of cells that are text.

    def is_missing(self, value: Any) -> bool:
        if isinstance(value, str):
            return value.strip() in self.spellings
        return value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Category:
    """A column of text, or of numbers that only name something: as many inputs of 0 or 1 as `size`.

    The first is for values that are unknown or missing; the others are for the most frequent ones of the training rows.
    """

    column: str
    size: Annotated[config.Positive, annotated_types.Ge(2)]  # With the unknown one.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns that a model sees, and how."""

    numbers: tuple[str, ...]
    categories: tuple[Category, ...]
    missing: MissingValues

    @property
    def inputs(self) -> int:
        """How many numbers a row becomes."""
        return len(self.numbers) * (2 if self.missing.flags else 1) + sum(each.size for each in self.categories)


# ---- reading ----------------------------------------------------------------------------------------------------


class Cells(NamedTuple):
    """The cells of some columns, and of those that are to be predicted, as they are written."""

    numbers: np.ndarray  # [n, I] float64; nan where missing.
    names: list[list[str | None]]  # Of each category, of each row; None where missing.
    targets: list[list[str]]  # Of each column that is predicted, of each row.


def read(found: records.Records, columns: Columns, *, targets: Sequence[str] = ()) -> Cells:
    """The cells of all rows.

    Args:
      targets: the columns that are to be predicted.

    Raises:
      InputError: a column is missing; a cell is no number, or has no value and `columns.missing` refuses that.
    """
    numbers = np.zeros((len(found), len(columns.numbers)))
    names: list[list[str | None]] = [[] for _ in columns.categories]
    written: list[list[str]] = [[] for _ in targets]
    for first, chunk in found.chunks():
        for i, record in enumerate(chunk, first):
            where = functools.partial(found.where, i)
            numbers[i] = [_number(record, column, columns.missing, where) for column in columns.numbers]
            for each, category in zip(names, columns.categories):
                each.append(_name(record, category.column, columns.missing, where))
            for target, column in zip(written, targets):
                target.append(records.label(record, column, where))
    return Cells(numbers, names, written)


def _number(record: records.Record, column: str, missing: MissingValues, where: records.Where) -> float:
    value = records.value(record, column, where)
    if missing.is_missing(value):
        return np.nan
    try:
        number = np.nan if isinstance(value, str) and '_' in value else float(value)
    except (TypeError, ValueError):
        number = np.nan
    if np.isfinite(number):
        return number
    message = f'{where()}: {column!r} is {value!r}, which is not a finite number. '
    if value is None or str(value).strip().lower() in ('', 'nan', 'na', 'n/a', 'null', 'none', '?'):
        raise config.InputError(f'{message}Fill it in, or say data.missing=Imputed() to have it filled and flagged.')
    raise config.InputError(
        f'{message}Mend the cell; or, if the column is of text, name it in data.categories and not in data.columns.'
    )


def _name(record: records.Record, column: str, missing: MissingValues, where: records.Where) -> str | None:
    value = records.value(record, column, where)
    if missing.is_missing(value):
        return None
    if value is None or not str(value).strip():
        raise config.InputError(
            f'{where()}: {column!r} has no value. Fill it in, or say data.missing=Imputed(), with which it is unknown.'
        )
    return records.label(record, column, where).strip()


# ---- fitted values ----------------------------------------------------------------------------------------------


class FittedValues(NamedTuple):
    """What was learnt of the training rows.

    Attributes:
      means, deviations: of each column of numbers, [I] float64.
      known: of each category its values that are known, the most frequent one first.
    """

    columns: Columns
    means: np.ndarray
    deviations: np.ndarray
    known: tuple[tuple[str, ...], ...]

    def encode(self, table: Cells) -> np.ndarray:
        """What a model reads, [n, inputs] float32: standardised numbers, flags of missing ones, categories."""
        missing = np.isnan(table.numbers)
        numbers = (np.where(missing, self.means, table.numbers) - self.means) / self.deviations
        parts = [numbers, *([missing] if self.columns.missing.flags else [])]
        for each, known, names in zip(self.columns.categories, self.known, table.names):
            places = {name: place for place, name in enumerate(known, 1)}
            chosen = [0 if name is None else places.get(name, 0) for name in names]
            parts.append(np.eye(each.size)[chosen])
        return np.concatenate(parts, axis=1).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """It as JSON, exact to the bit."""
        return {
            'columns': config.to_json(self.columns),
            'means': self.means.tolist(),
            'deviations': self.deviations.tolist(),
            'known': [list(each) for each in self.known],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> 'FittedValues':
        """The inverse of to_json()."""
        means, deviations = (np.array(stored[name], np.float64) for name in ('means', 'deviations'))
        known = tuple(map(tuple, stored['known']))
        return cls(config.from_json(stored['columns']), means, deviations, known)

    @property
    def content(self) -> bytes:
        """The file that a run stores."""
        return json.dumps(self.to_json(), indent=1).encode()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def fit(table: Cells, columns: Columns) -> FittedValues:
    """The values of the training rows.

    Raises:
      InputError: a column of numbers is constant, or holds no value.
    """
    numbers, missing = table.numbers, np.isnan(table.numbers)
    for place, column in enumerate(columns.numbers):
        if missing[:, place].all():
            raise config.InputError(f'The column {column!r} has no value in any training row; leave it out.')
    mean, std = (np.nanmean, np.nanstd) if missing.any() else (np.mean, np.std)
    means, deviations = mean(numbers, axis=0), std(numbers, axis=0)
    # A constant column's deviation is the rounding of its mean.
    constant = deviations <= 1e-12 * np.abs(means)
    if constant.any():
        column = columns.numbers[int(np.argmax(constant))]
        raise config.InputError(f'The column {column!r} has one value in all training rows; leave it out.')
    known = tuple(_frequent(names, each.size - 1) for each, names in zip(columns.categories, table.names))
    return FittedValues(columns, means, deviations, known)


def _frequent(names: Sequence[str | None], most: int) -> tuple[str, ...]:
    """The most frequent names; of equally frequent ones the first of the alphabet."""
    counts: dict[str, int] = {}
    for name in names:
        if name is not None:
            counts[name] = counts.get(name, 0) + 1
    return tuple(sorted(counts, key=lambda name: (-counts[name], name))[:most])


# ---- of a run ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedFit:
    """The fitted values of a run: `SavedFit(directory='runs/a/fitted')` encodes other rows as those of the run."""

    directory: str

    def read(self) -> FittedValues:
        """The values.

        Raises:
          InputError: they are not there, or damaged.
        """
        path = epath.Path(self.directory).expanduser() / FILE
        try:
            return FittedValues.from_json(json.loads(path.read_text()))
        except FileNotFoundError as error:
            raise config.InputError(f'{path} does not exist; no values of a table were fitted there.') from error
        except (ValueError, KeyError, TypeError, config.InputError) as error:
            raise config.InputError(f'{path} is damaged: {error}. Restore the file, or fit again.') from error
