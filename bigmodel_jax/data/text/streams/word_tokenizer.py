"""A tokenizer of whole words between spaces, for texts that were tokenized beforehand, such as the Penn Treebank."""

import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data.text import tokenizer

UNKNOWN = '<unk>'


class WordTokenizer(tokenizer.Tokenizer):
    """Each id is the index of a word in a list; the end of a document comes last."""

    FILE = 'words.json'
    parts = staticmethod(tokenizer.cut_between_words)

    def __init__(self, words: Sequence[str]):
        self._words, self.end, self.size = list(words), len(words), len(words) + 1
        self._ids = {word: i for i, word in enumerate(words)}
        # A word and the space behind it, which the last one of a line has too; and the end of a line.
        self.token_bytes = np.array([len(word.encode()) + 1 for word in words] + [1], np.int32)

    def encode(self, text: str) -> np.ndarray:
        """A word that is not in the list is '<unk>'.

        Raises:
          InputError: there is one, and '<unk>' is not in the list.
        """
        other = self._ids.get(UNKNOWN)
        found = [self._ids.get(word, other) for word in text.split()]
        if None in found:
            word = text.split()[found.index(None)]
            raise config.InputError(
                f'The word {word!r} is not among the {self.end} that the tokenizer knows, and neither is {UNKNOWN!r}, '
                'which would stand for it. Train it on text that holds one of them (trained_on), or use another '
                'tokenizer.'
            )
        return np.array(found, np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        return ' '.join(self._words[i] if i < self.end else '\n' for i in map(int, ids))

    def files(self) -> dict[str, bytes]:
        return {self.FILE: json.dumps(self._words).encode()}

    @classmethod
    def restore(cls, files: Mapping[str, bytes]) -> tokenizer.Tokenizer:
        return cls(json.loads(files[cls.FILE]))
