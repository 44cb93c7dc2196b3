"""The server as an ASGI application: who may ask, what is answered, and what a wrong request is told."""

import asyncio
import dataclasses
import secrets
import time
from collections.abc import Awaitable, Sequence
from typing import Any

from bigmodel_jax import config, web_server
from bigmodel_jax.evaluate import artifacts
from bigmodel_jax.serve import answers, bodies, description, serving_metrics
from bigmodel_jax.serve.served_model import ServedModel, UnknownModel
from bigmodel_jax.serve.served_texts import QueueFull, TextService
from bigmodel_jax.serve.text_endpoints import TextEndpoints, error_content

RETRY_AFTER_S = 1
MOST_PREDICTIONS = 64  # Requests for predictions that may wait.
LEFT = 499  # The status under which a client is counted that did not wait, as nginx has it.
OPEN = ('/health',)  # Paths that need no key.


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Access:
    """Who may ask.

    Attributes:
      address: where it is served, and under which names.
      key: what the header 'Authorization: Bearer KEY' must say; None: anybody who reaches the address.
    """

    address: web_server.Address = web_server.Address(port=8_000)
    key: str | None = None

    def allows(self, header: str) -> bool:
        """Whether a request with this header has the key; it takes as long for every wrong one."""
        if self.key is None:
            return True
        kind, _, given = header.partition(' ')
        right = secrets.compare_digest(given.strip().encode(), self.key.encode())
        return right and kind.lower() == 'bearer'


LOCAL = Access()


class Endpoints:
    """What each path answers."""

    def __init__(self, served: ServedModel, service: TextService | None, metrics: serving_metrics.ServingMetrics):
        self.served, self.service, self.metrics = served, service, metrics
        self.is_draining = False
        self._texts = None if service is None else TextEndpoints(served, service, metrics)
        self._predicting, self._predictions = asyncio.Lock(), 0

    def routes(self) -> list[Any]:
        """The routes, as Starlette takes them."""
        from starlette import routing

        got: dict[str, Any] = {
            '/health': self.health,
            '/metrics': self.page,
            '/v1/models': self.models,
            '/openapi.json': self.openapi,
        }
        got['/v1/models/{name}'] = self.model
        posted: dict[str, Any] = {'/predict': self.predict}
        if self._texts is not None:
            posted = {
                '/v1/completions': self.completions,
                '/v1/chat/completions': self.chat,
                '/v1/embeddings': self.embeddings,
            }
        found = [routing.Route(path, function, methods=['GET']) for path, function in got.items()]
        return found + [routing.Route(path, function, methods=['POST']) for path, function in posted.items()]

    # ---- about the server -----------------------------------------------------------------------------------------

    async def health(self, _: Any) -> Any:
        """Whether the server works."""
        failed = self.service is not None and self.service.thread.failure is not None
        state = 'failed' if failed else 'draining' if self.is_draining else 'ok'
        return _json({'status': state, 'model': self.served.name}, 200 if state == 'ok' else 503)

    async def page(self, _: Any) -> Any:
        """The counters."""
        from starlette import responses

        content, kind = self.metrics.page()
        return responses.Response(content, media_type=kind)

    async def openapi(self, _: Any) -> Any:
        """What the server understands."""
        return _json(description.openapi(text=self._texts is not None))

    def _card(self) -> dict[str, Any]:
        served = self.served
        card = {'id': served.name, 'object': 'model', 'created': 0, 'owned_by': 'bigmodel_jax', 'step': served.step}
        return card | {'fingerprint': served.fingerprint, 'max_model_len': self.service and self.service.length}

    async def models(self, _: Any) -> Any:
        """The model that is served, as a list."""
        return _json({'object': 'list', 'data': [self._card()]})

    async def model(self, request: Any) -> Any:
        """The model that is served."""
        self.served.check_name(request.path_params['name'])
        return _json(self._card())

    # ---- text -----------------------------------------------------------------------------------------------------

    async def completions(self, request: Any) -> Any:
        """Continues prompts."""
        body = bodies.CompletionBody.read(await _content(request, self._body_bytes))
        assert self._texts is not None
        return await self._answer(request, self._texts.completion(body))

    async def chat(self, request: Any) -> Any:
        """Answers a conversation."""
        body = bodies.ChatBody.read(await _content(request, self._body_bytes))
        assert self._texts is not None
        # In a thread: a template in Jinja is rendered by a process of its own.
        return await self._answer(request, await asyncio.to_thread(self._texts.chat, body))

    async def _answer(self, request: Any, asked: Any) -> Any:
        from starlette import responses

        assert self._texts is not None
        choices = self._texts.start(asked)
        if asked.body.stream:
            events = self._texts.stream(asked, choices)
            return responses.StreamingResponse(events, media_type='text/event-stream')
        return _json(await self._watched(request, self._texts.whole(asked, choices)))

    async def embeddings(self, request: Any) -> Any:
        """The embeddings of texts."""
        body = bodies.EmbeddingBody.read(await _content(request, self._body_bytes))
        assert self._texts is not None
        return _json(await self._texts.embeddings(body, lambda work: self._watched(request, work)))

    async def _watched(self, request: Any, work: Awaitable[Any]) -> Any:
        """What `work` gives; it is cancelled when it takes too long, or the client leaves."""
        assert self.service is not None
        working, left = asyncio.ensure_future(work), asyncio.create_task(_disconnected(request))
        try:
            done, _ = await asyncio.wait(
                {working, left}, timeout=self.service.limits.timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if working in done:
                return working.result()
            if left in done:
                raise ClientLeft
            raise TimeoutError(f'It took over {self.service.limits.timeout_s:g} s.')
        finally:
            for task in (working, left):
                task.cancel()
            await asyncio.gather(working, left, return_exceptions=True)

    # ---- labels and numbers ---------------------------------------------------------------------------------------

    async def predict(self, request: Any) -> Any:
        """Labels or numbers for records."""
        body = bodies.PredictBody.read(await _content(request, self._body_bytes))
        self.served.check_name(body.model)
        if self._predictions >= MOST_PREDICTIONS:
            raise QueueFull
        self._predictions += 1
        try:
            return await self._predicted(body.records)
        finally:
            self._predictions -= 1

    async def _predicted(self, records: Sequence[dict[str, Any]]) -> Any:
        assert self.served.predictor is not None
        async with self._predicting:  # One at a time, in a thread, so that the server goes on answering.
            found = await asyncio.to_thread(self.served.predictor, records)
        return _json({'model': self.served.name, 'predictions': [_table(each) for each in found]})

    @property
    def _body_bytes(self) -> int:
        return 32 * 2**20 if self.service is None else self.service.limits.body_bytes


def application(made: Endpoints, access: Access) -> Any:
    """The application: the answers behind a gate that counts them, asks for the key and turns errors into sentences."""
    from starlette import applications, exceptions

    handlers: dict[Any, Any] = dict.fromkeys((config.InputError, QueueFull, TimeoutError, ClientLeft), _told)
    handlers |= {exceptions.HTTPException: _http_error, Exception: _failed}
    app = applications.Starlette(routes=made.routes(), exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Gate(app, made, access)


class Gate:
    """Before the application: hosts and keys; after it: what is counted."""

    def __init__(self, app: Any, made: Endpoints, access: Access):
        self._app, self._made, self._access = app, made, access
        routes = [route.path for route in app.routes]
        self._paths = {path: path for path in routes if '{' not in path}

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope['type'] != 'http':
            return
        began = time.monotonic()
        path = self._paths.get(scope['path'], 'other')

        async def counted(message: dict[str, Any]) -> None:
            if message['type'] == 'http.response.start':
                self._made.metrics.requests.labels(path, str(message['status'])).inc()
                self._made.metrics.seconds.labels(path).observe(time.monotonic() - began)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, counted)
            return
        await self._app(scope, receive, counted)

    def _refusal(self, scope: dict[str, Any]) -> Any:
        """The answer to who may not ask; None for others."""
        headers = {name: value.decode('latin-1') for name, value in scope['headers']}
        if not self._access.address.allows(headers.get(b'host', '')):
            text = 'This server answers under its own address only. See serve --help: --allow-host.'
            return _error(421, text, 'invalid_request_error')
        if scope['path'] not in OPEN and not self._access.allows(headers.get(b'authorization', '')):
            text = "The key is missing or wrong; send the header 'Authorization: Bearer KEY'."
            return _error(401, text, 'authentication_error', {'WWW-Authenticate': 'Bearer'})
        if self._made.is_draining and scope['method'] == 'POST':
            return _error(503, 'The server is stopping.', 'unavailable', {'Retry-After': str(RETRY_AFTER_S)})
        return None


class TooLarge(config.InputError):
    """The body of a request is longer than may be."""


async def _content(request: Any, most: int) -> bytes:
    """The body of a request, of `most` bytes at most."""
    from starlette import requests

    content = bytearray()
    try:
        async for part in request.stream():
            content += part
            if len(content) > most:
                raise TooLarge(f'The body is longer than {most} bytes.')
    except requests.ClientDisconnect:
        raise ClientLeft from None
    return bytes(content)


async def _disconnected(request: Any) -> None:
    while (await request.receive())['type'] != 'http.disconnect':
        pass


def _table(found: Any) -> dict[str, Any]:
    if isinstance(found, artifacts.Table):
        rows = [
            [answers.log_probability(each) if isinstance(each, float) else each for each in row] for row in found.rows
        ]
        return {'columns': list(found.columns), 'rows': rows}
    return {'text': str(getattr(found, 'text', found))}


# ---- errors ---------------------------------------------------------------------------------------------------------


def _json(content: Any, status: int = 200) -> Any:
    from starlette import responses

    return responses.JSONResponse(content, status_code=status)


def _error(status: int, message: str, kind: str, headers: dict[str, str] | None = None) -> Any:
    from starlette import responses

    return responses.JSONResponse({'error': error_content(message, kind)}, status_code=status, headers=headers)


async def _told(request: Any, error: Exception) -> Any:
    """The answer to a request that could not be answered."""
    if isinstance(error, ClientLeft):
        return _error(LEFT, 'The client left.', 'cancelled')  # Nobody reads it, but it is counted.
    if isinstance(error, QueueFull):
        text = 'Too many texts wait already; try again later.'
        return _error(429, text, 'rate_limit_error', {'Retry-After': str(RETRY_AFTER_S)})
    if isinstance(error, TimeoutError):
        return _error(408, str(error) or 'It took too long.', 'timeout')
    kinds: dict[type[Exception], int] = {UnknownModel: 404, TooLarge: 413}
    return _error(kinds.get(type(error), 400), str(error), 'invalid_request_error')


async def _http_error(request: Any, error: Any) -> Any:
    return _error(error.status_code, str(error.detail), 'invalid_request_error', error.headers)


async def _failed(request: Any, error: Exception) -> Any:
    return _error(500, 'The server failed; its log says why.', 'server_error')
