"""What an engine is asked to generate, and what it has generated so far."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import annotated_types
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import counter_rng

# 'stop': the end token; 'length': as many tokens as were asked for; 'cancelled': nobody waits for it any more.
Ending = Literal['stop', 'length', 'cancelled']
Temperature = annotated_types.Ge(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw:
    """How tokens are drawn: a pure function of this and of the position.

    Attributes:
      temperature: 0 takes the most likely token.
      top_k, top_p: see decoding.candidates().
      seed, choice: two texts differ in one of them, or are equal. `sample` numbers the prompts of one call by choice.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    choice: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float('inf'):
            raise config.InputError(f'temperature={self.temperature}: use a number from 0, which takes the likeliest.')
        if self.top_k is not None and self.top_k < 1:
            raise config.InputError(f'top_k={self.top_k}: use at least 1.')
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise config.InputError(f'top_p={self.top_p}: use a number above 0 and up to 1.')
        if not 0 <= self.seed < counter_rng.SEEDS:
            raise config.InputError(f'seed={self.seed}: use a whole number from 0 to 2^64 - 1.')

    @property
    def is_restricted(self) -> bool:
        """Whether some tokens are never drawn."""
        limited = self.top_k is not None or (self.top_p is not None and self.top_p < 1)
        return self.temperature > 0 and limited


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextRequest:
    """A prompt to be continued.

    Attributes:
      prompt: [n] int32, at least one token.
      tokens: new ones at most; 0 only reads the prompt.
      end: the token at which the text stops; it is the last of the new tokens then.
      best: how many of the most likely tokens are told at each position.
      scored: whether log p of the tokens of the prompt, and the mean of its features, are told as well.
    """

    prompt: np.ndarray
    tokens: int
    end: int
    draw: Draw = Draw()
    best: int = 0
    scored: bool = False


class Continuation:
    """What was generated for a request so far; the engine alone changes it.

    Attributes:
      tokens: the new tokens, with the end token.
      log_ps: log p of each under the model: with no temperature, and over all tokens.
      best: of each position the most likely tokens, with their log-probabilities.
      prompt_log_ps: log p of each token of the prompt but the first, where that was asked for.
      embedding: [D] float32, the mean of the features of the prompt, where `scored` was asked for.
      ending: None while it goes on.
      failure: why it could not go on, if so.
    """

    def __init__(self, request: TextRequest, changed: Callable[[], None] | None = None):
        self.request = request
        self.tokens: list[int] = []
        self.log_ps: list[float] = []
        self.best: list[list[tuple[int, float]]] = []
        self.prompt_log_ps: list[float] = []
        self.embedding: np.ndarray | None = None
        self.ending: Ending | None = None
        self.is_unwanted = False  # Whether it was cancelled, and is to end.
        self._changed = changed

    @property
    def log_p(self) -> float:
        """Log-probability of all new tokens."""
        return float(np.sum(np.array(self.log_ps, np.float64)))

    def tell(self) -> None:
        """Tells whoever waits that something is new."""
        if self._changed is not None:
            self._changed()
