"""The text of a continuation while its tokens come in: what of it will not change any more, and where it stops."""

from collections.abc import Iterator, Sequence

import numpy as np

from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.evaluate.text import generation

HALF = '\N{REPLACEMENT CHARACTER}'  # What a tokenizer gives for a character that is not complete.


class TextProgress:
    """Turns tokens into text as `sample` does, and looks for the texts that end it.

    It sees the tokens one by one, so that what it finds does not depend on when they come.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, prompt: np.ndarray, stops: Sequence[str]):
        self._tokenizer, self._stops = tokenizer, stops
        self._prompt = prompt[prompt < tokenizer.size]  # A vocabulary that was rounded up has ids without a text.
        self._tokens: list[int] = []
        self.text = ''
        self.is_stopped = False
        self._told = 0

    @property
    def tokens(self) -> int:
        """How many tokens the text has, up to the one in which it stops."""
        return len(self._tokens)

    def add(self, tokens: Sequence[int]) -> None:
        """Adds tokens; those after a text that ends it are left out."""
        for token in tokens:
            if self.is_stopped:
                return
            self._tokens.append(token)
            if self._stops:
                self._read()
        if not self._stops:
            self._read()

    def _read(self) -> None:
        self.text = generation.continuation(self._tokenizer, self._prompt, np.array(self._tokens, np.int32))
        found = [at for at in (self.text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.text, self.is_stopped = self.text[: min(found)], True

    def news(self, *, is_last: bool) -> str:
        """What is new since the last call, without what may still change."""
        end = len(self.text)
        if not is_last and not self.is_stopped:
            end = len(self.text.rstrip(HALF)) - max(map(self._begun, self._stops), default=0)
        new = self.text[self._told : end]
        self._told = max(self._told, end)
        return new

    def _begun(self, stop: str) -> int:
        """How much of `stop` the end of the text may be the beginning of."""
        return next((size for size in range(len(stop) - 1, 0, -1) if self.text.endswith(stop[:size])), 0)


def token_texts(tokenizer: tokenizers.Tokenizer, tokens: Sequence[int]) -> Iterator[str]:
    """The text of each token by itself; of one that is not a text, such as the end token, its id."""
    for token in tokens:
        text = tokenizer.decode([token]) if 0 <= token < tokenizer.size else ''
        yield text or f'<{token}>'
