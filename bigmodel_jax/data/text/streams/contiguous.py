"""Text that is read on from batch to batch, for models whose state passes between them."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.data.text import text, tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contiguous(text.Text):
    """Text whose batch k + 1 goes on where batch k ended, row by row.

    Row r of the batch reads its own passage of the text from beginning to end, `length` tokens in each step, in each
    epoch again. A batch also holds, where n is `batch`:
      starts: [n] int32, 1 where a passage begins.
    """

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        return {**super().fields, 'starts': batches.Field((), np.dtype(np.int32), (), 2)}

    def build(self, seed: int) -> 'ContiguousBatches':
        corpus = tokens.tokenized(self.source, self.tokenizer)
        if corpus.pairs < self.batch * self.length:
            raise config.InputError(
                f'The text has {corpus.pairs} tokens, too few for {self.batch} rows of length={self.length}. '
                'Use more text, a smaller length or fewer rows.'
            )
        examples = Passages(corpus, self.length, self.fields, rows=self.batch)
        return ContiguousBatches(examples, rows=self.batch, seed=seed)


class Passages(text.TokenExamples):
    """Example r * pieces + c is piece c of passage r."""

    def __init__(self, corpus: tokens.Corpus, length: int, fields: Mapping[str, batches.Field], *, rows: int):
        known = {**fields, **{name: _bounded(fields[name], corpus.tokenizer.size) for name in ('inputs', 'targets')}}
        super().__init__(corpus, length, known)
        self.rows, self.pieces = rows, corpus.pairs // rows // length
        self.fingerprint = {**self.fingerprint, 'contiguous rows': rows}

    def __len__(self) -> int:
        return self.rows * self.pieces

    def gather(self, indices: np.ndarray, epochs: np.ndarray, seed: int) -> batches.Batch:
        positions = indices[:, None] * self.length + np.arange(self.length)
        found = self._batch(positions, np.ones(positions.shape, bool))
        return found | {'starts': (indices % self.pieces == 0).astype(np.int32)}


def _bounded(field: batches.Field, upper_bound: int) -> batches.Field:
    return dataclasses.replace(field, upper_bound=upper_bound)


class ContiguousBatches(text.TextBatches):
    """The same order in each epoch: position k * rows + r of the stream is piece k of passage r."""

    examples: Passages

    def ids_at(self, positions: np.ndarray) -> np.ndarray:
        pieces = self.examples.pieces
        return positions % self.rows * pieces + positions // self.rows % pieces
