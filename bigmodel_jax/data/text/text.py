"""Text as batches of rows of tokens, for language models: each token is predicted from those before it."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches, cache, records
from bigmodel_jax.data.text import packing, tokenizers, tokens


class Packing:
    """Interface of the configs that say how a stream of tokens becomes rows."""

    def fields(self, length: int, upper_bound: int | None) -> dict[str, batches.Field]:
        """The arrays of a batch; token ids are less than `upper_bound`, if that is known."""
        row, axes, integers, floats = (length,), ('length',), np.dtype(np.int32), np.dtype(np.float32)
        return {
            'inputs': batches.Field(row, integers, axes, upper_bound),
            'targets': batches.Field(row, integers, axes, upper_bound),
            'loss_weights': batches.Field(row, floats, axes),
            'bytes': batches.Field((), floats, ()),
        }

    def examples(self, corpus: tokens.Corpus, length: int) -> 'TokenExamples':
        """Examples of `length` tokens."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows(Packing):
    """The stream is cut every `length` tokens, regardless of documents; only the last row may be padded.

    In the first pass, and in evaluation, each token is a target exactly once. Later passes begin at a random offset, so
    that the windows differ, and wrap around from the end of the stream to its start.
    """

    def examples(self, corpus: tokens.Corpus, length: int) -> 'TokenExamples':
        return WindowExamples(corpus, length, self.fields(length, corpus.tokenizer.size))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Documents(Packing):
    """Whole documents packed into rows, distinguished by `segments`; those longer than a row are cut into pieces.

    Source: best-fit decreasing, as in Ding et al. (2024), arXiv:2404.10830.
    """

    def fields(self, length: int, upper_bound: int | None) -> dict[str, batches.Field]:
        row, axes, integers = (length,), ('length',), np.dtype(np.int32)
        return {
            **super().fields(length, upper_bound),
            'segments': batches.Field(row, integers, axes),
            'positions': batches.Field(row, integers, axes, length),
        }

    def examples(self, corpus: tokens.Corpus, length: int) -> 'TokenExamples':
        return DocumentExamples(corpus, length, self.fields(length, corpus.tokenizer.size))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(batches.Data):
    """A source, tokenized, in rows.

    A batch holds, where n is `batch` and T is `length`:
      inputs, targets: [n, T] int32. The target is the token after the input; the first input of a document is the
        tokenizer's `begin`, and its last target is `end`.
      loss_weights: [n, T] float32, 0 where padding.
      bytes: [n] float32, the UTF-8 bytes that the targets of the row stand for, without padding.
    and with packing=Documents():
      segments: [n, T] int32: 1, 2 ... for the documents of the row, 0 where padding.
      positions: [n, T] int32: place within the document.
    """

    source: records.Source
    tokenizer: tokenizers.Vocabulary
    batch: config.Positive
    length: config.Positive
    packing: Packing = Windows()

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        return self.packing.fields(self.length, self.tokenizer.upper_bound)

    @property
    def units(self) -> batches.Units:
        return batches.Units('tokens', self.length)

    def build(self, seed: int) -> 'TextBatches':
        corpus = tokens.tokenized(self.source, self.tokenizer)
        if corpus.pairs < self.length:
            raise config.InputError(
                f'The text has {corpus.pairs} tokens, too few for one row of length={self.length}. '
                'Use more text or a smaller length.'
            )
        return TextBatches(self.packing.examples(corpus, self.length), rows=self.batch, seed=seed)


class TextBatches(batches.Batches):
    """Batches of text; `examples.tokenizer` is the tokenizer."""

    examples: 'TokenExamples'


class TokenExamples(batches.Examples):
    """Rows of a tokenized text."""

    def __init__(self, corpus: tokens.Corpus, length: int, fields: Mapping[str, batches.Field]):
        self.corpus, self.tokenizer, self.length = corpus, corpus.tokenizer, length
        self.fields = fields
        self.fingerprint = {**corpus.fingerprint, 'length': length}
        self._tokens = np.asarray(corpus.tokens)  # A plain view; indexing the memmap itself is slower.

    def _batch(self, positions: np.ndarray, real: np.ndarray) -> batches.Batch:
        """The pairs at `positions` [n, T]; those not `real` [n, T] become padding."""
        pairs = np.where(real, positions, 0)
        inputs = np.where(real, self._tokens[pairs], 0).astype(np.int32)
        # Between two documents stands one token: the last target of the first, and the first input of the second.
        inputs[(inputs == self.tokenizer.end) & real] = self.tokenizer.begin
        targets = np.where(real, self._tokens[pairs + 1], 0).astype(np.int32)
        size_bytes = np.where(real, self.tokenizer.token_bytes[targets], 0).sum(axis=1)
        return {
            'inputs': inputs,
            'targets': targets,
            'loss_weights': real.astype(np.float32),
            'bytes': size_bytes.astype(np.float32),
        }


class WindowExamples(TokenExamples):
    """Row r is the r-th window of the stream."""

    def __len__(self) -> int:
        return packing.window_count(self.corpus.pairs, self.length)

    def gather(self, indices: np.ndarray, epochs: np.ndarray, seed: int) -> batches.Batch:
        offsets = {
            epoch: packing.window_offset(seed=seed, epoch=epoch, length=self.length) for epoch in set(epochs.tolist())
        }
        offsets_of_rows = np.array([offsets[epoch] for epoch in epochs.tolist()], np.int64)
        positions = packing.window_positions(indices, offsets_of_rows, length=self.length)
        real = (positions < self.corpus.pairs) | (epochs > 0)[:, None]
        return self._batch(positions % self.corpus.pairs, real)


class DocumentExamples(TokenExamples):
    """Row r holds the pieces of documents that the plan gives it."""

    def __init__(self, corpus: tokens.Corpus, length: int, fields: Mapping[str, batches.Field]):
        super().__init__(corpus, length, fields)
        self._plan = _planned(corpus, length)

    def __len__(self) -> int:
        return len(self._plan.row_starts) - 1

    def gather(self, indices: np.ndarray, epochs: np.ndarray, seed: int) -> batches.Batch:
        layout = packing.layout(self._plan, indices, length=self.length)
        extra = {'segments': layout.segments, 'positions': layout.positions}
        return self._batch(layout.sources, layout.segments > 0) | extra


def _planned(corpus: tokens.Corpus, length: int) -> packing.PackingPlan:
    """Which documents share a row; planned once, and kept in the cache."""
    key = {'tokens': dict(corpus.fingerprint), 'length': length, 'packing': 'best fit'}

    def make(directory: pathlib.Path, parts: pathlib.Path) -> None:
        np.savez(directory / 'plan.npz', **packing.plan(corpus.starts, length=length)._asdict())

    with np.load(cache.prepared('packing', key, make) / 'plan.npz') as plan:
        return packing.PackingPlan(**plan)


class UnigramEntropy(NamedTuple):
    """The loss of a model that knows only how often each token occurs."""

    nats_per_token: float
    bits_per_byte: float


def unigram_entropy(train: TextBatches, evaluation: TextBatches) -> UnigramEntropy:
    """Cross-entropy of `evaluation` under the token frequencies of `train`, each count raised by one.

    Args:
      train, evaluation: built by Text with the same tokenizer.
    """
    counts = [_counts(each.examples) for each in (train, evaluation)]
    size = train.examples.tokenizer.size
    log_probabilities = np.log(counts[0] + 1) - math.log(counts[0].sum() + size)
    nats = -float(counts[1] @ log_probabilities)
    size_bytes = float(counts[1] @ evaluation.examples.tokenizer.token_bytes)
    return UnigramEntropy(nats / float(counts[1].sum()), nats / math.log(2) / size_bytes)


def _counts(examples: TokenExamples) -> np.ndarray:
    """[V] float64: how often each token is a target."""
    targets, size, step = examples.corpus.tokens[1:], examples.tokenizer.size, 2**24
    parts = [np.bincount(targets[i : i + step], minlength=size) for i in range(0, len(targets), step)]
    return np.sum(parts, axis=0).astype(np.float64)
