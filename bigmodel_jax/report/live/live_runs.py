"""Every run below some roots, followed by a thread as long as somebody looks at them. No JAX."""

import threading
import time
from collections.abc import Sequence
from typing import Any

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.catalogue import walking
from bigmodel_jax.report.live.live_run import LiveRun
from bigmodel_jax.storage import durable_files

EVERY_S, EVERY_REMOTE_S = 0.5, 10.0  # Between two looks at the logs.
FIND_EVERY_S = 5.0  # Between two looks for new runs.
LOOKED_AT_S = 15.0  # After the last question the logs are left alone.
PIECE_BYTES = 2**18  # Read at a time, with the lock held: some tens of milliseconds.


class LiveRuns:
    """As a context manager, follows the runs; who reads anything of them holds `lock` meanwhile.

    Args:
      roots: directories of runs, or below which runs are.

    Attributes:
      runs: sorted by path.
      revision: grows with every change.
      listed: the revision in which runs came, went, or changed their state.
      unread: runs of which not everything has been read yet.
      problems: sentences on what could not be listed.

    Raises:
      InputError: a root is not there, or cannot be listed.
    """

    def __init__(self, roots: Sequence[epath.PathLike]):
        self.roots = [str(root) for root in roots]
        self.runs: list[LiveRun] = []
        self.revision, self.listed = 1, 1
        self.unread: set[str] = set()
        self.problems: list[str] = []
        self.lock = threading.RLock()
        self._remote = any(map(durable_files.is_remote, self.roots))
        self._looked_at, self._wake, self._ended = time.monotonic(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name='live runs', daemon=True)
        self.find()

    def __enter__(self) -> 'LiveRuns':
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._wake.set()
        self._thread.join()

    def looked_at(self) -> None:
        """Somebody asks: the logs are followed for a while."""
        self._looked_at = time.monotonic()
        self._wake.set()

    def by_key(self, key: str) -> LiveRun | None:
        """The run with that key."""
        return next((run for run in self.runs if run.key == key), None)

    @property
    def is_one_run(self) -> bool:
        """Whether the only root is a run, with none below it."""
        return len(self.runs) == 1 and self.runs[0].found.relative == '.'

    # ---- following ----

    def _follow(self) -> None:
        found_at = 0.0
        while not self._ended.is_set():
            if time.monotonic() - self._looked_at > LOOKED_AT_S and not self.unread:
                self._wake.wait()
            self._wake.clear()
            if time.monotonic() - found_at > FIND_EVERY_S:
                self._find_again()
                found_at = time.monotonic()
            self.read_on()
            if not self.unread:
                self._ended.wait(EVERY_REMOTE_S if self._remote else EVERY_S)

    def _find_again(self) -> None:
        try:
            self.find()
        except config.InputError as error:  # Somebody removed a root; the runs that were there are still shown.
            with self.lock:
                self.problems = [str(error)]

    def find(self) -> None:
        """Looks for runs, and at where each of them stands."""
        visited: set[Any] = set()
        walks = [walking.find(root, visited) for root in self.roots]
        with self.lock:
            before = {run.found.path: run for run in self.runs}
            found = [each for walk in walks for each in walk.runs]
            self.runs = [before.get(each.path) or LiveRun(each) for each in found]
            changed = len(before) != len(self.runs) or any(each.path not in before for each in found)
            for run, each in zip(self.runs, found):
                run.found = each
                changed = run.look_for_process() or changed
                if run.found.path not in before:
                    self.unread.add(run.key)
            self.unread &= {run.key for run in self.runs}
            self.problems = [problem for walk in walks for problem in walk.problems]
            if changed:
                self.revision += 1
                self.listed = self.revision

    def read_on(self) -> None:
        """Reads what is new in each log, but of each at most a piece, so that all come to be seen."""
        was_behind = bool(self.unread)
        for run in list(self.runs):
            with self.lock:
                event = run.tail.last_event
                if not run.tail.read_on(PIECE_BYTES):
                    self.unread.discard(run.key)
                    continue
                self.unread.add(run.key)
                self.revision += 1
                run.revision = self.revision
                if event != run.tail.last_event:
                    run.read_experiment()
                    self.listed = self.revision
        if was_behind and not self.unread:
            with self.lock:
                self.revision += 1
                self.listed = self.revision

    def read_all(self) -> None:
        """Reads everything that there is now."""
        self.read_on()
        while self.unread:
            self.read_on()
