"""What the interface of OpenAI answers, from texts. Source: its API reference, objects 'text_completion' and 'chat'."""

import itertools
import math
import time
from collections.abc import Sequence
from typing import Any

from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.serve import text_progress
from bigmodel_jax.serve.served_texts import ServedText

IMPOSSIBLE = -9999.0  # Stands for a log-probability of minus infinity, which JSON cannot say.


def log_probability(value: float) -> float | None:
    """A log-probability as JSON can say it; None for one that is not a number."""
    return None if math.isnan(value) else max(value, IMPOSSIBLE)


class TextAnswer:
    """The answer to a request for completions.

    Args:
      echo: whether the prompt stands before each text.
      best: how many of the most likely tokens are told of each position; None tells no log-probabilities.
    """

    kind, chunk_kind, prefix = 'text_completion', 'text_completion', 'cmpl'

    def __init__(self, tokenizer: tokenizers.Tokenizer, *, best: int | None, echo: bool = False):
        self.tokenizer, self.best, self.echo = tokenizer, best, echo

    def whole(self, index: int, choice: ServedText) -> dict[str, Any]:
        """A text that has ended."""
        text = self._before(choice) + choice.progress.news(is_last=True)
        return self.piece(index, choice, text, reason=choice.reason, since=0)

    def first(self, index: int, choice: ServedText) -> list[dict[str, Any]]:
        """What a stream begins with."""
        before = self._before(choice)
        return [self._choice(index, before, None, None)] if before else []

    def piece(self, index: int, choice: ServedText, text: str, *, reason: str | None, since: int) -> dict[str, Any]:
        """A part of a text, with what is told of its tokens from number `since` on."""
        told = None if self.best is None else self._told(choice, since)
        return self._choice(index, text, told, reason)

    def _before(self, choice: ServedText) -> str:
        return self.tokenizer.decode(choice.prompt[choice.prompt < self.tokenizer.size]) if self.echo else ''

    def _choice(self, index: int, text: str, told: Any, reason: str | None) -> dict[str, Any]:
        return {'index': index, 'text': text, 'logprobs': told, 'finish_reason': reason}

    def _told(self, choice: ServedText, since: int) -> dict[str, Any]:
        made, stop = choice.continuation, choice.count
        tokens, log_ps = made.tokens[since:stop], [log_probability(each) for each in made.log_ps[since:stop]]
        best = [dict(self._named(each)) for each in made.best[since:stop]] if self.best else None
        if self.echo and not since:
            prompt = choice.prompt.tolist()
            log_ps = [None, *map(log_probability, made.prompt_log_ps), *log_ps]
            best = None if best is None else [{} for _ in prompt] + best
            tokens = prompt + tokens
        texts = list(text_progress.token_texts(self.tokenizer, tokens))
        ends = list(itertools.accumulate(map(len, texts), initial=choice.characters))
        choice.characters = ends[-1]
        return {
            'tokens': texts,
            'token_ids': tokens,
            'token_logprobs': log_ps,
            'top_logprobs': best,
            'text_offset': ends[:-1],
        }

    def _named(self, best: Sequence[tuple[int, float]]) -> list[tuple[str, float | None]]:
        names = text_progress.token_texts(self.tokenizer, [token for token, _ in best])
        return [(name, log_probability(log_p)) for name, (_, log_p) in zip(names, best)]


class ChatAnswer(TextAnswer):
    """The answer to a conversation."""

    kind, chunk_kind, prefix = 'chat.completion', 'chat.completion.chunk', 'chatcmpl'

    def whole(self, index: int, choice: ServedText) -> dict[str, Any]:
        message = {'role': 'assistant', 'content': choice.progress.news(is_last=True), 'refusal': None}
        told = None if self.best is None else self._told(choice, 0)
        return {'index': index, 'message': message, 'logprobs': told, 'finish_reason': choice.reason}

    def first(self, index: int, choice: ServedText) -> list[dict[str, Any]]:
        delta = {'role': 'assistant', 'content': ''}
        return [{'index': index, 'delta': delta, 'logprobs': None, 'finish_reason': None}]

    def _choice(self, index: int, text: str, told: Any, reason: str | None) -> dict[str, Any]:
        delta = {'content': text} if text else {}
        return {'index': index, 'delta': delta, 'logprobs': told, 'finish_reason': reason}

    def _told(self, choice: ServedText, since: int) -> dict[str, Any]:
        made, found = choice.continuation, []
        for number in range(since, choice.count):
            best = made.best[number] if self.best else []
            entry = self._token(made.tokens[number], made.log_ps[number])
            found.append(entry | {'top_logprobs': [self._token(token, log_p) for token, log_p in best]})
        return {'content': found, 'refusal': None}

    def _token(self, token: int, log_p: float) -> dict[str, Any]:
        (text,) = text_progress.token_texts(self.tokenizer, [token])
        return {'token': text, 'logprob': log_probability(log_p), 'bytes': list(text.encode()), 'token_id': token}


def usage(choices: Sequence[ServedText], prompts: int) -> dict[str, int]:
    """The tokens of a request, of which `prompts` were read."""
    made = sum(each.count for each in choices)
    return {'prompt_tokens': prompts, 'completion_tokens': made, 'total_tokens': prompts + made}


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())
