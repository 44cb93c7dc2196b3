"""Labelled sentences, or pairs of them, for classification and regression."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches, labels, records
from bigmodel_jax.data.text import bert_format, tokenizers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled(batches.Data):
    """A row for each sentence or pair, cut to `length` tokens.

    A batch holds, where n is `batch` and T is `length`:
      inputs, types, segments: [n, T] int32, see data/text/bert_format.py.
      labels: [n] int32, or with one class `values`: [n] float32, numbers to be predicted.
    """

    source: records.Source  # Such as Csv(path='reviews.csv').
    tokenizer: tokenizers.Vocabulary
    batch: config.Positive
    length: config.Positive
    sentences: tuple[records.Field, ...] = ('sentence',)  # The fields of the sentences: one or two.
    label: records.Field = 'label'  # The field of the label.
    classes: config.Positive = 2  # Labels are 0 .. classes - 1; 1: the labels are numbers.
    # What labels that are text are called, in the order of their numbers: ('ham', 'spam'); or the source of the
    # training data, whose labels are then numbered in alphabetical order. Give training and evaluation data the same.
    labels: tuple[str, ...] | records.Source = ()

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        return _fields(self, self.tokenizer.upper_bound)

    def build(self, seed: int) -> batches.Batches:
        if len(self.sentences) not in (1, 2):
            raise config.InputError(f'data.sentences={self.sentences}: name one field, or two for pairs of sentences.')
        if self.length < 2 + len(self.sentences):
            raise config.InputError(f'data.length={self.length} leaves no room for a sentence.')
        return batches.Batches(LabelledExamples(self), rows=self.batch, seed=seed)

    def encode(self, texts: Sequence[Sequence[str]], tokenizer: tokenizers.Tokenizer) -> dict[str, np.ndarray]:
        """The inputs of rows, of which `texts` holds the first sentence of each, and the second where there is one."""
        encoded = [tokenizer.encode_many(list(column)) for column in texts]
        second = encoded[1] if len(encoded) > 1 else None
        return bert_format.layout(encoded[0], second, length=self.length, special=bert_format.specials(tokenizer))


def _fields(data: Labelled, upper_bound: int | None) -> dict[str, batches.Field]:
    floats = batches.Field((), np.dtype(np.float32), ())
    labels = batches.Field((), np.dtype(np.int32), (), data.classes)
    label = {'values': floats} if data.classes == 1 else {'labels': labels}
    return {**bert_format.fields(data.length, upper_bound), **label}


class LabelledExamples(batches.ArrayExamples):
    """The rows of a table, in memory."""

    def __init__(self, data: Labelled):
        self.tokenizer, found = data.tokenizer.build(), data.source.open()
        sentences, written = records.columns(found, data.sentences, data.label)
        self.label_names = labels.names(_names(data, written), data.classes)
        arrays = data.encode(sentences, self.tokenizer)
        if data.classes == 1:
            arrays['values'] = labels.numbers(written, found.where)
        else:
            arrays['labels'] = labels.ids(written, found.where, classes=data.classes, names=self.label_names)
        fingerprint = {
            'table': {**found.fingerprint, 'columns': [*data.sentences, data.label]},
            'tokenizer': self.tokenizer.fingerprint, 'length': data.length
        }  # fmt: skip
        fingerprint |= {'labels': list(self.label_names)} if self.label_names else {}
        super().__init__(arrays, _fields(data, self.tokenizer.size), fingerprint=fingerprint)


def _names(data: Labelled, written: Sequence[str]) -> tuple[str, ...]:
    """The names of the labels, or all labels of the source that `labels` is; `written` are those of data.source."""
    if not isinstance(data.labels, records.Source):
        return data.labels
    if data.labels != data.source:
        written = records.columns(data.labels.open(), (), data.label)[1]
    return tuple(sorted(set(written)))
