"""What a tokenizer is; tokenizers.py has the kinds there are."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath

DESCRIPTION = 'vocabulary.json'


class Tokenizer:
    """Text to numbers and back. `decode(encode(text)) == text` unless the class says otherwise."""

    size: int  # Every id is below it.
    end: int  # Stands between documents, and before the first. Never part of what encode() returns.
    token_bytes: np.ndarray  # [size] int32: UTF-8 bytes of text that each id stands for; 0 for `end` and the like.

    def encode(self, text: str) -> np.ndarray:
        """[n] int32."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: list[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, without those that stand for none, as `end`. Half a character becomes U+FFFD."""
        raise NotImplementedError

    def id_of(self, token: str) -> int | None:
        """The id of a special token such as '[MASK]'; None where there is no such thing."""
        return None

    def spans(self, text: str) -> np.ndarray | None:
        """[n, 2] int64: where each token of encode(text) begins and ends in `text`; None if that cannot be told."""
        return None

    def files(self) -> dict[str, bytes]:
        """All that makes up this tokenizer, by file name."""
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
