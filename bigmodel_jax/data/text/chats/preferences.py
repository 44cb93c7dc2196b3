"""Preferences: pairs of answers to one prompt, of which a language model learns to prefer the chosen one."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches, preparation_progress, records
from bigmodel_jax.data.text import packing, text, tokenizers
from bigmodel_jax.data.text.chats import chat_records, chat_templates, encoded_chats

REFERENCE = 'reference_log_probabilities'
CHOSEN, REJECTED = 1, 2  # The segments of a row.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preferences(batches.Data):
    """Pairs of conversations, each pair in a row; neither of the two sees the other.

    A record has `prompt`, `chosen` and `rejected`, each a text or a list of messages {"role": ..., "content": ...}; see
    chat_records.pair_of(). A batch holds, where n is `batch` and T is `length`:
      inputs, targets: [n, T] int32. The target is the token after the input.
      loss_weights: [n, T] float32, 1 where the target belongs to the chosen or the rejected answer, otherwise 0.
      segments: [n, T] int32: 1 for the conversation with the chosen answer, 2 for the other one, 0 where padding.
      positions: [n, T] int32: place within the conversation.
      reference_log_probabilities: [n, T] float32, of the targets of weight 1 by the reference weights, in nats; see
        train/reference/log_probabilities.py, which computes them.
    """

    source: records.Source  # Such as JsonLines(pattern='preferences.jsonl').
    tokenizer: tokenizers.Vocabulary
    batch: config.Positive  # Pairs.
    length: config.Positive  # Tokens of both conversations of a pair, without the first of each.
    template: chat_templates.Template = chat_templates.Plain()
    cut: bool = False  # Whether the conversations of a pair that is too long are cut; otherwise it is refused.

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        return _fields(self.length, self.tokenizer.upper_bound)

    @property
    def units(self) -> batches.Units:
        return batches.Units('tokens', self.length)

    def encode_prompt(self, text: str, tokenizer: tokenizers.Tokenizer) -> np.ndarray:
        """[n] int32: what the model reads to answer the message `text` of the role 'user'."""
        return self.template.encode_prompt([{'role': 'user', 'content': text}], tokenizer)

    def build(self, seed: int) -> 'PreferenceBatches':
        return PreferenceBatches(PreferenceExamples(self), rows=self.batch, seed=seed)


def _fields(length: int, upper_bound: int | None) -> dict[str, batches.Field]:
    fields = text.Documents().fields(length, upper_bound)
    del fields['bytes']
    return {**fields, REFERENCE: batches.Field((length,), np.dtype(np.float32), ('length',))}


class PreferenceExamples(batches.Examples):
    """Row r holds pair r. The reference log-probabilities must be given before a row can be read."""

    def __init__(self, data: Preferences):
        self.tokenizer, self.length = data.tokenizer.build(), data.length
        found = data.source.open()
        pairs = encoded_chats.encoded('preferences', found, (self.tokenizer, data.template), _dialogues)
        self._plan = _planned(pairs, found, data)
        self._tokens, self._answers = np.asarray(pairs.tokens), np.asarray(pairs.answers)
        self._reference: np.ndarray | None = None
        self.fields = _fields(data.length, self.tokenizer.size)
        self.fingerprint = {**pairs.fingerprint, 'length': data.length, 'cut': data.cut}

    def __len__(self) -> int:
        return len(self._plan.row_starts) - 1

    @property
    def stored_tokens(self) -> int:
        """N, the tokens of all conversations."""
        return len(self._tokens)

    def places(self, indices: np.ndarray) -> packing.PackedLayout:
        """Where the tokens of the rows `indices` [n] come from; the target stands one after the source."""
        return packing.layout(self._plan, indices, length=self.length)

    def rows(self, indices: np.ndarray) -> batches.Batch:
        """The rows `indices` [n], all but the reference log-probabilities."""
        layout = self.places(indices)
        real = layout.segments > 0
        return {
            'inputs': np.where(real, self._tokens[layout.sources], 0).astype(np.int32),
            'targets': np.where(real, self._tokens[layout.sources + 1], 0).astype(np.int32),
            'loss_weights': (real & (self._answers[layout.sources + 1] > 0)).astype(np.float32),
            'segments': layout.segments,
            'positions': layout.positions,
        }

    def give_reference(self, values: np.ndarray, about: Mapping[str, object]) -> None:
        """Gives the reference log-probabilities.

        Args:
          values: [N] float32, of every token of every conversation; 0 where it does not count.
          about: JSON-ready: by which weights they are. It becomes part of the fingerprint.
        """
        self._reference = values
        self.fingerprint = {**self.fingerprint, 'reference': dict(about)}

    def gather(self, indices: np.ndarray, epochs: np.ndarray, seed: int) -> batches.Batch:
        if self._reference is None:
            raise config.InputError(
                'Preferences cannot be read before their reference log-probabilities are computed, which is done by '
                'train() and evaluate() where the objective is one of preferences, such as Dpo(). For other objectives '
                'use Instructions; Preferences cannot be part of a Mixture.'
            )
        layout, rows = self.places(indices), self.rows(indices)
        return {**rows, REFERENCE: np.where(rows['loss_weights'] > 0, self._reference[layout.sources + 1], 0)}


class PreferenceBatches(batches.Batches):
    """Batches of pairs."""

    examples: PreferenceExamples


def _dialogues(record: records.Record, where: records.Where) -> list[encoded_chats.Dialogue]:
    """The conversations with the chosen and with the rejected answer."""
    pair = chat_records.pair_of(record, where)
    return [encoded_chats.Dialogue(pair.prompt + answer, pair.given) for answer in (pair.chosen, pair.rejected)]


def _planned(found: encoded_chats.Conversations, source: records.Records, data: Preferences) -> packing.PackingPlan:
    """Which conversations are in which row.

    Raises:
      InputError: some are too long and are not to be cut, or no pair is left.
    """
    starts, lengths = found.starts[:-1].reshape(-1, 2), (np.diff(found.starts) - 1).reshape(-1, 2)
    different = np.array([_differ(found, pair) for pair in range(len(starts))], bool)
    longer = lengths.sum(axis=1) > data.length
    if longer.any() and not data.cut:
        worst = int(lengths.sum(axis=1).argmax())
        raise config.InputError(
            f'{longer.sum():,} of {len(longer):,} pairs are longer than length={data.length} tokens; the longest '
            f'({source.where(worst)}) has {lengths[worst, 0]:,} and {lengths[worst, 1]:,}. Use a larger length, or cut '
            'them at their ends: Preferences(cut=True).'
        )
    lengths = np.where(longer[:, None], _cut(lengths, data.length), lengths)
    before = np.concatenate([[0], np.cumsum(found.answers, dtype=np.int64)])
    left = (before[starts + 1 + lengths] - before[starts + 1] > 0).all(axis=1)
    _tell(longer, different, left, data.length)
    kept = left & different
    rows = np.arange(0, 2 * kept.sum() + 1, 2)
    return packing.PackingPlan(starts[kept].reshape(-1), lengths[kept].reshape(-1), rows)


def _cut(lengths: np.ndarray, length: int) -> np.ndarray:
    """[pairs, 2]: the longer conversation of a pair is cut first, to what the other leaves or to half of the row."""
    half = length // 2
    chosen = np.minimum(lengths[:, 0], np.maximum(half, length - lengths[:, 1]))
    return np.stack([chosen, np.minimum(lengths[:, 1], length - chosen)], axis=1)


def _differ(found: encoded_chats.Conversations, pair: int) -> bool:
    first, middle, last = found.starts[2 * pair : 2 * pair + 3]
    return not np.array_equal(found.tokens[first:middle], found.tokens[middle:last])


def _tell(longer: np.ndarray, different: np.ndarray, left: np.ndarray, length: int) -> None:
    """Says which pairs are cut or left out; each is a [pairs] bool."""
    if longer.any():
        preparation_progress.say(
            f'{longer.sum():,} of {len(longer):,} pairs are longer than {length} tokens and are cut at their ends; '
            f'{(~left).sum():,} of them have an answer of which nothing is left, and are left out.'
        )
    if not different.all():
        preparation_progress.say(
            f'{(~different).sum():,} of {len(different):,} pairs have two equal answers, and are left out.'
        )
    if not (left & different).any():
        raise config.InputError(
            f'No pair has two different answers within {length} tokens; use a larger length, or other data.'
        )
