"""Rows of a table, such as a CSV file, for classification and regression."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches, labels, records
from bigmodel_jax.data.tabular import fitting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features(batches.Data):
    """Columns of numbers and of categories as a vector, and a label; all rows are held in memory.

    A batch holds, where n is `batch` and I is the number of inputs:
      features: [n, I] float32: the numbers, then with Imputed() a flag of each, then the categories.
      labels: [n] int32, or with one class `values`: [n] float32, numbers to be predicted.

    Categories and missing values need `fitted_on`. A class of which the training rows have none is refused.
    """

    source: records.Source  # Such as Csv(path='houses.csv').
    columns: tuple[str, ...]  # Of numbers.
    label: str
    batch: config.Positive
    classes: config.Positive = 2  # Labels are 0 .. classes - 1; 1: the labels are numbers.
    labels: tuple[str, ...] = ()  # What labels that are text are called, in the order of their numbers.
    # The training rows: from each column of numbers their mean is subtracted, and the rest divided by their standard
    # deviation; they also say which categories are known. None: numbers stay as they are.
    fitted_on: records.Source | fitting.SavedFit | None = None
    categories: tuple[fitting.Category, ...] = ()
    missing: fitting.MissingValues = fitting.Refused()

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        floats = np.dtype(np.float32)
        label = {'labels': batches.Field((), np.dtype(np.int32), (), self.classes)}
        return {
            'features': batches.Field((self.seen.inputs,), floats, ('features',)),
            **({'values': batches.Field((), floats, ())} if self.classes == 1 else label),
        }

    @property
    def seen(self) -> fitting.Columns:
        """The columns that the model sees."""
        return fitting.Columns(numbers=self.columns, categories=self.categories, missing=self.missing)

    def build(self, seed: int) -> batches.Batches:
        check(self)
        return batches.Batches(TableExamples(self), rows=self.batch, seed=seed)


def check(data: Features) -> None:
    """Raises InputError if columns are named twice, none is, or nothing says what the categories are."""
    names = [*data.columns, *(each.column for each in data.categories)]
    if not names:
        raise config.InputError('data.columns is empty; name the columns that the model should see.')
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise config.InputError(f'The column {twice[0]!r} is named twice in data.columns and data.categories.')
    if data.label in names:
        raise config.InputError(f'The column {data.label!r} is the label; leave it out of what the model sees.')
    if data.fitted_on is None and (data.categories or data.missing.flags):
        raise config.InputError(
            'data.categories and data.missing=Imputed() need data.fitted_on, the source of the training rows.'
        )


class TableExamples(batches.ArrayExamples):
    """The rows of a table, in memory.

    Attributes:
      fitted: what was learnt of the training rows; None if nothing was.
    """

    def __init__(self, data: Features):
        found, names = data.source.open(), labels.names(data.labels, data.classes)
        table = fitting.read(found, data.seen, label=data.label)
        columns = [*data.columns, *(each.column for each in data.categories), data.label]
        fingerprint = {'records': dict(found.fingerprint), 'columns': columns, 'labels': list(names)}
        self.fitted = fitted(data, names)
        if self.fitted is None:
            arrays = {'features': table.numbers.astype(np.float32)}
        else:
            arrays = {'features': self.fitted.encode(table)}
            fingerprint['fitted'] = self.fitted.sha256
        if data.classes == 1:
            arrays['values'] = labels.numbers(table.labels, found.where)
        else:
            arrays['labels'] = labels.ids(table.labels, found.where, classes=data.classes, names=names)
        super().__init__(arrays, data.fields, fingerprint=fingerprint)


def fitted(data: Features, names: tuple[str, ...]) -> fitting.FittedValues | None:
    """The values by which the rows of `data` are encoded.

    Raises:
      InputError: they cannot be fitted, are of other columns, or a class has no training row.
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
    table = fitting.read(opened, data.seen, label=data.label)
    if data.classes > 1:
        ids = labels.ids(table.labels, opened.where, classes=data.classes, names=names)
        empty = np.flatnonzero(np.bincount(ids, minlength=data.classes) == 0)
        if empty.size:
            name = f' ({names[empty[0]]!r})' if names else ''
            raise config.InputError(
                f'{opened.name}: none of the {len(ids)} training rows is of class {empty[0]}{name}, which so cannot be '
                'learnt. Correct data.classes, or divide the rows otherwise.'
            )
    return fitting.fit(table, data.seen)


def with_fit(data: object, saved: fitting.SavedFit, columns: fitting.Columns) -> object:
    """A config in which every Features of these columns that is fitted uses the saved values."""
    if isinstance(data, Features):
        same = data.fitted_on is not None and data.seen == columns
        return dataclasses.replace(data, fitted_on=saved) if same else data
    if isinstance(data, tuple):
        return tuple(with_fit(each, saved, columns) for each in data)
    if not config.is_config(data):
        return data
    old = {field.name: getattr(data, field.name) for field in dataclasses.fields(data) if field.init}  # type: ignore[arg-type]
    new = {name: with_fit(value, saved, columns) for name, value in old.items()}
    changed = {name: value for name, value in new.items() if value is not old[name] and value != old[name]}
    return dataclasses.replace(data, **changed) if changed else data  # type: ignore[type-var]
