"""The interface of tokenizers; tokenizers.py has the kinds."""

import hashlib
import json
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from bigmodel_jax.data import libraries

DESCRIPTION = 'vocabulary.json'
LONG_TEXT = 2**20  # Characters; a longer document is tokenized in parts of about so many, where that is exact.
BETWEEN_WORDS = re.compile(r'(?<=\S)[ \n]')


def whole(text: str) -> Iterator[str]:
    """The text as one part, for tokenizers whose encoding may change where a text is cut."""
    yield text


def cut_anywhere(text: str) -> Iterator[str]:
    """Parts of a text each of whose characters is encoded by itself."""
    for at in range(0, len(text), LONG_TEXT):
        yield text[at : at + LONG_TEXT]


def cut_between_words(text: str) -> Iterator[str]:
    """Parts of a text that is split into words before it is encoded: cut before a space that follows a word.

    There a word ends with every tokenizer that goes from left to right, and what it sees ahead, spaces, is not cut.
    """
    at = 0
    while at < len(text):
        found = BETWEEN_WORDS.search(text, at + LONG_TEXT)
        end = found.start() if found else len(text)
        yield text[at:end]
        at = end


class Tokenizer:
    """Text to numbers and back. `decode(encode(text)) == text` unless the class says otherwise."""

    size: int  # Every id is less than it.
    end: int  # Stands between documents, and before the first. Never part of what encode() returns.
    chat_template: str | None = None  # Jinja text that renders a conversation, of tokenizers that come with one.
    parts: Callable[[str], Iterator[str]] = staticmethod(whole)  # Of a text, whose ids, joined, are encode(text).
    token_bytes: np.ndarray  # [size] int32: UTF-8 bytes of text that each id stands for; 0 for `end` and the like.

    def encode(self, text: str) -> np.ndarray:
        """[n] int32."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: list[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, without those that stand for none, as `end`. Half a character becomes U+FFFD."""
        raise NotImplementedError

    def piece(self, i: int) -> str:
        """The text of the token with the id `i` for people; of a special token its name, such as '<|im_end|>'."""
        return self.decode([i]) or ('<end>' if i == self.end else f'<{i}>')

    @property
    def begin(self) -> int:
        """What a model reads before the first token of a document: `end`, unless there is a token of its own (BOS)."""
        return self.end

    def encode_prompt(self, text: str) -> np.ndarray:
        """[n] int32, n > 0: what a model reads to continue `text`; by default `begin` and the tokens of the text."""
        return np.array([self.begin, *self.encode(text)], np.int32)

    def encode_rendered(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """[n] int32, [n, 2] int64: the ids of a rendered conversation, and where each begins and ends in `text`.

        The special tokens that are written out in it, such as '<|im_end|>', become their ids.
        """
        raise NotImplementedError

    def id_of(self, token: str) -> int | None:
        """The id of a special token such as '[MASK]'; None where there is no such thing."""
        return None

    def spans(self, text: str) -> np.ndarray | None:
        """[n, 2] int64: where each token of encode(text) begins and ends in `text`; None if that cannot be told."""
        return None

    def files(self) -> dict[str, bytes]:
        """The content of each file of this tokenizer, by name."""
        return {}

    @classmethod
    def restore(cls, files: Mapping[str, bytes]) -> 'Tokenizer':
        """The tokenizer that has these files()."""
        return cls()

    @property
    def fingerprint(self) -> dict[str, Any]:
        """JSON-ready: equal for tokenizers that give equal ids."""
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in self.files().items()}
        return {'class': type(self).__name__, 'size': self.size, **hashes}

    def stored(self) -> dict[str, bytes]:
        """What save() writes: the content of each file by its name; the description is the last."""
        files = self.files()
        description = {'class': type(self).__name__, 'files': list(files)}
        return {**files, DESCRIPTION: json.dumps(description).encode()}

    def save(self, directory: epath.PathLike) -> None:
        """Writes the tokenizer's files into `directory`, for load()."""
        folder = epath.Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.stored().items():
            (folder / name).write_bytes(content)


class Vocabulary:
    """Interface of the configs that build a tokenizer."""

    @property
    def upper_bound(self) -> int | None:
        """An upper bound of the ids (exclusive), if it is known before any training."""
        return None

    def build(self) -> Tokenizer:
        """The tokenizer, which is trained first if that has not been done yet.

        Raises:
          InputError: a library or the text is missing.
        """
        raise NotImplementedError


def import_library(name: str) -> types.ModuleType:
    """The module of a library that only some tokenizers need.

    Raises:
      InputError: it is not installed.
    """
    return libraries.load(name, f'This tokenizer needs the {name!r} package')
