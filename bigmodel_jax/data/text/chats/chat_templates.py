"""Conversations as tokens: how the messages of a chat are concatenated, and which tokens belong to answers."""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data.text.pretrained import pretrained_base
from bigmodel_jax.data.text.tokenizer import Tokenizer

RENDERER = pathlib.Path(__file__).with_name('chat_renderer.py')
MEMORY_BYTES = 2 * 2**30  # Of the process that renders.
CPU_S, PER_SECOND = 10, 100  # It may compute so long, and another second for so many conversations.


class Message(TypedDict):
    """One message of a conversation."""

    role: str  # 'system', 'user', 'assistant'.
    content: str


class Encoded(NamedTuple):
    """A conversation as tokens."""

    ids: np.ndarray  # [n] int32.
    turns: np.ndarray  # [n] int32: 1, 2 ... in the tokens of the first answer, the second ...; 0 in all others.

    @property
    def answers(self) -> np.ndarray:
        """[n] bool: the tokens of the answers, which the model should learn to write."""
        return self.turns > 0


Where = Callable[[int], str]  # Says where the conversation of that number stands.


class Template:
    """Interface of the configs that write conversations."""

    def encode(self, conversations: Sequence[Sequence[Message]], tokenizer: Tokenizer, where: Where) -> list[Encoded]:
        """Every conversation. Raises InputError if one cannot be written."""
        raise NotImplementedError

    def encode_prompt(self, messages: Sequence[Message], tokenizer: Tokenizer) -> np.ndarray:
        """[n] int32: what a model reads to answer the last of `messages`."""
        raise NotImplementedError

    def text(self, tokenizer: Tokenizer) -> str | None:
        """What the encoding depends on, besides the ids of the tokenizer."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plain(Template):
    """Each message after a heading, for a tokenizer without a chat template; the tokenizer's `end` ends an answer.

    The headings are those of Alpaca (Taori et al., 2023). Special tokens written out in a message are text.
    """

    system: str = ''
    user: str = '### Instruction:\n'
    assistant: str = '### Response:\n'
    separator: str = '\n\n'  # After a message that is not an answer.

    def encode(self, conversations: Sequence[Sequence[Message]], tokenizer: Tokenizer, where: Where) -> list[Encoded]:
        return [self._encode(each, tokenizer, functools.partial(where, i)) for i, each in enumerate(conversations)]

    def _encode(self, messages: Sequence[Message], tokenizer: Tokenizer, where: Callable[[], str]) -> Encoded:
        ids, turns, before = [tokenizer.begin], [0], ''
        for message in messages:
            if message['role'] != 'assistant':
                before += self._heading(message, where) + message['content'] + self.separator
                continue
            prompt = tokenizer.encode(before + self.assistant).tolist()
            answer = [*tokenizer.encode(message['content']).tolist(), tokenizer.end]
            ids += prompt + answer
            turns += [0] * len(prompt) + [max(turns) + 1] * len(answer)
            before = ''
        return Encoded(np.array(ids, np.int32), np.array(turns, np.int32))

    def _heading(self, message: Message, where: Callable[[], str]) -> str:
        headings = {'system': self.system, 'user': self.user}
        if message['role'] not in headings:
            known = config.nearest(message['role'], [*headings, 'assistant'])
            raise config.InputError(f'{where()}: Plain() has no heading for the role {message["role"]!r}.{known}')
        return headings[message['role']]

    def encode_prompt(self, messages: Sequence[Message], tokenizer: Tokenizer) -> np.ndarray:
        asked: Message = {'role': 'assistant', 'content': ''}
        return self._encode([*messages, asked], tokenizer, lambda: 'The prompt').ids[:-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jinja(Template):
    """A chat template in Jinja, as the tokenizers of chat models have it; special tokens written out in it become ids.

    Rendered in a sandbox in a process of its own, with little time and memory, since it comes with a download.
    """

    template: str | None = None  # None: the tokenizer's own.

    def text(self, tokenizer: Tokenizer) -> str:
        found = self.template or tokenizer.chat_template
        if not found or not isinstance(tokenizer, pretrained_base.PretrainedBase):
            raise config.InputError(
                'Jinja() needs a pretrained tokenizer with a chat template (in its tokenizer_config.json, or in '
                'chat_template.jinja); this one has none. Give one, Jinja(template=...), or use Plain().'
            )
        return found

    def encode(self, conversations: Sequence[Sequence[Message]], tokenizer: Tokenizer, where: Where) -> list[Encoded]:
        found = self._render(conversations, tokenizer, prompt=False)
        encoded = []
        for i, each in enumerate(found):
            if 'error' in each:
                raise config.InputError(f'{where(i)}: the chat template fails: {each["error"]}.')
            ids, places = tokenizer.encode_rendered(each['text'])
            turns = np.zeros(len(ids), np.int32)
            for turn, (start, end) in enumerate(each['spans'], 1):
                turns[(places[:, 1] > start) & (places[:, 0] < end) & (places[:, 1] > places[:, 0])] = turn
            encoded.append(Encoded(ids, turns))
        return encoded

    def encode_prompt(self, messages: Sequence[Message], tokenizer: Tokenizer) -> np.ndarray:
        (found,) = self._render([messages], tokenizer, prompt=True)
        if 'error' in found:
            raise config.InputError(f'The chat template fails: {found["error"]}.')
        return tokenizer.encode_rendered(found['text'])[0]

    def _render(
        self, conversations: Sequence[Sequence[Message]], tokenizer: Tokenizer, *, prompt: bool
    ) -> list[dict[str, Any]]:
        cpu_s = CPU_S + len(conversations) // PER_SECOND
        task = {
            'template': self.text(tokenizer), 'variables': getattr(tokenizer, 'special_texts', {}),
            'conversations': conversations, 'prompt': prompt, 'cpu_s': cpu_s, 'memory_bytes': MEMORY_BYTES,
        }  # fmt: skip
        # -P: the modules of this folder have names of the standard library's; the path is that of this process.
        environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(path for path in sys.path if path)}
        try:
            done = subprocess.run(
                [sys.executable, '-P', str(RENDERER)], input=json.dumps(task), env=environment, timeout=30 * cpu_s,
                capture_output=True, text=True, encoding='utf-8', check=True,
            )  # fmt: skip
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            last = (error.stderr or '').strip().rpartition('\n')[2] if isinstance(error.stderr, str) else ''
            raise config.InputError(
                f'The chat template could not be rendered in {cpu_s} s of computing and {MEMORY_BYTES // 2**30} GiB of '
                f'memory: {last or "it was stopped"}. Write it another way, or use Plain().'
            ) from error
        found = json.loads(done.stdout)
        if 'unreadable' in found[0]:
            raise config.InputError(f'The chat template cannot be read: {found[0]["unreadable"]}.')
        return found
