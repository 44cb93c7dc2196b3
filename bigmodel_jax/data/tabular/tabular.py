"""Rows of numbers, such as the columns of a CSV file, for classification and regression."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches, labels, records


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features(batches.Data):
    """Numeric columns as a vector, and a label; all rows are held in memory.

    A batch holds, where n is `batch` and I is the number of columns:
      features: [n, I] float32.
      labels: [n] int32, or with one class `values`: [n] float32, numbers to be predicted.
    """

    source: records.Source  # Such as Csv(path='houses.csv').
    columns: tuple[str, ...]
    label: str
    batch: config.Positive
    classes: config.Positive = 2  # Labels are 0 .. classes - 1; 1: the labels are numbers.
    labels: tuple[str, ...] = ()  # What labels that are text are called, in the order of their numbers.
    # The training data: from each column its mean there is subtracted, and the rest divided by its standard deviation.
    standardized_by: records.Source | None = None

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        floats = np.dtype(np.float32)
        label = {'labels': batches.Field((), np.dtype(np.int32), (), self.classes)}
        return {
            'features': batches.Field((len(self.columns),), floats, ('features',)),
            **({'values': batches.Field((), floats, ())} if self.classes == 1 else label),
        }

    def build(self, seed: int) -> batches.Batches:
        if not self.columns:
            raise config.InputError('data.columns is empty; name the columns that the model should see.')
        return batches.Batches(_examples(self), rows=self.batch, seed=seed)


def _examples(data: Features) -> batches.ArrayExamples:
    found, names = data.source.open(), labels.names(data.labels, data.classes)
    features, written = matrix(found, data.columns, label=data.label)
    fingerprint = {'records': dict(found.fingerprint), 'columns': [*data.columns, data.label], 'labels': list(names)}
    if data.standardized_by is not None:
        of = data.standardized_by.open()
        mean, deviation = moments(matrix(of, data.columns)[0], data.columns)
        features = (features - mean) / deviation
        fingerprint['standardized_by'] = dict(of.fingerprint)
    arrays = {'features': features.astype(np.float32)}
    if data.classes == 1:
        arrays['values'] = labels.numbers(written, found.where)
    else:
        arrays['labels'] = labels.ids(written, found.where, classes=data.classes, names=names)
    return batches.ArrayExamples(arrays, data.fields, fingerprint=fingerprint)


def matrix(
    found: records.Records, columns: tuple[str, ...], *, label: str | None = None
) -> tuple[np.ndarray, list[str]]:
    """[n, I] float64 and the labels as they are written, [n]; none without `label`.

    Raises:
      InputError: a column is missing, or holds something that is not a finite number.
    """
    features, written = np.zeros((len(found), len(columns))), []
    for first, chunk in found.chunks():
        for i, record in enumerate(chunk, first):
            where = functools.partial(found.where, i)
            features[i] = [_number(record, column, where) for column in columns]
            if label is not None:
                written.append(records.label(record, label, where))
    return features, written


def _number(record: records.Record, column: str, where: records.Where) -> float:
    value = records.value(record, column, where)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise config.InputError(
            f'{where()}: {column!r} is {value!r}, which is not a finite number. Fill in or remove such rows beforehand.'
        )
    return number


def moments(features: np.ndarray, columns: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The mean and standard deviation of each column, [I] float64.

    Raises:
      InputError: a column is constant.
    """
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    # A constant column's deviation is the rounding of its mean.
    constant = deviation <= 1e-12 * np.abs(mean)
    if constant.any():
        column = columns[int(np.argmax(constant))]
        raise config.InputError(f'The column {column!r} has one value in all training rows; leave it out.')
    return mean, deviation
