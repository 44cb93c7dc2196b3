"""Instruction data: conversations, whose answers a language model is trained to write."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches, preparation_progress, records
from bigmodel_jax.data.text import packing, text, tokenizers
from bigmodel_jax.data.text.chats import chat_records, chat_templates, encoded_chats


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instructions(batches.Data):
    """Conversations packed into rows; the loss counts their answers alone, and none sees another.

    A record is {"messages": [{"role": ..., "content": ...}, ...]}, or has `instruction`, `output` and perhaps `input`,
    or has `prompt` and `completion`. A batch holds, where n is `batch` and T is `length`:
      inputs, targets: [n, T] int32. The target is the token after the input.
      weights: [n, T] float32, 1 where the target belongs to an answer, otherwise 0.
      bytes: [n] float32, the UTF-8 bytes of the answers of the row.
      segments: [n, T] int32: 1, 2 ... for the conversations of the row, 0 where padding.
      positions: [n, T] int32: place within the conversation.
    """

    source: records.Source  # Such as JsonLines(pattern='chats.jsonl').
    tokenizer: tokenizers.Vocabulary
    batch: config.Positive
    length: config.Positive
    template: chat_templates.Template = chat_templates.Plain()
    cut: bool = False  # Whether conversations longer than a row are cut at their ends; otherwise they are refused.

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        return text.Documents().fields(self.length, self.tokenizer.upper_bound)

    @property
    def units(self) -> batches.Units:
        return batches.Units('tokens', self.length)

    def encode_prompt(self, text: str, tokenizer: tokenizers.Tokenizer) -> np.ndarray:
        """[n] int32: what the model reads to answer the message `text` of the role 'user'."""
        return self.template.encode_prompt([{'role': 'user', 'content': text}], tokenizer)

    def build(self, seed: int) -> text.TextBatches:
        return text.TextBatches(InstructionExamples(self), rows=self.batch, seed=seed)


class InstructionExamples(batches.Examples):
    """Rows of whole conversations."""

    def __init__(self, data: Instructions):
        self.tokenizer, self.length = data.tokenizer.build(), data.length
        found = data.source.open()
        conversations = encoded_chats.encoded('instructions', found, (self.tokenizer, data.template), _whole)
        starts, lengths = _fitting(conversations, found, data)
        self._plan = packing.packed(starts, lengths, length=data.length)
        self._tokens, self._answers = np.asarray(conversations.tokens), np.asarray(conversations.answers)
        self.fields = text.Documents().fields(data.length, self.tokenizer.size)
        self.fingerprint = {**conversations.fingerprint, 'length': data.length, 'cut': data.cut}

    def __len__(self) -> int:
        return len(self._plan.row_starts) - 1

    def gather(self, indices: np.ndarray, epochs: np.ndarray, seed: int) -> batches.Batch:
        layout = packing.layout(self._plan, indices, length=self.length)
        real = layout.segments > 0
        targets = np.where(real, self._tokens[layout.sources + 1], 0).astype(np.int32)
        weights = (real & (self._answers[layout.sources + 1] > 0)).astype(np.float32)
        return {
            'inputs': np.where(real, self._tokens[layout.sources], 0).astype(np.int32),
            'targets': targets,
            'loss_weights': weights,
            'bytes': (self.tokenizer.token_bytes[targets] * weights).sum(axis=1).astype(np.float32),
            'segments': layout.segments,
            'positions': layout.positions,
        }


def _whole(record: records.Record, where: records.Where) -> list[encoded_chats.Dialogue]:
    return [encoded_chats.Dialogue(chat_records.messages_of(record, where))]


def _fitting(
    found: encoded_chats.Conversations, source: records.Records, data: Instructions
) -> tuple[np.ndarray, np.ndarray]:
    """Where each conversation that goes into a row starts, and its pairs of input and target.

    Raises:
      InputError: some are too long and are not to be cut.
    """
    starts, lengths = found.starts[:-1], np.diff(found.starts) - 1
    longer = lengths > data.length
    if longer.any() and not data.cut:
        worst = int(lengths.argmax())
        raise config.InputError(
            f'{longer.sum():,} of {len(lengths):,} conversations are longer than length={data.length} tokens; the '
            f'longest ({source.where(worst)}) has {lengths[worst]:,}. Use a larger length, or cut them at their ends: '
            'Instructions(cut=True).'
        )
    lengths = np.minimum(lengths, data.length)
    before = np.concatenate([[0], np.cumsum(found.answers, dtype=np.int64)])
    left = before[starts + 1 + lengths] - before[starts + 1] > 0
    if longer.any():
        preparation_progress.say(
            f'{longer.sum():,} of {len(lengths):,} conversations are longer than {data.length} tokens and are cut at '
            f'their ends; {(~left).sum():,} of them have no answer left and are left out.'
        )
    if not left.any():
        raise config.InputError(f'No conversation has an answer within {data.length} tokens; use a larger length.')
    return starts[left], lengths[left]
