"""Span corruption, the pretraining data of T5: spans of a text are left out, and the model writes them.

Which spans is a pure function of (seed, epoch, example), so that every pass over the text cuts others.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches, counter_rng, records
from bigmodel_jax.data.text import packing, text, tokenizers, tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanCorruption(batches.Data):
    """A source, tokenized, cut into rows in which each span that is left out stands as one sentinel.

    Row by row: 'The <s0> sat on <s1> mat' is read, and '<s0> cat <s1> the' written. A batch holds, where n is `batch`,
    S is `length` and T what follows from it (see Sizes):
      source: [n, S] int32: the text with a sentinel for each span, and `end`.
      inputs, targets: [n, T] int32: before each span its sentinel, and `end` last. The first input is `end`.
      bytes: [n] float32, the UTF-8 bytes of the text that the targets of the row stand for.
    Sentinels are the `sentinels` ids above the tokenizer's, the first of them the highest.

    Source: Raffel et al. (2019), arXiv:1910.10683, sections 3.1.4 and 3.3.4. As in their code, there is no last
    sentinel before `end`, which their figure 2 has.
    """

    source: records.Source
    tokenizer: tokenizers.Vocabulary
    batch: config.Positive
    length: config.Positive  # S
    corrupted: config.Probability = 0.15  # Of the tokens.
    span: config.PositiveFloat = 3.0  # Tokens of a span, in the mean.
    sentinels: config.Positive = 100

    @property
    def sizes(self) -> 'Sizes':
        """The sizes of the parts of a row."""
        return fit(self.length, corrupted=self.corrupted, span=self.span)

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        bound = self.tokenizer.upper_bound
        return _fields(self.sizes, None if bound is None else bound + self.sentinels)

    @property
    def units(self) -> batches.Units:
        return batches.Units('tokens', self.sizes.target)

    def build(self, seed: int) -> 'text.TextBatches':
        sizes, corpus = self.sizes, tokens.tokenized(self.source, self.tokenizer)
        if sizes.spans > self.sentinels:
            raise config.InputError(
                f'A row of length={self.length} has {sizes.spans} spans, more than sentinels={self.sentinels}; '
                'use more sentinels, a smaller length or longer spans.'
            )
        if corpus.pairs < sizes.raw:
            raise config.InputError(
                f'The text has {corpus.pairs} tokens, too few for one row of length={self.length}, which takes '
                f'{sizes.raw}. Use more text or a smaller length.'
            )
        return text.TextBatches(SpanExamples(corpus, sizes, self.sentinels), rows=self.batch, seed=seed)


class Sizes(NamedTuple):
    """Of each row, in tokens."""

    raw: int  # Before anything is cut out.
    cut: int  # Of these, in spans.
    spans: int

    @property
    def source(self) -> int:
        """S: what is left, a sentinel for each span, and `end`."""
        return self.raw - self.cut + self.spans + 1

    @property
    def target(self) -> int:
        """T: what was cut out, a sentinel for each span, and `end`."""
        return self.cut + self.spans + 1


def sizes_of(raw: int, *, corrupted: float, span: float) -> Sizes:
    """The sizes of a row of `raw` tokens; at least one is cut out and at least one left between any two spans."""
    cut = min(max(round(raw * corrupted), 1), raw - 1)
    return Sizes(raw, cut, min(max(round(cut / span), 1), cut, raw - cut))


def fit(length: int, *, corrupted: float, span: float) -> Sizes:
    """The longest row whose source has at most `length` tokens.

    Raises:
      InputError: there is none whose source has exactly so many, or no spans can be so short.
    """
    if length < 3 or span < 1 or corrupted == 0:
        raise config.InputError(
            f'length={length}, corrupted={corrupted:g}, span={span:g}: use a length of at least 3, spans of at least 1 '
            'token in the mean, and more than 0 corrupted.'
        )
    raw = 2
    while sizes_of(raw + 1, corrupted=corrupted, span=span).source <= length:
        raw += 1
    found = sizes_of(raw, corrupted=corrupted, span=span)
    if found.source != length:
        raise config.InputError(
            f'With corrupted={corrupted:g} and span={span:g} no row has a source of length={length}; '
            f'use length={found.source}.'
        )
    return found


def _fields(sizes: Sizes, upper_bound: int | None) -> dict[str, batches.Field]:
    integers, written, axes = np.dtype(np.int32), (sizes.target,), ('length',)
    return {
        'source': batches.Field((sizes.source,), integers, axes, upper_bound),
        'inputs': batches.Field(written, integers, axes, upper_bound),
        'targets': batches.Field(written, integers, axes, upper_bound),
        # All are 1. Without the field the compiler would sum in another order, and runs of older versions could not be
        # repeated bit for bit.
        'loss_weights': batches.Field(written, np.dtype(np.float32), axes),
        'bytes': batches.Field((), np.dtype(np.float32), ()),
    }


class SpanExamples(batches.Examples):
    """Row r is made of the r-th window of the stream; later passes begin at a random offset, as text.Windows do."""

    def __init__(self, corpus: tokens.Corpus, sizes: Sizes, sentinels: int):
        self.tokenizer, self._sizes, self._pairs = corpus.tokenizer, sizes, corpus.pairs
        self._top = self.tokenizer.size + sentinels - 1
        self.fields = _fields(sizes, self._top + 1)
        self.fingerprint = {**corpus.fingerprint, 'spans': sizes._asdict(), 'sentinels': sentinels}
        self._tokens = np.asarray(corpus.tokens)
        self._bytes = np.append(self.tokenizer.token_bytes, np.zeros(sentinels, self.tokenizer.token_bytes.dtype))

    def __len__(self) -> int:
        return self._pairs // self._sizes.raw

    def gather(self, indices: np.ndarray, epochs: np.ndarray, seed: int) -> batches.Batch:
        raw, keys = self._sizes.raw, list(zip(epochs.tolist(), indices.tolist()))
        offsets = np.array([packing.window_offset(seed=seed, epoch=epoch, length=raw) for epoch, _ in keys], np.int64)
        positions = packing.window_positions(indices, offsets, length=raw) % self._pairs
        rows = zip(self._tokens[positions].astype(np.int32), keys)
        pairs = [self._corrupt(row, cuts(self._sizes, seed, *key)) for row, key in rows]
        source, targets = (np.stack(side) for side in zip(*pairs))
        first = np.full((len(targets), 1), self.tokenizer.end, np.int32)
        return {
            'source': source,
            'inputs': np.concatenate([first, targets[:, :-1]], axis=1),
            'targets': targets,
            'loss_weights': np.ones(targets.shape, np.float32),
            'bytes': self._bytes[targets].sum(axis=1).astype(np.float32),
        }

    def _corrupt(self, row: np.ndarray, is_cut: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is read and what is written of a row [raw] of which `is_cut` [raw] is cut out."""
        before = np.append(False, is_cut[:-1])
        cut_begins, kept_begins = is_cut & ~before, ~is_cut & before
        kept_begins[0] = True
        end = np.int32(self.tokenizer.end)
        # Span i and what is left before it have the number i.
        sentinels = (self._top + 1 - np.cumsum(kept_begins)).astype(np.int32)
        source = np.where(cut_begins, sentinels, row)[~is_cut | cut_begins]
        # In place of what is left before a span stands its sentinel.
        targets = np.where(kept_begins, sentinels, row)[is_cut | kept_begins]
        return np.append(source, end), np.append(targets, end)


def cuts(sizes: Sizes, seed: int, epoch: int, example: int) -> np.ndarray:
    """[raw] bool: what is cut out of an example. It begins with what is left, and ends with a span.

    All ways to divide `cut` tokens into `spans` spans, and what is left into as many, are equally likely.
    """
    draws = counter_rng.bits(seed, epoch, example, np.arange(sizes.raw))
    cut, kept = _divide(sizes.cut, sizes.spans, draws), _divide(sizes.raw - sizes.cut, sizes.spans, draws[sizes.cut :])
    lengths = np.stack([kept, cut], axis=1).reshape(-1)
    return np.repeat(np.tile([False, True], sizes.spans), lengths)


def _divide(items: int, parts: int, draws: np.ndarray) -> np.ndarray:
    """[parts] int64: lengths of at least 1 with the sum `items`, from random numbers [at least items]."""
    borders = np.sort(np.argsort(draws[: items - 1], kind='stable')[: parts - 1]) + 1
    return np.diff(np.concatenate([[0], borders, [items]]))
