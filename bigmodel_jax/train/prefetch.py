"""Batches on the devices, read ahead by worker threads while the devices compute.

The workers are Grain's. They are threads, not processes: what takes long in reading (decompressing images, copying
arrays, reading files) releases Python's lock, nothing has to be copied from one process to another, and none is left
behind when a run is stopped (scripts/benchmark/workers.py measures both).
"""

import sys
from typing import TypeVar

import grain
import jax

from bigmodel_jax.data import batches
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import route

T = TypeVar('T')


class Prefetcher:
    """The training batches of the steps after `start`, as a context manager.

    Each has one field more, batches.ROW_HASH, from which the step makes its certificate. Which batch a step gets, and
    every number in it, is the same for any number of workers.

    Args:
      data: what to read.
      place: where the rows go; this process reads only its own.
      start: the step after which reading begins.
      taken: which batch each step takes.
      workers: threads that read batches ahead, each another batch; 0: each batch is read when it is asked for. So many
        batches and one more are held in memory.
    """

    def __init__(
        self,
        data: batches.Batches,
        place: sharding.ShardingContext,
        start: int,
        taken: route.Route,
        *,
        workers: int = 1,
    ):
        self._data, self._place, self._step, self._route = data, place, start, taken
        self._rows = place.local_rows(data.rows)
        self._workers = workers
        self._batches: grain.DatasetIterator[dict[str, jax.Array]] | None = None

    def __enter__(self) -> 'Prefetcher':
        self.seek(self._step, self._route)
        return self

    def __exit__(self, *_: object) -> None:
        if self._batches is not None:
            self._batches.close()  # Its threads end after the batches that they are reading now.

    def seek(self, step: int, taken: route.Route) -> None:
        """Continues after `step`, on that route."""
        if self._batches is not None:
            self._batches.close()
        steps = grain.MapDataset.range(step + 1, sys.maxsize)
        self._batches = read_ahead(steps.map(lambda number: self._read(taken.batch(number))), self._workers)

    def next(self) -> dict[str, jax.Array]:
        """The next batch; raises whatever reading it raised."""
        assert self._batches is not None, 'used outside of its context'
        return next(self._batches)

    def _read(self, index: int) -> dict[str, jax.Array]:
        return self._place.put_batch(read(self._data, index, self._rows), self._data.rows)


def read_ahead(elements: 'grain.MapDataset[T]', workers: int) -> 'grain.DatasetIterator[T]':
    """The elements in order; the next ones are made by so many threads, in an order that does not matter."""
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=workers + 1 if workers else 0)
    iterator = iter(elements.to_iter_dataset(options))
    iterator.start_prefetch()
    return iterator


def read(data: batches.Batches, index: int, rows: batches.Rows) -> batches.Batch:
    """Some rows of training batch `index`, with their hashes."""
    ids = data.ids(index, rows)
    return data.read(index, ids, rows) | {batches.ROW_HASH: data.row_hashes(ids, rows)}
