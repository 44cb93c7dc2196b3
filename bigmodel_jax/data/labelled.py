"""Labelled sentences, or pairs of them, for classification and regression."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches, rows, tables, tokenizers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled(batches.Data):
    """A row for each sentence or pair, cut to `length` tokens.

    A batch holds, where n is `batch` and T is `length`:
      inputs, types, segments: [n, T] int32, see data/rows.py.
      labels: [n] int32, or with one class `values`: [n] float32, numbers to be predicted.
      weights: [n] float32, 1.
    """

    table: tables.Table
    tokenizer: tokenizers.Vocabulary
    batch: config.Positive
    length: config.Positive
    classes: config.Positive = 2  # Labels are 0 .. classes - 1; 1: the labels are numbers.

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        return _fields(self, self.tokenizer.below)

    def build(self, seed: int) -> batches.Batches:
        if self.length < 2 + self.table.sentences_per_row:
            raise config.InputError(f'data.length={self.length} leaves no room for a sentence.')
        return batches.Batches(LabelledExamples(self), rows=self.batch, seed=seed)


def _fields(data: Labelled, below: int | None) -> dict[str, batches.Field]:
    floats = batches.Field((), np.dtype(np.float32))
    label = {'values': floats} if data.classes == 1 else {'labels': batches.Field((), np.dtype(np.int32), data.classes)}
    return {**rows.fields(data.length, below), **label, 'weights': floats}


class LabelledExamples(batches.ArrayExamples):
    """The rows of a table, in memory."""

    def __init__(self, data: Labelled):
        self.tokenizer, table = data.tokenizer.build(), data.table.open()
        encoded = [self.tokenizer.encode_many(column) for column in table.sentences]
        second = encoded[1] if len(encoded) > 1 else None
        special = rows.specials(self.tokenizer)
        arrays = rows.layout(encoded[0], second, length=data.length, special=special)
        if data.classes == 1:
            arrays['values'] = np.array([_number(label) for label in table.labels], np.float32)
        else:
            arrays['labels'] = np.array([_label(label, data.classes) for label in table.labels], np.int32)
        fingerprint = {
            'table': dict(table.fingerprint), 'tokenizer': self.tokenizer.fingerprint, 'length': data.length
        }  # fmt: skip
        super().__init__(arrays, below={}, fingerprint=fingerprint)
        self.fields = _fields(data, self.tokenizer.size)


def _number(label: str) -> float:
    try:
        return float(label)
    except ValueError as error:
        raise config.InputError(f'The label {label!r} is not a number, but data.classes=1 asks for numbers.') from error


def _label(label: str, classes: int) -> int:
    number = int(label) if label.lstrip('-').isdecimal() else -1
    if not 0 <= number < classes:
        raise config.InputError(
            f'The label {label!r} is not one of 0 to {classes - 1}. Test sets of GLUE have no labels (-1): use the '
            'validation split; otherwise set data.classes, or the column of the label.'
        )
    return number
