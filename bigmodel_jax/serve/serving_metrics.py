"""What a server counts, in the format of Prometheus."""

import types
from collections.abc import Callable
from typing import Any

from jax import monitoring

from bigmodel_jax.data import libraries
from bigmodel_jax.evaluate.engine import text_engine

COMPILE_EVENT = '/jax/core/compile/backend_compile_duration'


def load_prometheus() -> types.ModuleType:
    """The module prometheus_client.

    Raises:
      InputError: it is not installed.
    """
    return libraries.load('prometheus_client', "serve needs the 'prometheus_client' package")


class CompileCounter:
    """Counts the programs that XLA compiles in this process from now on."""

    def __init__(self) -> None:
        self.count = 0
        monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, duration_secs: float, **_: Any) -> None:
        self.count += event == COMPILE_EVENT

    def close(self) -> None:
        """Counts no more."""
        monitoring.unregister_event_duration_listener(self._heard)


class ServingMetrics:
    """Counters and gauges of one server, with a registry of their own.

    Args:
      engine: of text, if there is one.
      compiled: how many programs were compiled since the server began to answer.
    """

    def __init__(self, engine: text_engine.TextEngine | None, compiled: Callable[[], int]):
        client = load_prometheus()
        self._client, self.registry = client, client.CollectorRegistry()

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Any:
            return client.Counter(f'bigmodel_jax_{name}', text, labels, registry=self.registry)

        def gauge(name: str, text: str, value: Callable[[], float]) -> None:
            client.Gauge(f'bigmodel_jax_{name}', text, registry=self.registry).set_function(value)

        self.requests = counter('requests', 'Requests that were answered.', ('path', 'status'))
        self.prompt_tokens = counter('prompt_tokens', 'Tokens of prompts that were read.')
        self.generated_tokens = counter('generated_tokens', 'Tokens that were generated and told.')
        self.cancelled = counter('cancelled_texts', 'Texts for which nobody waited any more, or not so long.')
        self.seconds = client.Histogram(
            'bigmodel_jax_request_seconds',
            'Time from a request to the first byte of its answer.',
            ('path',),
            registry=self.registry,
        )
        gauge('compilations_after_start', 'Programs compiled since the server began to answer.', compiled)
        if engine is not None:
            gauge('waiting_texts', 'Texts that wait for a row.', lambda: engine.waiting)
            gauge('running_texts', 'Texts that are being generated.', lambda: engine.running)
            gauge('free_pages', 'Pages of the cache that are free.', lambda: len(engine.pages))
            gauge('pages', 'Pages of the cache.', lambda: engine.pages.count)

    def page(self) -> tuple[bytes, str]:
        """All of it, and its media type."""
        return self._client.generate_latest(self.registry), self._client.CONTENT_TYPE_LATEST
