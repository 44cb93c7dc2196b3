"""The messages of a record: the forms in which people store conversations and preferences."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bigmodel_jax import config
from bigmodel_jax.data import records
from bigmodel_jax.data.text.chats.chat_templates import Message

FIELDS = ('role', 'content')  # Of a message.
SHOWN = 60  # Characters of a message in an error.


def messages_of(record: records.Record, where: records.Where) -> list[Message]:
    """The messages of a record, in any of the three forms of a conversation.

    Raises:
      InputError: it has none of them, or no answer.
    """
    if 'messages' in record:
        return _with_answer(_messages(record['messages'], 'messages', where), 'messages', where)
    for asked, answered in (('instruction', 'output'), ('prompt', 'completion')):
        if asked in record and answered in record:
            question = records.text(record, asked, where)
            if asked == 'instruction' and record.get('input'):
                question += '\n\n' + records.text(record, 'input', where)
            return [_user(question), _assistant(records.text(record, answered, where))]
    raise config.InputError(
        f'{where()} is not a conversation: it should have "messages", or "instruction" and "output", or "prompt" and '
        f'"completion". It has: {", ".join(map(str, record)) or "nothing"}.'
    )


class PreferencePair(NamedTuple):
    """Two answers to one prompt. All are messages; the prompt may hold earlier answers."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]

    @property
    def given(self) -> int:
        """How many answers the prompt holds."""
        return sum(message['role'] == 'assistant' for message in self.prompt)


def pair_of(record: records.Record, where: records.Where) -> PreferencePair:
    """The two conversations of a record, in the forms of the data sets for TRL.

    `chosen` and `rejected` are texts, or lists of messages; `prompt` is a text or a list of messages. It may be left
    out where both lists begin with it: their common beginning is the prompt then. It may also stand in front of lists
    that repeat it.

    Raises:
      InputError: it has none of these forms, or no answer.
    """
    missing = [name for name in ('chosen', 'rejected') if name not in record]
    if missing:
        raise config.InputError(
            f'{where()} is not a preference: it has no {" and no ".join(map(repr, missing))}. It should have "chosen" '
            f'and "rejected", and mostly "prompt". It has: {", ".join(map(str, record)) or "nothing"}.'
        )
    prompt, chosen, rejected = (_side(record.get(name), name, where) for name in ('prompt', 'chosen', 'rejected'))
    common = _common(chosen, rejected)
    if not prompt:
        if not common:
            raise config.InputError(
                f'{where()} has no "prompt", and "chosen" and "rejected" do not begin with the same message, which '
                'would be the prompt. Add "prompt", as a text or as a list of messages.'
            )
        return _checked(PreferencePair(chosen[:common], chosen[common:], rejected[common:]), where)
    repeated = len(prompt) if chosen[: len(prompt)] == prompt == rejected[: len(prompt)] else 0
    return _checked(PreferencePair(prompt, chosen[repeated:], rejected[repeated:]), where)


def _common(chosen: Sequence[Message], rejected: Sequence[Message]) -> int:
    """How many messages both begin with; the last message of either is no part of a prompt."""
    pairs = zip(chosen[:-1], rejected[:-1])
    return next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(chosen), len(rejected)) - 1)


def _side(value: Any, name: str, where: records.Where) -> list[Message]:
    """The messages of a field of a preference: a text is one of the user in the prompt, and otherwise an answer."""
    if value is None and name == 'prompt':
        return []
    if isinstance(value, str):
        return [_user(value) if name == 'prompt' else _assistant(value)]
    return _messages(value, name, where)


def _checked(pair: PreferencePair, where: records.Where) -> PreferencePair:
    for name, messages in (('chosen', pair.chosen), ('rejected', pair.rejected)):
        _with_answer(messages, name, where)
        if messages[0]['role'] != 'assistant':
            raise config.InputError(
                f'{where()}: "{name}" should begin with a message of the role "assistant" after the prompt, but begins '
                f'with one of {messages[0]["role"]!r}: {messages[0]["content"][:SHOWN]!r}. Where "chosen" and '
                '"rejected" repeat the prompt, both must repeat all of it, letter by letter.'
            )
    if pair.prompt[-1]['role'] == 'assistant':
        raise config.InputError(
            f'{where()}: the prompt ends with a message of the role "assistant"; an answer follows one of another role.'
        )
    return pair


def _with_answer(messages: list[Message], name: str, where: records.Where) -> list[Message]:
    if not any(message['role'] == 'assistant' for message in messages):
        of = '' if name == 'messages' else f'"{name}" '
        raise config.InputError(f'{where()} {of}has no message of the role "assistant", whose text is trained on.')
    return messages


def _messages(given: Any, name: str, where: records.Where) -> list[Message]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise config.InputError(f'{where()}: "{name}" is a {type(given).__name__}, not a list.')
    found: list[Message] = []
    for number, message in enumerate(given, 1):
        if not isinstance(message, Mapping):
            raise config.InputError(f'{where()}: message {number} is a {type(message).__name__}, not an object.')
        role, content = (records.text(message, each, functools.partial(_in, where, number)) for each in FIELDS)
        found.append({'role': role, 'content': content})
    return found


def _in(where: records.Where, number: int) -> str:
    return f'{where()}, message {number}'


def _user(content: str) -> Message:
    return {'role': 'user', 'content': content}


def _assistant(content: str) -> Message:
    return {'role': 'assistant', 'content': content}
