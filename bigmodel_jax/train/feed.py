"""Batches on the devices, read ahead by a thread while the devices compute."""

import collections
import concurrent.futures

import jax

from bigmodel_jax import sharding
from bigmodel_jax.data import batches

AHEAD = 2  # Batches ready or being read; more only costs memory.


class Feed:
    """The training batches from step `start` on (the first of a run is 0), as a context manager.

    Args:
      data: what to read.
      place: where the rows go; this process reads only its own.
    """

    def __init__(self, data: batches.Batches, place: sharding.Place, start: int):
        self._data, self._place, self._next = data, place, start
        self._rows = place.local_rows(data.rows)
        self._reader = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix='feed')
        self._ahead: collections.deque[concurrent.futures.Future[dict[str, jax.Array]]] = collections.deque()

    def __enter__(self) -> 'Feed':
        for _ in range(AHEAD):
            self._submit()
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.shutdown(cancel_futures=True)

    def next(self) -> dict[str, jax.Array]:
        """The next batch; raises whatever reading it raised."""
        self._submit()
        return self._ahead.popleft().result()

    def _submit(self) -> None:
        self._ahead.append(self._reader.submit(self._read, self._next))
        self._next += 1

    def _read(self, step: int) -> dict[str, jax.Array]:
        return self._place.put_batch(self._data.training(step, self._rows), self._data.rows)
