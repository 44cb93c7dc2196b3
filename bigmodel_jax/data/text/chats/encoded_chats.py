"""The conversations of records as tokens, with which of them belong to answers: made once and kept in the cache."""

import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import cache, preparation_progress, records
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.data.text.chats import chat_templates

CHUNK = 2_048  # Records that are written at a time.
TOKENS, ANSWERS, STARTS = 'tokens.bin', 'answers.bin', 'starts.npy'
Writer = tuple[tokenizers.Tokenizer, chat_templates.Template]


class Dialogue(NamedTuple):
    """A conversation, and what of it is trained on."""

    messages: Sequence[chat_templates.Message]
    given: int = 0  # So many answers at its beginning belong to the prompt, and do not count.


Read = Callable[[records.Record, records.Where], Sequence[Dialogue]]  # Always equally many of a record.


class Conversations(NamedTuple):
    """All conversations as tokens, one after the other; those of one record follow one another."""

    tokens: np.ndarray  # [N] uint32, mapped from the disk.
    answers: np.ndarray  # [N] uint8: 1 in an answer that counts.
    starts: np.ndarray  # [conversations + 1] int64.
    fingerprint: Mapping[str, Any]


def encoded(kind: str, found: records.Records, writer: Writer, read: Read) -> Conversations:
    """All conversations as tokens.

    Args:
      kind: of the data; the folder of the cache it goes to.
      writer: the tokenizer and the template.
      read: the conversations of a record; a pure function, the same for every data of a kind.

    Raises:
      InputError: a record is no conversation, or the template cannot write it.
    """
    tokenizer, template = writer
    fingerprint = {
        'records': dict(found.fingerprint), 'tokenizer': tokenizer.fingerprint,
        'template': config.to_json(template), 'template_text': template.text(tokenizer),
    }  # fmt: skip

    def make(directory: pathlib.Path, parts: pathlib.Path) -> None:
        lengths = [0]
        with (directory / TOKENS).open('wb') as tokens, (directory / ANSWERS).open('wb') as answers:
            for each, counts in _encode_all(found, writer, read):
                tokens.write(each.ids.astype(np.uint32).tobytes())
                answers.write(counts.astype(np.uint8).tobytes())
                lengths.append(len(each.ids))
        np.save(directory / STARTS, np.cumsum(lengths))

    directory = cache.prepared(kind, fingerprint | {'format': 1}, make)
    fingerprint |= {'sha256': cache.contents(directory)['files'][TOKENS]['sha256']}
    return Conversations(
        np.memmap(directory / TOKENS, np.uint32, 'r'),
        np.memmap(directory / ANSWERS, np.uint8, 'r'),
        np.load(directory / STARTS),
        fingerprint,
    )


def _encode_all(
    found: records.Records, writer: Writer, read: Read
) -> Iterator[tuple[chat_templates.Encoded, np.ndarray]]:
    """Each conversation, and which of its tokens count."""
    tokenizer, template = writer
    chunks = preparation_progress.track(
        found.chunks(CHUNK), total=-(-len(found) // CHUNK), what=f'Tokenizing {found.name}'
    )
    for first, chunk in chunks:
        of_records = [read(record, functools.partial(found.where, i)) for i, record in enumerate(chunk, first)]
        dialogues = [each for of_record in of_records for each in of_record]
        where = functools.partial(_where, found, first, len(of_records[0]))
        encodings = template.encode([each.messages for each in dialogues], tokenizer, where)
        for i, (dialogue, each) in enumerate(zip(dialogues, encodings)):
            counts = each.turns > dialogue.given
            if not counts[1:].any():
                raise config.InputError(f'{where(i)} has no answer of at least one token.')
            yield each, counts


def _where(found: records.Records, first: int, each: int, number: int) -> str:
    return found.where(first + number // each)
