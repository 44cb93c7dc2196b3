"""Serves the live page: read only, to this machine alone unless it is told otherwise, from one origin. No JAX."""

import threading
import types
from collections.abc import Callable, MutableMapping
from typing import Any, Self

from etils import epath

from bigmodel_jax import config, web_server
from bigmodel_jax.report.live import choice as choices
from bigmodel_jax.report.live import live_page, overview
from bigmodel_jax.report.live.live_run import LiveRun
from bigmodel_jax.report.live.live_runs import LiveRuns

USUAL = web_server.Address(port=8_008)
CONNECTIONS = 64  # At a time.
# Nothing but what this server sends: no script within a page, no other origin, no frame around it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    'Content-Security-Policy': POLICY,
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cache-Control': 'no-store',
}


class LivePage:
    """The live page of some runs, served by a thread while this is open; a context manager.

    Args:
      roots: directories of runs, or below which runs are.

    Raises:
      InputError: a root is not there; the address cannot be used; or the server is not installed.
    """

    def __init__(self, *roots: epath.PathLike, address: web_server.Address = USUAL):
        _uvicorn()  # Before the runs are read.
        self._runs = LiveRuns(roots or ('runs',))
        self._socket = web_server.listen(address)
        self.count = len(self._runs.runs)
        app = application(self._runs, address)
        self._server = web_server.uvicorn_server(app, connections=CONNECTIONS, patience_s=1)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name='live page', daemon=True)
        self.url = f'{web_server.url_of(self._socket)}/'

    def __enter__(self) -> Self:
        self._runs.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self) -> None:
        """Returns when the server has ended."""
        while self._thread.is_alive():
            self._thread.join(timeout=1.0)

    def close(self) -> None:
        """Stops serving."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
        self._runs.__exit__()


def _uvicorn() -> types.ModuleType:
    try:
        import starlette  # noqa: F401 (Used by application().)
        import uvicorn
    except ImportError as error:
        raise config.InputError(
            f'watch needs {error.name}, which is not installed: pip install starlette uvicorn. '
            'Without it, --write FILE.html writes the same page to a file.'
        ) from None
    return uvicorn


# ---- what is answered -----------------------------------------------------------------------------------------------


def application(runs: LiveRuns, address: web_server.Address) -> Any:
    """The page as an ASGI application; see LiveAnswers for its addresses."""
    from starlette import applications, routing

    answers = LiveAnswers(runs)
    from_what_was_read = {
        '/': answers.overview,
        '/run/{key}': answers.run,
        '/charts': answers.charts,
        '/chart': answers.chart,
        '/table': answers.table,
        '/values': answers.values,
        '/changes': answers.changes,
    }
    from_files = {
        '/header/{key}': answers.header,
        '/details/{key}': answers.details,
        '/artifacts/{key}/{name}': answers.artifact,
        '/live.css': answers.style,
        '/live.js': answers.script,
    }
    functions = {path: answers.locked(function) for path, function in from_what_was_read.items()}
    functions |= {path: answers.answer(function) for path, function in from_files.items()}
    routes = [routing.Route(path, function, methods=['GET']) for path, function in functions.items()]
    made = applications.Starlette(routes=routes)
    made.router.redirect_slashes = False
    return Guard(made, address)


class Guard:
    """Before the application: who names another host is refused; after it: headers that keep the page to itself."""

    def __init__(self, application: Any, address: web_server.Address):
        self._application, self._address = application, address

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        from starlette import responses

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message['type'] == 'http.response.start':
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, 'headers': [*message['headers'], *own]}
            await send(message)

        hosts = [value for name, value in scope['headers'] if name == b'host']
        if len(hosts) != 1 or not self._address.allows(hosts[0].decode('latin-1')):
            text = 'This page is served under its own address only. See watch --help: --allow-host.\n'
            await responses.PlainTextResponse(text, status_code=421)(scope, receive, send_with_headers)
            return
        await self._application(scope, receive, send_with_headers)


class LiveAnswers:
    """What each address answers, from what was read so far."""

    def __init__(self, runs: LiveRuns):
        self._runs = runs

    def answer(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A function of a request as Starlette calls it, in a thread, with wrong input as a sentence."""
        from starlette import responses

        def answered(request: Any) -> Any:
            self._runs.looked_at()
            try:
                found = function(request)
            except config.InputError as error:
                return responses.PlainTextResponse(f'{error}\n', status_code=400)
            return responses.HTMLResponse(found) if isinstance(found, str) else found

        return answered

    def locked(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """As answer(), of a function that reads what the logs were read into: one at a time."""

        def alone(request: Any) -> Any:
            with self._runs.lock:
                return function(request)

        return self.answer(alone)

    def _run(self, key: str) -> LiveRun:
        with self._runs.lock:
            found = self._runs.by_key(key)
        if found is None:
            raise config.InputError(f'There is no run {key!r} any more.')
        return found

    def overview(self, request: Any) -> str:
        """The page on many runs; on the run itself, if there is but one."""
        choice = choices.parse(request.url.query)
        if self._runs.is_one_run:
            return live_page.run_page(self._runs, self._runs.runs[0], choice)
        return live_page.overview_page(self._runs, choice)

    def run(self, request: Any) -> str:
        """The page on one run."""
        return live_page.run_page(self._runs, self._run(request.path_params['key']), choices.parse(request.url.query))

    def charts(self, request: Any) -> Any:
        """The names of the charts, as JSON."""
        from starlette import responses

        key = request.query_params.get('run')
        if key:
            return responses.JSONResponse(live_page.run_charts(self._run(key)))
        return responses.JSONResponse(live_page.charts(self._runs, choices.parse(request.url.query)))

    def chart(self, request: Any) -> str:
        """A chart, of one run or of many."""
        choice, name = choices.parse(request.url.query), request.query_params.get('chart', '')
        key = request.query_params.get('run')
        if key:
            return live_page.run_chart(self._run(key), choice, name)
        return live_page.chart(self._runs, choice, name)

    def table(self, request: Any) -> str:
        return live_page.table(self._runs, choices.parse(request.url.query))

    def values(self, request: Any) -> str:
        """The values near the pointer."""
        query = request.query_params
        try:
            at = overview.PointerPlace(float(query.get('step', '')), float(query.get('value', '')))
        except ValueError:
            raise config.InputError('step and value are numbers.') from None
        if query.get('run'):
            return live_page.run_values(self._run(query['run']), query.get('chart', ''), at)
        return live_page.values(self._runs, choices.parse(request.url.query), query.get('chart', ''), at)

    def header(self, request: Any) -> str:
        return live_page.run_header(self._run(request.path_params['key']).path)

    def details(self, request: Any) -> str:
        return live_page.run_details(self._run(request.path_params['key']))

    def changes(self, request: Any) -> Any:
        """Which runs have changed since a revision, and whether the list of them has."""
        from starlette import responses

        since = request.query_params.get('since', '0')
        number = int(since) if since.isascii() and since.isdecimal() else 0
        return responses.JSONResponse(
            {
                'revision': self._runs.revision,
                'runs': [run.key for run in self._runs.runs if run.revision > number],
                'listed': self._runs.listed > number,
                'unread': len(self._runs.unread),
            }
        )

    def artifact(self, request: Any) -> Any:
        """The file of an artifact."""
        from starlette import responses

        content, kind = live_page.artifact(self._run(request.path_params['key']), request.path_params['name'])
        return responses.Response(content, media_type=kind)

    def style(self, _: Any) -> Any:
        """The style sheet."""
        from starlette import responses

        return responses.Response(live_page.style(), media_type='text/css')

    def script(self, _: Any) -> Any:
        """The script of the page."""
        from starlette import responses

        return responses.Response(live_page.script(), media_type='text/javascript')
