"""Rows of a table, such as a CSV file, for classification and regression."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches, labels, records
from bigmodel_jax.data.tabular import fitting

FLOATS = np.dtype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableData(batches.Data):
    """Interface of the tables: columns of numbers and of categories as a vector; all rows are held in memory.

    A batch holds, where n is `batch` and I is the number of inputs, what is to be predicted, and
      features: [n, I] float32: the numbers, then with Imputed() a flag of each, then the categories.

    Categories and missing values need `fitted_on`.
    """

    source: records.Source  # Such as Csv(path='houses.csv').
    columns: tuple[str, ...]  # Of numbers.
    batch: config.Positive
    # The training rows: from each column of numbers their mean is subtracted, and the rest divided by their standard
    # deviation; they also say which categories are known. None: numbers stay as they are.
    fitted_on: records.Source | fitting.SavedFit | None = None
    categories: tuple[fitting.Category, ...] = ()
    missing: fitting.MissingValues = fitting.Refused()

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns that are to be predicted."""
        raise NotImplementedError

    @property
    def target_fields(self) -> Mapping[str, batches.Field]:
        """What a batch holds of them."""
        raise NotImplementedError

    def target_arrays(self, cells: fitting.Cells, found: records.Records) -> dict[str, np.ndarray]:
        """The same of all rows.

        Raises:
          InputError: a cell is not what it should be.
        """
        raise NotImplementedError

    def check_training(self, arrays: Mapping[str, np.ndarray], name: str) -> None:
        """Raises InputError if training rows with these targets, called `name`, teach nothing."""

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        return {'features': batches.Field((self.seen.inputs,), FLOATS, ('features',)), **self.target_fields}

    @property
    def seen(self) -> fitting.Columns:
        """The columns that the model sees."""
        return fitting.Columns(numbers=self.columns, categories=self.categories, missing=self.missing)

    def build(self, seed: int) -> batches.Batches:
        check(self)
        return batches.Batches(TableExamples(self), rows=self.batch, seed=seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features(TableData):
    """A table with a label.

    A batch also holds `labels`, [n] int32, or with one class `values`, [n] float32: numbers to be predicted. A class of
    which the training rows have none is refused.
    """

    label: str
    classes: config.Positive = 2  # Labels are 0 .. classes - 1; 1: the labels are numbers.
    labels: tuple[str, ...] = ()  # What labels that are text are called, in the order of their numbers.

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.label,)

    @property
    def target_fields(self) -> Mapping[str, batches.Field]:
        if self.classes == 1:
            return {'values': batches.Field((), FLOATS, ())}
        return {'labels': batches.Field((), np.dtype(np.int32), (), self.classes)}

    def target_arrays(self, cells: fitting.Cells, found: records.Records) -> dict[str, np.ndarray]:
        names, (written,) = labels.names(self.labels, self.classes), cells.targets
        if self.classes == 1:
            return {'values': labels.numbers(written, found.where)}
        return {'labels': labels.ids(written, found.where, classes=self.classes, names=names)}

    def check_training(self, arrays: Mapping[str, np.ndarray], name: str) -> None:
        if self.classes == 1:
            return
        empty = np.flatnonzero(np.bincount(arrays['labels'], minlength=self.classes) == 0)
        if empty.size:
            called = f' ({self.labels[empty[0]]!r})' if self.labels else ''
            raise config.InputError(
                f'{name}: none of the {len(arrays["labels"])} training rows is of class {empty[0]}{called}, which so '
                'cannot be learnt. Correct data.classes, or divide the rows otherwise.'
            )


def check(data: TableData) -> None:
    """Raises InputError if columns are named twice, none is, or nothing says what the categories are."""
    names = [*data.columns, *(each.column for each in data.categories)]
    if not names:
        raise config.InputError('data.columns is empty; name the columns that the model should see.')
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise config.InputError(f'The column {twice[0]!r} is named twice in data.columns and data.categories.')
    told = [name for name in data.targets if name in names]
    if told:
        raise config.InputError(f'The column {told[0]!r} is to be predicted; leave it out of what the model sees.')
    if data.fitted_on is None and (data.categories or data.missing.flags):
        raise config.InputError(
            'data.categories and data.missing=Imputed() need data.fitted_on, the source of the training rows.'
        )


class TableExamples(batches.ArrayExamples):
    """The rows of a table, in memory.

    Attributes:
      fitted: what was learnt of the training rows; None if nothing was.
    """

    def __init__(self, data: TableData):
        self._found = found = data.source.open()
        cells = fitting.read(found, data.seen, targets=data.targets)
        columns = [*data.columns, *(each.column for each in data.categories), *data.targets]
        fingerprint: dict[str, Any] = {'records': dict(found.fingerprint), 'columns': columns}
        if isinstance(data, Features):
            fingerprint['labels'] = list(data.labels)
        arrays = data.target_arrays(cells, found)
        self.fitted = fitted(data)
        if self.fitted is None:
            features = cells.numbers.astype(np.float32)
        else:
            features, fingerprint['fitted'] = self.fitted.encode(cells), self.fitted.sha256
        super().__init__({'features': features, **arrays}, data.fields, fingerprint=fingerprint)

    def column(self, name: str) -> list[str]:
        """The cells of any column of the table, as they are written.

        Raises:
          InputError: there is no such column.
        """
        return records.columns(self._found, (), name)[1]


def fitted(data: TableData) -> fitting.FittedValues | None:
    """The values by which the rows of `data` are encoded.

    Raises:
      InputError: they cannot be fitted, are of other columns, or the training rows teach nothing.
    """
    if data.fitted_on is None:
        return None
    if isinstance(data.fitted_on, fitting.SavedFit):
        found = data.fitted_on.read()
        if found.columns != data.seen:
            difference = '; '.join(map(str, config.difference(found.columns, data.seen)))
            raise config.InputError(f'{data.fitted_on.directory} was fitted for other columns: {difference}.')
        return found
    opened = data.fitted_on.open()
    cells = fitting.read(opened, data.seen, targets=data.targets)
    data.check_training(data.target_arrays(cells, opened), opened.name)
    return fitting.fit(cells, data.seen)


def with_fit(data: Any, saved: fitting.SavedFit, columns: fitting.Columns) -> Any:
    """A config in which every table of these columns that is fitted uses the saved values."""
    if isinstance(data, TableData):
        same = data.fitted_on is not None and data.seen == columns
        return dataclasses.replace(data, fitted_on=saved) if same else data
    return config.with_children(data, lambda each: with_fit(each, saved, columns))


# ---- subgroups ------------------------------------------------------------------------------------------------------

MOST = 8  # Values of a column that are subgroups of their own.


def subgroups(examples: batches.Examples, names: Sequence[str]) -> dict[str, np.ndarray]:
    """'column = value' -> [n] bool, which rows are of the subgroup; columns of many numbers are cut at their median.

    Raises:
      InputError: the data is no table, has no such column, or one has too many values to be subgroups.
    """
    if not names:
        return {}
    if not isinstance(examples, TableExamples):
        raise config.InputError(f'Subgroups by {", ".join(names)} need the rows of a table, such as tabular.Features.')
    found: dict[str, np.ndarray] = {}
    for name in names:
        cells = np.array(examples.column(name))
        values = sorted(set(cells.tolist()))
        if len(values) <= MOST:
            found |= {f'{name} = {value}': cells == value for value in values}
            continue
        try:
            numbers = cells.astype(np.float64)
        except ValueError as error:
            raise config.InputError(
                f'The column {name!r} has {len(values)} values, too many to be subgroups; use one of at most {MOST}, '
                'or of numbers.'
            ) from error
        middle = float(np.nanmedian(numbers))
        found |= {f'{name} <= {middle:.4g}': numbers <= middle, f'{name} > {middle:.4g}': numbers > middle}
    return found
