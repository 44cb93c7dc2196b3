"""The thread that brings the texts of an engine on."""

import threading
from typing import Self

from bigmodel_jax.evaluate.engine import text_engine
from bigmodel_jax.evaluate.engine.text_request import Continuation, TextRequest

IDLE_S = 1.0


class EngineThread:
    """Steps an engine while this is open; a context manager.

    Attributes:
      failure: the exception that ended the thread, such as one of the device; None as long as it works.
      steps: steps that did something.
    """

    def __init__(self, engine: text_engine.TextEngine):
        self.engine = engine
        self.failure: BaseException | None = None
        self.steps = 0
        self._wake, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name='text engine', daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._wake.set()
        self._thread.join()

    def submit(self, request: TextRequest, changed: text_engine.Changed) -> Continuation:
        """As of the engine; `changed` is called in its thread."""
        if self.failure is not None:
            raise RuntimeError('The engine has failed.') from self.failure
        continuation = self.engine.submit(request, changed)
        self._wake.set()
        return continuation

    def cancel(self, continuation: Continuation) -> None:
        """As of the engine."""
        self.engine.cancel(continuation)
        self._wake.set()

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                self._wake.clear()
                if self.engine.step():
                    self.steps += 1
                else:
                    self._wake.wait(IDLE_S)
        except BaseException as error:
            self.failure = error
            self.engine.abandon()
            raise
