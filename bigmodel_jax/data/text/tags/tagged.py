"""Sentences whose words have tags, such as named entities, for token classification."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches, records
from bigmodel_jax.data.text import bert_format, tokenizers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tagged(batches.Data):
    """A row for each sentence; the first token of a word has the word's tag, and its other tokens have none.

    A batch holds, where n is `batch` and T is `length`:
      inputs, types, segments: [n, T] int32, see data/text/bert_format.py.
      labels: [n, T] int32, the place of the tag in `tags`.
      loss_weights: [n, T] float32, 1 at the first token of a word and 0 elsewhere.

    Source: Devlin et al. (2018), arXiv:1810.04805, section 5.3.
    """

    source: (
        records.Source
    )  # Such as JsonLines(pattern='train.jsonl') of {"words": ["Ann", ...], "tags": ["B-PER", ...]}.
    tokenizer: tokenizers.Vocabulary
    batch: config.Positive
    length: config.Positive
    tags: tuple[str, ...]  # In the order of their numbers: ('O', 'B-PER', 'I-PER').
    words: records.Field = 'words'  # The field of the words, a list.
    word_tags: records.Field = 'tags'  # The field of their tags, a list as long.

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        return _fields(self, self.tokenizer.upper_bound)

    def build(self, seed: int) -> batches.Batches:
        if len(set(self.tags)) != len(self.tags) or not self.tags:
            raise config.InputError(f'data.tags={self.tags} should name every tag once.')
        return batches.Batches(TaggedExamples(self), rows=self.batch, seed=seed)


def _fields(data: Tagged, upper_bound: int | None) -> dict[str, batches.Field]:
    return {
        **bert_format.fields(data.length, upper_bound),
        'labels': batches.Field((data.length,), np.dtype(np.int32), ('length',), len(data.tags)),
        'loss_weights': batches.Field((data.length,), np.dtype(np.float32), ('length',)),
    }


class TaggedExamples(batches.ArrayExamples):
    """The rows of a source, in memory."""

    def __init__(self, data: Tagged):
        self.tokenizer, found = data.tokenizer.build(), data.source.open()
        sentences = [
            _sentence(data, record, functools.partial(found.where, number)) for number, record in enumerate(found)
        ]
        pieces = self.tokenizer.encode_many([word for words, _ in sentences for word in words])
        arrays = self._laid_out(data, found, sentences, pieces)
        fingerprint = {
            'records': {**found.fingerprint, 'fields': [data.words, data.word_tags]},
            'tokenizer': self.tokenizer.fingerprint,
            'length': data.length,
            'tags': list(data.tags),
        }
        super().__init__(arrays, _fields(data, self.tokenizer.size), fingerprint=fingerprint)

    def _laid_out(
        self, data: Tagged, found: records.Records, sentences: list[Any], pieces: list[np.ndarray]
    ) -> dict[str, np.ndarray]:
        shape, at, rows = (len(sentences), data.length), 0, []
        labels, weights = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        for row, (words, ids) in enumerate(sentences):
            here = pieces[at : at + len(words)]
            at += len(words)
            sizes = [len(each) for each in here]
            if 0 in sizes:
                raise config.InputError(
                    f'{found.where(row)}: the tokenizer makes nothing of the word {words[sizes.index(0)]!r}; remove it '
                    'and its tag.'
                )
            if sum(sizes) + 2 > data.length:
                raise config.InputError(
                    f'{found.where(row)}: the sentence has {sum(sizes)} tokens, and [CLS] and [SEP] come to them, but '
                    f'data.length={data.length}. Use a larger length, or shorter sentences.'
                )
            firsts = 1 + np.cumsum([0, *sizes[:-1]])  # After [CLS].
            labels[row, firsts], weights[row, firsts] = ids, 1
            rows.append(np.concatenate(here))
        laid = bert_format.layout(rows, None, length=data.length, special=bert_format.specials(self.tokenizer))
        return {**laid, 'labels': labels, 'loss_weights': weights}


def _sentence(data: Tagged, record: records.Record, where: records.Where) -> tuple[list[str], list[int]]:
    """The words of a record, and the numbers of their tags."""
    words, tags = (list(records.value(record, field, where)) for field in (data.words, data.word_tags))
    if not words or len(words) != len(tags) or not all(isinstance(word, str) for word in words):
        raise config.InputError(
            f'{where()}: {data.words!r} has {len(words)} words and {data.word_tags!r} {len(tags)} tags; there '
            'should be at least one word, each a text, and a tag for each.'
        )
    unknown = [tag for tag in tags if tag not in data.tags]
    if unknown:
        raise config.InputError(f'{where()}: the tag {unknown[0]!r} is none of data.tags={data.tags}.')
    return words, [data.tags.index(tag) for tag in tags]
