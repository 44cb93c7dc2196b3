"""Batches on the devices, read ahead by a thread while the devices compute."""

import collections
import concurrent.futures

import jax

from bigmodel_jax.data import batches
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import route

AHEAD = 2  # Batches ready or being read; more only costs memory.


class Feed:
    """The training batches of the steps after `start`, as a context manager.

    Each has one field more, batches.ROW_HASH, from which the step makes its certificate.

    Args:
      data: what to read.
      place: where the rows go; this process reads only its own.
      route: which batch each step takes.
    """

    def __init__(self, data: batches.Batches, place: sharding.Place, start: int, taken: route.Route):
        self._data, self._place, self._step, self._route = data, place, start, taken
        self._rows = place.local_rows(data.rows)
        self._reader = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix='feed')
        self._ahead: collections.deque[concurrent.futures.Future[dict[str, jax.Array]]] = collections.deque()

    def __enter__(self) -> 'Feed':
        self.seek(self._step, self._route)
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.shutdown(cancel_futures=True)

    def seek(self, step: int, taken: route.Route) -> None:
        """Goes on after `step`, on that route."""
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()
        self._step, self._route = step, taken
        for _ in range(AHEAD):
            self._submit()

    def next(self) -> dict[str, jax.Array]:
        """The next batch; raises whatever reading it raised."""
        self._submit()
        return self._ahead.popleft().result()

    def _submit(self) -> None:
        self._step += 1
        self._ahead.append(self._reader.submit(self._read, self._route.batch(self._step)))

    def _read(self, index: int) -> dict[str, jax.Array]:
        return self._place.put_batch(read(self._data, index, self._rows), self._data.rows)


def read(data: batches.Batches, index: int, rows: batches.Rows) -> batches.Batch:
    """Some rows of training batch `index`, with their hashes."""
    ids = data.ids(index, rows)
    return data.read(index, ids, rows) | {batches.ROW_HASH: data.row_hashes(ids, rows)}
