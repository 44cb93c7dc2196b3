"""Serves a run over HTTP: every program is compiled before the first answer, and answers under way are finished."""

import signal
import threading
from typing import Any, Self

import numpy as np

from bigmodel_jax import config, web_server
from bigmodel_jax.data import libraries
from bigmodel_jax.serve import application, engine_thread, served_texts, serving_metrics
from bigmodel_jax.serve.served_model import ServedModel
from bigmodel_jax.serve.served_texts import ServingLimits, TextService

PREDICTED_ROWS = 64  # Rows that a predictor computes at a time at most.
CONNECTIONS = 1_024  # At a time.


class ModelServer:
    """A server of one model, which answers while this is open; a context manager.

    Attributes:
      url: under which it is reached.
      thread: which brings texts on, where the model generates text.

    Raises:
      InputError: the address cannot be used; a library is missing; or the model cannot be served.
    """

    def __init__(
        self,
        served: ServedModel,
        *,
        access: application.Access = application.LOCAL,
        limits: ServingLimits = served_texts.USUAL,
    ):
        libraries.load('uvicorn', "serve needs the 'uvicorn' package", extra='serve')
        libraries.load('starlette', "serve needs the 'starlette' package", extra='serve')
        serving_metrics.load_prometheus()
        self.served, self._limits = served, limits
        self._socket = web_server.listen(access.address)  # Before anything is compiled, which takes minutes.
        self.compiled = serving_metrics.CompileCounter()
        self._at_start = 0
        self.metrics = serving_metrics.ServingMetrics(served.engine, lambda: self.compilations)
        self.thread: engine_thread.EngineThread | None = None
        service = None
        if served.engine is not None and served.tokenizer is not None:
            self.thread = engine_thread.EngineThread(served.engine)
            service = TextService(self.thread, served.tokenizer, limits)
        self._answers = application.Endpoints(served, service, self.metrics)
        app = application.application(self._answers, access)
        self._server = web_server.uvicorn_server(app, connections=CONNECTIONS, patience_s=int(limits.drain_s))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name='server', daemon=True)
        self.url = web_server.url_of(self._socket)

    @property
    def compilations(self) -> int:
        """Programs that were compiled since the server began to answer."""
        return self.compiled.count - self._at_start

    def __enter__(self) -> Self:
        if self.thread is not None:
            self.thread.engine.warm_up()
            self.thread.__enter__()
        else:
            _warm_up(self.served)
        self._at_start = self.compiled.count
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.drain()
        self.wait()
        if self.thread is not None:
            self.thread.__exit__()
        self._socket.close()
        self.compiled.close()

    def drain(self, *_: object) -> None:
        """Takes no more requests and ends when those under way are answered; the second time it ends at once."""
        self._server.force_exit = self._answers.is_draining
        self._answers.is_draining = self._server.should_exit = True

    def wait(self) -> None:
        """Returns when the server has ended.

        Raises:
          RuntimeError: the engine has failed.
        """
        while self._thread.is_alive():
            self._thread.join(timeout=0.2)
            if self.thread is not None and self.thread.failure is not None:
                self._server.should_exit = self._server.force_exit = True
        if self.thread is not None and self.thread.failure is not None:
            raise RuntimeError('The engine of the server has failed.') from self.thread.failure

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT, and finishes what is under way then."""
        before = {number: signal.signal(number, self.drain) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _warm_up(served: ServedModel) -> None:
    """Predicts from zeros in every number of rows for which there is a program."""
    fields = served.data.fields
    record: dict[str, Any] = {name: np.zeros(field.shape, field.dtype) for name, field in fields.items()}
    assert served.predictor is not None
    count = 1
    while count <= PREDICTED_ROWS:
        served.predictor([record] * count)
        count *= 2


def read_key(path: str | None) -> str | None:
    """The key in a file, without the white space around it; None without a file.

    Raises:
      InputError: it cannot be read, or is empty.
    """
    if path is None:
        return None
    try:
        with open(path, encoding='utf-8') as file:
            key = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise config.InputError(f'--api-key-file {path} cannot be read: {error}.') from error
    if not key:
        raise config.InputError(f'--api-key-file {path} is empty; write a key into it.')
    return key
