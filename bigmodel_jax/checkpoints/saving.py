"""Saving one checkpoint: the arrays are taken at once, and written and committed by threads of their own.

The processes tell each other how it went, instead of meeting at barriers: a failure of one is known to all when they
have written, and none waits for another that has given up.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath

from bigmodel_jax.hosts import channel, processes
from bigmodel_jax.run_directory import digest
from bigmodel_jax.storage import appending, durable_files, integrity, merging, stores

Arrays = dict[str, jax.Array]

FILE_BYTES = 64 * 2**20  # Several files at a time go to disk faster than one; many small ones burden a file system.
SHARED_FOLDER = 'array_metadatas'  # Of each item; the first process makes it, and all write to it.
WAIT_S = 1_800.0  # A write that takes longer is given up.
# Mistakes of ours, which trying again does not mend.
MISTAKES = (TypeError, AttributeError, NameError, AssertionError, KeyError, IndexError)


def handler() -> ocp.PyTreeCheckpointHandler:
    """The Orbax handler that writes and reads arrays.

    Uncompressed, as the bits of trained weights hardly compress, and it takes longer.
    """
    return ocp.PyTreeCheckpointHandler(use_zarr3=True, use_compression=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedContents:
    """The contents of a checkpoint."""

    items: Mapping[str, Arrays]  # Each a folder of the checkpoint.
    attachments: Mapping[str, bytes]  # Files beside them, by name.
    record: integrity.Record  # Without what is known only when the arrays are written.

    @property
    def size_bytes(self) -> int:
        return sum(array.nbytes for arrays in self.items.values() for array in arrays.values())


class SaveResult(NamedTuple):
    """How a save ended; the same on all processes."""

    failed: str | None  # Why there is no checkpoint; None if there is one.
    remark: str | None = None  # What went wrong afterwards.


class Saver:
    """Writes one checkpoint at a time. Every process makes the same calls.

    Args:
      store: where to.
      guard: called on the first process before anything is written; raises if it must not write any more.
    """

    def __init__(self, store: stores.Store, guard: Callable[[], None] = appending.nothing):
        logging.getLogger('asyncio').addFilter(_is_news)
        self._store, self._guard = store, guard
        self._talk, self._background_talk = channel.Channel(WAIT_S), channel.Channel(2 * WAIT_S)
        # Two threads: one does the work, the other waits for it, to tell the other processes.
        self._worker, self._notifier = _worker(), concurrent.futures.ThreadPoolExecutor(1, 'checkpoint_notifier')

    def close(self) -> None:
        """Waits for the save that was begun."""
        self._notifier.shutdown()
        self._worker.shutdown()

    def start(
        self, final: epath.Path, contents: SavedContents, *, first: Callable[[], None], then: Callable[[], None]
    ) -> concurrent.futures.Future[SaveResult]:
        """Begins to save; returns when the arrays may change.

        Args:
          final: the directory of the checkpoint.
          first: called by the first process just before the checkpoint is there; brings to disk what goes with it.
          then: called by the first process when the checkpoint is there, such as to delete another.

        Returns:
          What will be the outcome.
        """
        sums = {name: digest.sums(arrays) for name, arrays in contents.items.items()}
        problem = self._on_first(lambda: self._begin(final, contents), self._talk)
        if problem is not None:
            return self._notifier.submit(lambda: self._failed(final, problem))
        started = self._worker.submit(_start, self._store.partial(final), contents.items)
        concurrent.futures.wait([started])
        commit = functools.partial(self._commit, final, contents, sums, first)
        return self._notifier.submit(self._finish, final, started=started, commit=commit, then=then)

    def _begin(self, final: epath.Path, contents: SavedContents) -> None:
        self._store.begin(final, contents.size_bytes)
        # Else each other process would wait for the first to make them, for minutes if it fails.
        for name in contents.items:
            (self._store.partial(final) / name / SHARED_FOLDER).mkdir(parents=True, exist_ok=True)

    def on_first(self, action: Callable[[], None]) -> str | None:
        """Runs `action` on the first process, while nothing is being saved; why it failed, on all."""
        return self._on_first(action, self._talk)

    def _finish(
        self,
        final: epath.Path,
        *,
        started: concurrent.futures.Future[list[Any]],
        commit: Callable[[], None],
        then: Callable[[], None],
    ) -> SaveResult:
        problem = reason(started.exception())
        if problem is None:
            problem = self._try(lambda: self._written(final, started.result()))
        problems = self._background_talk.exchange(problem)
        told = [f'{_host(host)}{each}' for host, each in enumerate(problems) if each is not None]
        if told:
            return self._failed(final, told[0])
        problem = self._on_first(commit, self._background_talk)
        if problem is not None:
            return self._failed(final, problem)
        return SaveResult(None, remark=self._on_first(then, self._background_talk))

    def _written(self, final: epath.Path, futures: Sequence[Any]) -> None:
        _wait(futures)
        if processes.count() > 1:  # Only the process that wrote a file can bring it to disk on every file system.
            self._store.sync(final)

    def _commit(
        self, final: epath.Path, contents: SavedContents, sums: Mapping[str, jax.Array], first: Callable[[], None]
    ) -> None:
        partial = self._store.partial(final)
        for name, each in contents.items.items():
            merging.merge(partial / name, handler(), arrays=each.keys(), count=processes.count())
        for name, content in contents.attachments.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        arrays = {name: _describe(each, sums[name]) for name, each in contents.items.items()}
        described = integrity.describe_files(partial, contents.attachments.keys())
        record = contents.record | {'arrays': arrays, 'files': described}
        self._store.sync(final)
        first()
        self._guard()
        self._store.commit(final, integrity.seal(record))

    def _failed(self, final: epath.Path, problem: str) -> SaveResult:
        if processes.is_first():
            # Whatever is left does no harm; the next save, or the next start, removes it.
            self._try(lambda: self._discard(final))
        return SaveResult(problem)

    def _discard(self, final: epath.Path) -> None:
        self._guard()
        self._store.delete(self._store.partial(final))

    def _on_first(self, action: Callable[[], None], talk: channel.Channel) -> str | None:
        """Why `action` failed on the first process, on all."""
        return talk.exchange(self._try(action) if processes.is_first() else None)[0]

    def _try(self, action: Callable[[], None]) -> str | None:
        """Runs `action` on the working thread; returns why it failed."""
        future = self._worker.submit(action)
        if concurrent.futures.wait([future], WAIT_S).not_done:
            self._worker = _worker()  # The old one may never come back.
            return f'the storage did not answer for {WAIT_S:,.0f} s'
        return reason(future.exception())


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a message of asyncio is more than the traceback of one of several writes that failed: one is told."""
    return not record.getMessage().partition('\n')[0].endswith('exception was never retrieved')


def _worker() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(1, 'checkpoint')


def _host(number: int) -> str:
    return f'host {number}: ' if processes.count() > 1 else ''


def reason(error: BaseException | None) -> str | None:
    """Why storage failed, on one line.

    Raises:
      error: it is no failure of storage, but a mistake.
    """
    if isinstance(error, MISTAKES):
        raise error
    return None if error is None else durable_files.brief(error)


def _start(directory: epath.Path, items: Mapping[str, Arrays]) -> list[Any]:
    """Copies the arrays and starts to write them; returns what to wait for."""

    async def start() -> list[Any]:
        futures = []
        try:
            for name, arrays in items.items():
                saved = ocp.args.PyTreeSave(arrays, ocdbt_target_data_file_size=FILE_BYTES)
                futures += await handler().async_save(directory / name, args=saved) or []
        finally:
            # When one write fails the others still run, and report to this loop, which must not be closed before.
            others = asyncio.all_tasks() - {asyncio.current_task()}
            if others:
                await asyncio.wait(others)
        return futures

    return asyncio.run(start())


def _wait(futures: Sequence[Any]) -> None:
    """Waits for all of them, also if some fail: nobody should write any more to a directory that is to be removed."""
    with contextlib.ExitStack() as stack:
        for each in futures:
            stack.callback(each.result, WAIT_S)


def _describe(arrays: Arrays, sums: jax.Array) -> dict[str, dict[str, Any]]:
    # Flattening sorts the names.
    return {
        name: {'shape': list(arrays[name].shape), 'dtype': str(arrays[name].dtype), 'checksum': text}
        for name, text in zip(sorted(arrays), digest.texts(sums))
    }
