"""Batches on the devices, read ahead by a thread while the devices compute."""

import collections
import concurrent.futures

import jax

from bigmodel_jax import sharding
from bigmodel_jax.data import batches

AHEAD = 2  # Batches ready or being read; more only costs memory.


class Feed:
    """The training batches from batch `start` on (the first of a run is 0), as a context manager.

    Each has one field more, batches.ROW_HASH, from which the step makes its certificate.

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
        self.seek(self._next)
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.shutdown(cancel_futures=True)

    def seek(self, index: int) -> None:
        """Goes on from batch `index`."""
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()
        self._next = index
        for _ in range(AHEAD):
            self._submit()

    def next(self) -> dict[str, jax.Array]:
        """The next batch; raises whatever reading it raised."""
        self._submit()
        return self._ahead.popleft().result()

    def _submit(self) -> None:
        self._ahead.append(self._reader.submit(self._read, self._next))
        self._next += 1

    def _read(self, index: int) -> dict[str, jax.Array]:
        return self._place.put_batch(read(self._data, index, self._rows), self._data.rows)


def read(data: batches.Batches, index: int, rows: batches.Rows) -> batches.Batch:
    """Some rows of training batch `index`, with their hashes."""
    ids = data.ids(index, rows)
    return data.read(index, ids, rows) | {batches.ROW_HASH: data.row_hashes(ids, rows)}
