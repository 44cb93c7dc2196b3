"""Pairs of sentences, as translations are: whole pairs packed into rows of source and target, for a Seq2Seq."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches, cache, preparation_progress, records
from bigmodel_jax.data.text import packing, text, tokenizers, tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs(batches.Data):
    """Document i of `source` and document i of `target` are a pair; both sides share one vocabulary.

    Packed in row by row, so that a batch has about `batch` x `length` tokens on each side. A pair with more than
    `length` tokens on a side is left out, which is said. A batch holds, where n is `batch` and T is `length`:
      source: [n, T] int32, each sentence followed by `end`.
      inputs, targets: [n, T] int32. The target is the token after the input; the first input of a sentence is the
        tokenizer's `begin`, and `end` is its last target.
      loss_weights: [n, T] float32, 0 where padding.
      bytes: [n] float32, the UTF-8 bytes that the targets of the row stand for.
      source_segments, segments: [n, T] int32: 1, 2 ... for the pairs of the row, 0 where padding.
      source_positions, positions: [n, T] int32: place within the sentence.
    """

    source: records.Source
    target: records.Source
    tokenizer: tokenizers.Vocabulary
    batch: config.Positive
    length: config.Positive

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        return _fields(self.length, self.tokenizer.upper_bound)

    @property
    def units(self) -> batches.Units:
        return batches.Units('tokens', self.length)

    def build(self, seed: int) -> 'text.TextBatches':
        sides = tuple(tokens.tokenized(side, self.tokenizer, keep_empty=True) for side in (self.source, self.target))
        counts = tuple(len(side.starts) - 1 for side in sides)
        if counts[0] != counts[1]:
            raise config.InputError(
                f'The source has {counts[0]:,} sentences and the target {counts[1]:,}, but sentence i of the one must '
                'be the translation of sentence i of the other; use the files of one split.'
            )
        return text.TextBatches(PairExamples(*sides, length=self.length), rows=self.batch, seed=seed)


def _fields(length: int, upper_bound: int | None) -> dict[str, batches.Field]:
    row, integers, axes = (length,), np.dtype(np.int32), ('length',)
    of_target = text.Documents().fields(length, upper_bound)
    return {
        'source': batches.Field(row, integers, axes, upper_bound),
        'source_segments': batches.Field(row, integers, axes),
        'source_positions': batches.Field(row, integers, axes, length),
        **of_target,
    }


class PairExamples(batches.Examples):
    """Rows of pairs.

    Args:
      source, target: the two sides, with as many documents.
    """

    def __init__(self, source: tokens.Corpus, target: tokens.Corpus, *, length: int):
        self.tokenizer, self.length = target.tokenizer, length
        self.fields = _fields(length, self.tokenizer.size)
        plan = planned(source, target, length)
        self.left_out = plan.left_out
        self.fingerprint = {
            'source': dict(source.fingerprint),
            'target': dict(target.fingerprint),
            'length': length,
            'left_out': plan.left_out,
        }
        if plan.left_out:
            count = len(source.starts) - 1
            preparation_progress.say(
                f'{plan.left_out:,} of {count:,} pairs are longer than {length} tokens and left out.'
            )
        self._plan = plan
        self._tokens = np.asarray(source.tokens), np.asarray(target.tokens)

    def __len__(self) -> int:
        return len(self._plan.row_starts) - 1

    def gather(self, indices: np.ndarray, epochs: np.ndarray, seed: int) -> batches.Batch:
        plan = self._plan
        of_source, of_target = (
            packing.layout(packing.PackingPlan(starts, lengths, plan.row_starts), indices, length=self.length)
            for starts, lengths in ((plan.starts[0], plan.lengths[0]), (plan.starts[1], plan.lengths[1]))
        )
        source, target = self._tokens
        targets = np.where(of_target.segments > 0, target[of_target.sources + 1], 0).astype(np.int32)
        inputs = np.where(of_target.positions == 0, self.tokenizer.begin, target[of_target.sources])
        size_bytes = np.where(of_target.segments > 0, self.tokenizer.token_bytes[targets], 0).sum(axis=1)
        return {
            'source': np.where(of_source.segments > 0, source[of_source.sources + 1], 0).astype(np.int32),
            'source_segments': of_source.segments,
            'source_positions': of_source.positions,
            'inputs': np.where(of_target.segments > 0, inputs, 0).astype(np.int32),
            'targets': targets,
            'loss_weights': (of_target.segments > 0).astype(np.float32),
            'bytes': size_bytes.astype(np.float32),
            'segments': of_target.segments,
            'positions': of_target.positions,
        }


class PairPlan(NamedTuple):
    """Which pairs lie in which row. Row r holds the pairs from row_starts[r] to row_starts[r + 1]."""

    starts: np.ndarray  # [2, pairs] int64: position of the `end` before each sentence, in source and target.
    lengths: np.ndarray  # [2, pairs] int64: tokens with one `end`.
    row_starts: np.ndarray  # [rows + 1] int64.
    left_out: int  # Pairs that are too long.


def planned(source: tokens.Corpus, target: tokens.Corpus, length: int) -> PairPlan:
    """The plan of two sides, made once and kept in the cache.

    Raises:
      InputError: no pair is short enough.
    """
    key = {'sides': [dict(side.fingerprint) for side in (source, target)], 'length': length, 'packing': 'pairs'}

    def make(directory: pathlib.Path, parts: pathlib.Path) -> None:
        np.savez(directory / 'plan.npz', **plan(np.stack([source.starts, target.starts]), length=length)._asdict())

    with np.load(cache.prepared('packing', key, make) / 'plan.npz') as stored:
        made = PairPlan(stored['starts'], stored['lengths'], stored['row_starts'], int(stored['left_out']))
    if len(made.row_starts) < 2:
        raise config.InputError(
            f'None of the {made.left_out:,} pairs has at most length={length} tokens on each side; use a larger length.'
        )
    return made


def plan(document_starts: np.ndarray, *, length: int) -> PairPlan:
    """Packs pairs into rows.

    Args:
      document_starts: [2, pairs + 1] int64: position of the `end` before each sentence, and of the last.
      length: tokens of a row, on each side.
    """
    starts, lengths = document_starts[:, :-1], np.diff(document_starts)
    fits = (lengths <= length).all(axis=0)
    starts, lengths = starts[:, fits], lengths[:, fits]
    rows = packing.best_fit_pairs(lengths, capacity=length)
    order = np.argsort(rows, kind='stable')
    row_starts = np.concatenate([[0], np.cumsum(np.bincount(rows))]) if len(rows) else np.zeros(1, np.int64)
    return PairPlan(starts[:, order], lengths[:, order], row_starts, int((~fits).sum()))
