"""Tables of text: one or two sentences and a label in each row."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bigmodel_jax import config
from bigmodel_jax.data import records
from bigmodel_jax.data.sources import documents, files, text_sources
from bigmodel_jax.data.text import encoding


class Rows(NamedTuple):
    """What a table holds."""

    sentences: tuple[list[str], ...]  # One or two columns.
    labels: list[str]  # As they are written.
    fingerprint: Mapping[str, Any]
    where: Callable[[int], str] = 'Row {}'.format  # Says where the row of that number stands, for messages.


class Table:
    """Interface of the configs that say where labelled sentences are."""

    @property
    def sentences_per_row(self) -> int:
        """1 or 2."""
        raise NotImplementedError

    def open(self) -> Rows:
        """Raises InputError if something is missing, empty or unreadable."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tsv(Table):
    """A UTF-8 file with a row on each line and tabs between columns, which are numbered from 0. No quoting."""

    path: str
    sentences: tuple[config.NonNegative, ...] = (0,)  # Columns: one or two.
    label: config.NonNegative = 1
    header: bool = False  # Whether the first line names the columns.

    @property
    def sentences_per_row(self) -> int:
        return len(self.sentences)

    def open(self) -> Rows:
        path = files.path_of(self.path)
        content, identity = files.read_text(path)
        # Not splitlines(), which also splits at characters that occur within sentences.
        lines = content.replace('\r\n', '\n').split('\n')
        numbered = [(number, line) for number, line in enumerate(lines, 1) if line][self.header :]
        cells = [line.split('\t') for _, line in numbered]
        needed = 1 + max(self.label, *self.sentences)
        for (number, _), row in zip(numbered, cells):
            if len(row) < needed:
                raise config.InputError(f'{path}, line {number} has {len(row)} columns; {needed} are needed.')
        if not cells:
            raise config.InputError(f'{path} holds no row.')
        fingerprint = {**identity, 'columns': [*self.sentences, self.label]}
        columns = tuple([row[column] for row in cells] for column in self.sentences)
        return Rows(columns, [row[self.label] for row in cells], fingerprint)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sentences(text_sources.Source):
    """The sentences of a table without their labels, a document each: to train a vocabulary on, or to read."""

    table: Table

    def open(self) -> documents.Documents:
        rows = self.table.open()
        texts = [text for column in rows.sentences for text in column]
        return text_sources.TextsInMemory(f'{len(texts)} sentences', texts, dict(rows.fingerprint))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsTable(Table):
    """A split of a TFDS data set, such as those of GLUE (Wang et al., 2018, arXiv:1804.07461)."""

    name: str  # 'glue/sst2'.
    split: str
    sentences: tuple[str, ...] = ('sentence',)  # Features: one or two.
    label: str = 'label'
    data_dir: str | None = None

    @property
    def sentences_per_row(self) -> int:
        return len(self.sentences)

    def open(self) -> Rows:
        # Not at the top: TFDS takes seconds to import.
        from bigmodel_jax.data.sources import tfds_source

        builder, records = tfds_source.open_records(self.name, split=self.split, data_dir=self.data_dir)
        known = list(builder.info.features)
        for feature in (*self.sentences, self.label):
            if feature not in known:
                raise config.InputError(f'{self.name} has no feature {feature!r}.{config.nearest(feature, known)}')
        read = records.__getitems__(list(range(len(records))))
        columns = tuple(
            [encoding.decode(record[feature], f'Example {i} of {self.name}') for i, record in enumerate(read)]
            for feature in self.sentences
        )
        fingerprint = tfds_source.fingerprint_of(builder, records, self.split)
        features = {'features': [*self.sentences, self.label]}
        return Rows(columns, [str(record[self.label]) for record in read], fingerprint | features)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns(Table):
    """Columns of a table, or fields of other records, by name."""

    records: records.RecordSource  # Such as csv_records.Csv(path='reviews.csv').
    sentences: tuple[str, ...]  # One or two.
    label: str

    @property
    def sentences_per_row(self) -> int:
        return len(self.sentences)

    def open(self) -> Rows:
        found = self.records.open()
        columns: tuple[list[str], ...] = tuple([] for _ in self.sentences)
        labels = []
        for first, chunk in found.chunks():
            for i, record in enumerate(chunk, first):
                where = functools.partial(found.where, i)
                for column, field in zip(columns, self.sentences):
                    column.append(records.text(record, field, where))
                labels.append(records.label(record, self.label, where))
        fingerprint = {**found.fingerprint, 'columns': [*self.sentences, self.label]}
        return Rows(columns, labels, fingerprint, found.where)
