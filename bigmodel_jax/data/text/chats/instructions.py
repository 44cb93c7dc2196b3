"""Instruction data: conversations, whose answers a language model is trained to write."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches, cache, preparation_progress, records
from bigmodel_jax.data.text import packing, text, tokenizers
from bigmodel_jax.data.text.chats import chat_templates

CHUNK = 2_048  # Conversations that are written at a time.
FIELDS = ('role', 'content')  # Of a message.
TOKENS, ANSWERS, STARTS = 'tokens.bin', 'answers.bin', 'starts.npy'


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


class Conversations(NamedTuple):
    """All conversations as tokens, one after the other."""

    tokens: np.ndarray  # [N] uint32, mapped from the disk.
    answers: np.ndarray  # [N] uint8: 1 in an answer.
    starts: np.ndarray  # [conversations + 1] int64.
    fingerprint: Mapping[str, Any]


class InstructionExamples(batches.Examples):
    """Rows of whole conversations."""

    def __init__(self, data: Instructions):
        self.tokenizer, self.length = data.tokenizer.build(), data.length
        found = data.source.open()
        conversations = encoded(found, self.tokenizer, data.template)
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


def _fitting(found: Conversations, source: records.Records, data: Instructions) -> tuple[np.ndarray, np.ndarray]:
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


# ---- reading ------------------------------------------------------------------------------------------------------


def encoded(
    found: records.Records, tokenizer: tokenizers.Tokenizer, template: chat_templates.Template
) -> Conversations:
    """All conversations as tokens, made once and kept in the cache.

    Raises:
      InputError: a record is no conversation, or the template cannot write it.
    """
    fingerprint = {
        'records': dict(found.fingerprint), 'tokenizer': tokenizer.fingerprint,
        'template': config.to_json(template), 'template_text': template.text(tokenizer),
    }  # fmt: skip

    def make(directory: pathlib.Path, parts: pathlib.Path) -> None:
        lengths = [0]
        with (directory / TOKENS).open('wb') as tokens, (directory / ANSWERS).open('wb') as answers:
            for each in _encode_all(found, tokenizer, template):
                tokens.write(each.ids.astype(np.uint32).tobytes())
                answers.write(each.answers.astype(np.uint8).tobytes())
                lengths.append(len(each.ids))
        np.save(directory / STARTS, np.cumsum(lengths))

    directory = cache.prepared('instructions', fingerprint | {'format': 1}, make)
    fingerprint |= {'sha256': cache.contents(directory)['files'][TOKENS]['sha256']}
    return Conversations(
        np.memmap(directory / TOKENS, np.uint32, 'r'),
        np.memmap(directory / ANSWERS, np.uint8, 'r'),
        np.load(directory / STARTS),
        fingerprint,
    )


def _encode_all(
    found: records.Records, tokenizer: tokenizers.Tokenizer, template: chat_templates.Template
) -> Iterator[chat_templates.Encoded]:
    chunks = preparation_progress.track(
        found.chunks(CHUNK), total=-(-len(found) // CHUNK), what=f'Tokenizing {found.name}'
    )
    for first, chunk in chunks:
        conversations = [
            messages_of(record, functools.partial(found.where, i)) for i, record in enumerate(chunk, first)
        ]
        where = functools.partial(_where, found, first)
        for i, each in enumerate(template.encode(conversations, tokenizer, where)):
            if not each.answers[1:].any():
                raise config.InputError(f'{where(i)} has no answer of at least one token.')
            yield each


def _where(found: records.Records, first: int, number: int) -> str:
    return found.where(first + number)


def messages_of(record: records.Record, where: records.Where) -> list[chat_templates.Message]:
    """The messages of a record, in any of the three forms.

    Raises:
      InputError: it has none of them, or no answer.
    """
    if 'messages' in record:
        return _messages(record['messages'], where)
    for asked, answered in (('instruction', 'output'), ('prompt', 'completion')):
        if asked in record and answered in record:
            question = records.text(record, asked, where)
            if asked == 'instruction' and record.get('input'):
                question += '\n\n' + records.text(record, 'input', where)
            answer = records.text(record, answered, where)
            return [{'role': 'user', 'content': question}, {'role': 'assistant', 'content': answer}]
    raise config.InputError(
        f'{where()} is not a conversation: it should have "messages", or "instruction" and "output", or "prompt" and '
        f'"completion". It has: {", ".join(map(str, record)) or "nothing"}.'
    )


def _messages(given: Any, where: records.Where) -> list[chat_templates.Message]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise config.InputError(f'{where()}: "messages" is a {type(given).__name__}, not a list.')
    found: list[chat_templates.Message] = []
    for number, message in enumerate(given, 1):
        if not isinstance(message, Mapping):
            raise config.InputError(f'{where()}: message {number} is a {type(message).__name__}, not an object.')
        role, content = (records.text(message, name, functools.partial(_in, where, number)) for name in FIELDS)
        found.append({'role': role, 'content': content})
    if not any(message['role'] == 'assistant' for message in found):
        raise config.InputError(f'{where()} has no message of the role "assistant", whose text is trained on.')
    return found


def _in(where: records.Where, number: int) -> str:
    return f'{where()}, message {number}'
