"""The pretraining data of BERT: pairs of masked spans of text, of which the second may or may not follow the first."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches, counter_rng, records
from bigmodel_jax.data.text import bert_format, masking, packing, tokenizers, tokens

# What a random number is drawn for.
CUT, FOLLOWS, DOCUMENT, BEGIN, MASK = range(5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentencePairs(batches.Data):
    """Rows [CLS] A [SEP] B [SEP]; half of the time B follows A in its document, else it is from another document.

    Documents are cut into pieces that fill a row; each piece is cut once more, somewhere, into A and B. Where to cut,
    what B is and what is masked is drawn again in each epoch. A batch holds, where n is `batch`, T is
    `length` and N is `masking.max_predictions`:
      inputs: [n, T] int32, masked.
      types: [n, T] int32: 0 in [CLS] A [SEP] and in padding, 1 in B [SEP].
      segments: [n, T] int32: 1, and 0 where padding.
      masked_positions: [n, N] int32: the positions whose tokens are predicted; 0 where there are fewer than N.
      targets: [n, N] int32: the original tokens at these positions.
      loss_weights: [n, N] float32: 1, and 0 where there are fewer.
      is_random_next: [n] int32: 0 if B follows A, 1 if it is from another document.

    Source: Devlin et al. (2018), arXiv:1810.04805, sections 3.1 and A.2.
    """

    source: records.Source
    tokenizer: tokenizers.Vocabulary
    batch: config.Positive
    length: config.Positive
    masking: masking.Masking

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        return _fields(self, self.tokenizer.upper_bound)

    @property
    def units(self) -> batches.Units:
        return batches.Units('tokens', self.length)

    def build(self, seed: int) -> batches.Batches:
        if self.length < 5:
            raise config.InputError(
                f'data.length={self.length} is too short for [CLS] A [SEP] B [SEP]; use at least 5.'
            )
        corpus = tokens.tokenized(self.source, self.tokenizer)
        return batches.Batches(SentencePairExamples(corpus, self), rows=self.batch, seed=seed)


def _fields(pairs: SentencePairs, upper_bound: int | None) -> dict[str, batches.Field]:
    integers, floats = np.dtype(np.int32), np.dtype(np.float32)
    row, axes = (pairs.masking.max_predictions,), ('predictions',)
    return {
        **bert_format.fields(pairs.length, upper_bound),
        'masked_positions': batches.Field(row, integers, axes, pairs.length),
        'targets': batches.Field(row, integers, axes, upper_bound),
        'loss_weights': batches.Field(row, floats, axes),
        'is_random_next': batches.Field((), integers, (), 2),
    }


class SentencePairExamples(batches.Examples):
    """Pieces of the documents of a corpus."""

    def __init__(self, corpus: tokens.Corpus, pairs: SentencePairs):
        self.tokenizer, self._pairs = corpus.tokenizer, pairs
        self._special = bert_format.specials(corpus.tokenizer)
        self.fields = _fields(pairs, corpus.tokenizer.size)
        self._tokens = np.asarray(corpus.tokens)
        # The documents without the `end` before each.
        self._starts, self._lengths = corpus.starts[:-1] + 1, np.diff(corpus.starts) - 1
        if len(self._starts) < 2:
            raise config.InputError('Next-sentence prediction needs at least two documents, but the text has one.')
        self._room = pairs.length - 3
        counts = -(-self._lengths // self._room)
        firsts, lengths = packing.cut(self._starts, self._lengths, length=self._room)
        owners = np.repeat(np.arange(len(counts)), counts)
        kept = lengths >= 2  # One token for each sentence.
        self._firsts, self._sizes, self._owners = firsts[kept], lengths[kept], owners[kept]
        self.fingerprint = {
            **corpus.fingerprint,
            'pairs of sentences': config.to_json(pairs.masking) | {'length': pairs.length},
        }

    def __len__(self) -> int:
        return len(self._firsts)

    def gather(self, indices: np.ndarray, epochs: np.ndarray, seed: int) -> batches.Batch:
        keys = counter_rng.bits(seed, epochs, indices)
        firsts, sizes = self._firsts[indices], self._sizes[indices]
        of_first = 1 + counter_rng.integers(sizes - 1, keys, CUT)
        is_random = counter_rng.bits(keys, FOLLOWS) >> np.uint64(63)
        # Any document but this one: those from it on move down by one.
        others = counter_rng.integers(len(self._starts) - 1, keys, DOCUMENT)
        others += others >= self._owners[indices]
        # As long as there is room, and not beyond the end of the document.
        wanted = np.minimum(self._room - of_first, self._lengths[others])
        begins = self._starts[others] + counter_rng.integers(self._lengths[others] - wanted + 1, keys, BEGIN)
        second = np.where(is_random, begins, firsts + of_first)
        of_second = np.where(is_random, wanted, sizes - of_first)
        laid = bert_format.layout(
            [self._tokens[start : start + count] for start, count in zip(firsts, of_first)],
            [self._tokens[start : start + count] for start, count in zip(second, of_second)],
            length=self._pairs.length,
            special=self._special,
        )
        return self._masked(laid, keys) | {'is_random_next': is_random.astype(np.int32)}

    def _masked(self, laid: batches.Batch, keys: np.ndarray) -> batches.Batch:
        inputs, real = laid['inputs'], laid['segments'] > 0
        special = ~real | (inputs == self._special.start) | (inputs == self._special.separator)
        ids = self._special.mask, self.tokenizer.size
        masked = masking.masked(
            inputs, special, real, how=self._pairs.masking, keys=counter_rng.bits(keys, MASK), ids=ids
        )
        return {
            **laid,
            'inputs': masked.inputs,
            'masked_positions': masked.positions,
            'targets': masked.targets,
            'loss_weights': masked.weights,
        }
