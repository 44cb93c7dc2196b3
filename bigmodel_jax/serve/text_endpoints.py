"""The endpoints of text: completions, conversations, embeddings."""

import asyncio
import base64
import dataclasses
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data.text.chats import chat_templates
from bigmodel_jax.evaluate.engine.text_request import TextRequest
from bigmodel_jax.serve import answers, bodies, serving_metrics
from bigmodel_jax.serve.served_model import ServedModel
from bigmodel_jax.serve.served_texts import EngineFailed, ServedText, TextService

SHORT_ANSWER = 256  # Tokens of an answer in a conversation, where nobody says how many.


@dataclasses.dataclass(frozen=True)
class AskedTexts:
    """What a body asks for: a request for each text, and how they are answered."""

    requests: Sequence[TextRequest]
    prompt_tokens: int
    answer: answers.TextAnswer
    body: bodies.TextBody
    seed: int


class TextEndpoints:
    """Answers bodies with texts of a model."""

    def __init__(self, served: ServedModel, service: TextService, metrics: serving_metrics.ServingMetrics):
        self._served, self._service, self._metrics = served, service, metrics

    # ---- what is asked --------------------------------------------------------------------------------------------

    def completion(self, body: bodies.CompletionBody) -> AskedTexts:
        """Raises InputError where the model cannot answer it."""
        self._served.check_name(body.model)
        service, best = self._service, body.logprobs
        prompts = [service.encode(each) for each in body.prompts]
        if len(prompts) * body.n > bodies.MOST_TEXTS:
            raise config.InputError(
                f'{len(prompts)} prompts with n={body.n} are more than {bodies.MOST_TEXTS} texts; ask for fewer.'
            )
        seed = _seed(body)
        scored = body.echo and best is not None
        tokens = 16 if body.max_tokens is None else body.max_tokens
        if not tokens and not scored:
            raise config.InputError('max_tokens=0 asks for nothing; with echo and logprobs it scores the prompt.')
        told: dict[str, Any] = {'tokens': tokens, 'end': service.tokenizer.end, 'best': best or 0, 'scored': scored}
        repeated = [prompt for prompt in prompts for _ in range(body.n)]
        draws = service.draws(body, seed, len(prompts))
        requests = [TextRequest(prompt=each, draw=draw, **told) for each, draw in zip(repeated, draws)]
        answer = answers.TextAnswer(service.tokenizer, best=best, echo=body.echo)
        return AskedTexts(requests, sum(map(len, prompts)), answer, body, seed)

    def chat(self, body: bodies.ChatBody) -> AskedTexts:
        """Raises InputError where the model cannot answer it."""
        self._served.check_name(body.model)
        service, best = self._service, body.top_logprobs
        if best is not None and not body.logprobs:
            raise config.InputError('top_logprobs is told with logprobs=true only.')
        messages: list[chat_templates.Message] = [{'role': each.role, 'content': each.text} for each in body.messages]
        prompt = self._served.encode_messages(messages)
        room = service.length - len(prompt)
        tokens = body.max_completion_tokens or body.max_tokens or max(min(SHORT_ANSWER, room), 1)
        seed = _seed(body)
        told: dict[str, Any] = {'tokens': tokens, 'end': service.tokenizer.end, 'best': best or 0}
        requests = [TextRequest(prompt=prompt, draw=draw, **told) for draw in service.draws(body, seed, 1)]
        answer = answers.ChatAnswer(service.tokenizer, best=(best or 0) if body.logprobs else None)
        return AskedTexts(requests, len(prompt), answer, body, seed)

    def start(self, asked: AskedTexts) -> list[ServedText]:
        """Raises InputError, or QueueFull; see TextService.start()."""
        choices = self._service.start(asked.requests, asked.body.stops)
        self._metrics.prompt_tokens.inc(asked.prompt_tokens)
        return choices

    # ---- what is answered -----------------------------------------------------------------------------------------

    def _envelope(self, asked: AskedTexts, kind: str) -> dict[str, Any]:
        return {
            'id': f'{asked.answer.prefix}-{secrets.token_hex(12)}',
            'object': kind,
            'created': answers.now(),
            'model': self._served.name,
            'system_fingerprint': self._served.fingerprint,
            'seed': asked.seed,
        }

    async def whole(self, asked: AskedTexts, choices: list[ServedText]) -> dict[str, Any]:
        """The answer when all texts have ended."""
        try:
            await asyncio.gather(*(self._service.finish(each) for each in choices))
        finally:
            self.leave(choices)
        told = [asked.answer.whole(index, choice) for index, choice in enumerate(choices)]
        return {
            **self._envelope(asked, asked.answer.kind),
            'choices': told,
            'usage': answers.usage(choices, asked.prompt_tokens),
        }

    async def stream(self, asked: AskedTexts, choices: list[ServedText]) -> AsyncIterator[bytes]:
        """Server-sent events: a part of a text each, then '[DONE]'."""
        envelope = self._envelope(asked, asked.answer.chunk_kind)
        parts: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        tasks = [asyncio.create_task(self._parts(asked, choice, i, parts)) for i, choice in enumerate(choices)]
        try:
            async with asyncio.timeout(self._service.limits.timeout_s):
                async for part in _until_all_ended(parts, len(tasks)):
                    yield _event({**envelope, 'choices': [part]})
            for task in tasks:
                task.result()
            if asked.body.stream_options and asked.body.stream_options.include_usage:
                yield _event({**envelope, 'choices': [], 'usage': answers.usage(choices, asked.prompt_tokens)})
            yield b'data: [DONE]\n\n'
        except EngineFailed:
            yield _event({'error': error_content('The server failed; its log says why.', 'server_error')})
        except TimeoutError:
            yield _event({'error': error_content(f'It took over {self._service.limits.timeout_s:g} s.', 'timeout')})
        finally:
            self.leave(choices)  # Without waiting: where the client left, nothing is waited for any more.
            for task in tasks:
                task.cancel()

    async def _parts(self, asked: AskedTexts, choice: ServedText, index: int, parts: 'asyncio.Queue[Any]') -> None:
        try:
            for first in asked.answer.first(index, choice):
                parts.put_nowait(first)
            since = 0
            while choice.reason is None:
                await choice.advance()
                text, count = choice.progress.news(is_last=choice.reason is not None), choice.count
                if text or choice.reason is not None or asked.answer.best is not None:
                    parts.put_nowait(asked.answer.piece(index, choice, text, reason=choice.reason, since=since))
                    since = count
        finally:
            parts.put_nowait(None)

    def leave(self, choices: Sequence[ServedText]) -> None:
        """Ends what goes on of an answer for which nobody waits any more."""
        for choice in choices:
            if choice.reason is None:
                self._metrics.cancelled.inc()
            self._service.thread.cancel(choice.continuation)
            self._metrics.generated_tokens.inc(choice.count)

    async def embeddings(self, body: bodies.EmbeddingBody, watched: Callable[[Awaitable[Any]], Any]) -> dict[str, Any]:
        """The mean of the last features over the tokens of each text."""
        self._served.check_name(body.model)
        prompts = [self._service.encode(each) for each in body.inputs]
        end = self._service.tokenizer.end
        requests = [TextRequest(prompt=each, tokens=0, end=end, scored=True) for each in prompts]
        choices = self._service.start(requests)
        try:
            await watched(asyncio.gather(*(self._service.finish(each) for each in choices)))
        finally:
            self.leave(choices)
        total = sum(map(len, prompts))
        self._metrics.prompt_tokens.inc(total)
        data = [
            {'object': 'embedding', 'index': index, 'embedding': _embedding(each.continuation.embedding, body)}
            for index, each in enumerate(choices)
        ]
        usage = {'prompt_tokens': total, 'total_tokens': total}
        return {'object': 'list', 'data': data, 'model': self._served.name, 'usage': usage}


async def _until_all_ended(parts: 'asyncio.Queue[Any]', texts: int) -> AsyncIterator[Any]:
    """What is put into the queue, where None says that one more of `texts` texts has ended."""
    while texts:
        part = await parts.get()
        if part is None:
            texts -= 1
        else:
            yield part


def _seed(body: bodies.TextBody) -> int:
    """The seed of a request; a new one, which the answer tells, where it says none."""
    return secrets.randbelow(2**32) if body.seed is None else body.seed


def _embedding(values: np.ndarray | None, body: bodies.EmbeddingBody) -> Any:
    assert values is not None
    if body.encoding_format == 'base64':
        return base64.b64encode(values.astype('<f4').tobytes()).decode()
    return [answers.log_probability(float(each)) for each in values]


def _event(content: dict[str, Any]) -> bytes:
    return f'data: {json.dumps(content, allow_nan=False)}\n\n'.encode()


def error_content(message: str, kind: str, parameter: str | None = None) -> dict[str, Any]:
    """An error as the interface tells it."""
    return {'message': message, 'type': kind, 'param': parameter, 'code': None}
