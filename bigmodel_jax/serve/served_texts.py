"""Texts on request: from a body to requests of the engine, followed until they end, stop or nobody waits any more."""

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.evaluate.engine.text_request import Continuation, Draw, TextRequest
from bigmodel_jax.evaluate.text import decoding
from bigmodel_jax.serve import bodies, engine_thread, text_progress


class EngineFailed(Exception):
    """The engine ended before the text did."""


class QueueFull(Exception):
    """More requests wait than may; the client should come again later."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServingLimits:
    """What a request may take.

    Attributes:
      queue: texts that may wait for a row at most.
      timeout_s: for a whole answer.
      body_bytes: of a request.
      drain_s: how long answers that are under way may take after the server was told to stop.
    """

    queue: int = 256
    timeout_s: float = 600.0
    body_bytes: int = 32 * 2**20
    drain_s: float = 60.0


USUAL = ServingLimits()


class ServedText:
    """One text of an answer.

    Attributes:
      prompt: [n] int32.
      reason: why it ended, as the interface names it: 'stop' or 'length'; None while it goes on.
    """

    def __init__(self, prompt: np.ndarray, continuation: Continuation, progress: text_progress.TextProgress):
        self.prompt, self.continuation, self.progress = prompt, continuation, progress
        self.event = asyncio.Event()
        self.characters = 0  # Of the tokens whose log-probabilities were told.
        self._seen = 0

    @property
    def reason(self) -> str | None:
        """Why it ended; see the class."""
        if self.progress.is_stopped:
            return 'stop'
        if self.continuation.ending is None or self._seen < len(self.continuation.tokens):
            return None
        return self.continuation.ending

    @property
    def count(self) -> int:
        """How many new tokens belong to it."""
        return self.progress.tokens

    async def advance(self) -> None:
        """Waits until there is something new, and takes it in."""
        await self.event.wait()
        self.event.clear()
        ending = self.continuation.ending  # Before the tokens, so that none comes in between.
        tokens = self.continuation.tokens[self._seen :]
        self._seen += len(tokens)
        self.progress.add(tokens)
        if ending == 'cancelled':
            raise EngineFailed


class TextService:
    """Texts of one model.

    Args:
      tokenizer: what the prompts are encoded with.
      end: the token at which texts stop.
    """

    def __init__(self, thread: engine_thread.EngineThread, tokenizer: tokenizers.Tokenizer, limits: ServingLimits):
        self.thread, self.tokenizer, self.limits = thread, tokenizer, limits

    @property
    def length(self) -> int:
        """Tokens of a text at most, prompt and continuation."""
        return self.thread.engine.length

    def encode(self, prompt: str | Sequence[int]) -> np.ndarray:
        """What the model reads of a prompt, as text or as tokens.

        Raises:
          InputError: the tokenizer cannot encode it.
        """
        if not isinstance(prompt, str):
            return np.array(prompt, np.int32)
        decoding.check_texts([prompt])
        return self.tokenizer.encode_prompt(prompt)

    def draws(self, body: bodies.TextBody, seed: int, prompts: int) -> list[Draw]:
        """How each text of an answer is drawn: of every prompt `body.n`, numbered through."""
        how: dict[str, Any] = {'temperature': body.temperature, 'top_k': body.top_k, 'top_p': body.top_p, 'seed': seed}
        return [Draw(**how, choice=choice) for choice in range(prompts * body.n)]

    def start(self, requests: Sequence[TextRequest], stops: Sequence[str] = ()) -> list[ServedText]:
        """The texts of some requests, under way.

        Raises:
          InputError: one of them cannot be generated; then none is.
          QueueFull: too many wait.
        """
        for request in requests:
            self.thread.engine.check(request)
        if len(requests) > self.limits.queue:
            raise config.InputError(
                f'A request asks for {len(requests)} texts, but {self.limits.queue} wait here at most; ask for fewer.'
            )
        if self.thread.engine.waiting + len(requests) > self.limits.queue:
            raise QueueFull
        return [self._choice(request, stops) for request in requests]

    def _choice(self, request: TextRequest, stops: Sequence[str]) -> ServedText:
        loop, made = asyncio.get_running_loop(), asyncio.Event()

        def changed() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(made.set)

        progress = text_progress.TextProgress(self.tokenizer, request.prompt, stops)
        choice = ServedText(request.prompt, self.thread.submit(request, changed), progress)
        choice.event = made
        return choice

    async def finish(self, choice: ServedText) -> None:
        """Returns when a text has ended; its row is free then, or will be at the next step."""
        try:
            while choice.reason is None:
                await choice.advance()
        finally:
            self.thread.cancel(choice.continuation)
