"""metrics.jsonl of a run that may be training, read on from where reading stopped. No JAX."""

import array
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO

import numpy as np
from etils import epath

from bigmodel_jax.report import sections
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.runs import goodput
from bigmodel_jax.storage import durable_files
from bigmodel_jax.train.monitoring import sessions as sessions_lib

PIECE_BYTES = 2**20  # Read at a time.
KNOWN_BYTES = 256  # Before the place where reading stopped; where they have changed, the file is another one.
KEPT_MESSAGES = 500


class Points:
    """The values of a metric by step, in the order of writing."""

    def __init__(self) -> None:
        self._steps, self._values = array.array('q'), array.array('d')
        self._ascending = True
        self._arrays: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, step: int, value: float) -> None:
        """Another value; of several at one step the last holds."""
        self._ascending = self._ascending and (not self._steps or step > self._steps[-1])
        self._steps.append(step)
        self._values.append(value)
        self._arrays = None

    def take_back(self, step: int) -> None:
        """Forgets the values of later steps than this one."""
        steps = np.array(self._steps, np.int64)
        kept = steps <= step
        if kept.all():
            return
        self._steps = array.array('q', steps[kept].tobytes())
        self._values = array.array('d', np.array(self._values, np.float64)[kept].tobytes())
        self._arrays = None

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The steps [n] int64, rising, and the values [n] float64."""
        if self._arrays is None:
            steps, values = np.array(self._steps, np.int64), np.array(self._values, np.float64)
            if not self._ascending:
                order = np.argsort(steps, kind='stable')
                steps, values = steps[order], values[order]
                last = np.append(steps[1:] != steps[:-1], True)
                steps, values = steps[last], values[last]
            self._arrays = steps, values
        return self._arrays

    def __len__(self) -> int:
        return len(self._steps)


class LogTail:
    """What the log of a run holds, brought up to date by read_on().

    The same as directory.Run finds in it, without the records themselves: the points of each metric, the shares of the
    time, and the messages.

    Attributes:
      points: metric -> its values.
      shares: part of the time -> its shares.
      spent: part of the time -> seconds, those of steps that were done again included.
      messages: the last ones, oldest first.
      resumptions: the steps after which a later session resumed.
      damage: lines that could not be read.
      step: the last that was recorded.
      time_s: of the last record; None before the first.
      last_event: the kind of the last record that began or ended a session.
    """

    def __init__(self, path: epath.Path):
        self._path = path
        self._start()

    def _start(self) -> None:
        self._offset, self._known = 0, b''
        self._identity: int | None = None
        self.points: dict[str, Points] = {}
        self.shares: dict[str, Points] = {}
        self.spent: dict[str, float] = {}
        self.messages: list[sections.RunMessage] = []
        self.resumptions: list[int] = []
        self.damage = self.step = 0
        self.time_s: float | None = None
        self.last_event = ''

    def read_on(self, most_bytes: int = PIECE_BYTES) -> bool:
        """Reads at most so much of what is new; returns whether there was anything."""
        before = (self._identity, self._offset)
        try:
            with _opened(self._path) as file:
                piece = self._piece(file, most_bytes)
        except OSError:  # It is not there yet, or somebody removed the run.
            return False
        end = piece.rfind(b'\n') + 1
        if not end and len(piece) >= most_bytes:
            return self.read_on(2 * most_bytes)  # A line that is longer than a piece.
        self._take(piece[:end].split(b'\n')[:-1])
        self._offset += end
        self._known = (self._known + piece[:end])[-KNOWN_BYTES:]
        return before != (self._identity, self._offset)

    def _piece(self, file: BinaryIO, most_bytes: int) -> bytes:
        """What comes next; all from the start where the file is another one than before."""
        identity = _identity(file)
        start = max(self._offset - len(self._known), 0)
        file.seek(start)
        content = file.read(len(self._known) + most_bytes)
        if identity != self._identity or content[: len(self._known)] != self._known:
            if self._identity is not None:
                self._start()
                file.seek(0)
                content = file.read(most_bytes)
            self._identity = identity
        return content[len(self._known) :]

    def _take(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            record = event_log.decode(line) if line else None
            if record is not None:
                self._add(record)
            elif line:
                self.damage += 1

    def _add(self, record: event_log.Record) -> None:
        kind, step = record['kind'], record['step']
        if kind in event_log.BACK:
            self._take_back(step)
            if kind == 'resume':
                self.resumptions.append(step)
        if kind in (*event_log.BEGINNINGS, *sessions_lib.ENDINGS):
            self.last_event = kind
        for table, name, value in _numbers(record):
            (self.points if table == 'points' else self.shares).setdefault(name, Points()).add(step, value)
        for name, seconds in goodput.known(record['metrics']).items() if kind == 'time' else ():
            part = goodput.PARTS[name]
            self.spent[part] = self.spent.get(part, 0.0) + seconds
        said = sections.message(record)
        if said is not None:
            self.messages = [*self.messages[-KEPT_MESSAGES + 1 :], said]
        self.step, self.time_s = max(self.step, step), record['time']

    def _take_back(self, step: int) -> None:
        for table in (self.points, self.shares):
            for name, points in list(table.items()):
                points.take_back(step)
                if not len(points):
                    del table[name]
        self.messages = [each for each in self.messages if each.step <= step]
        self.step = min(self.step, step)


def _numbers(record: event_log.Record) -> Iterator[tuple[str, str, float]]:
    """(table, name, value) of the numbers in a record; named as directory.Run names them."""
    if record['kind'] == 'time':
        yield from (('shares', name, value) for name, value in goodput.shares(record).items())
        return
    prefix = f'{record["name"]}/' if record['kind'] == 'evaluation' else ''
    metrics: Mapping[str, float] = record.get('metrics', {})
    yield from (('points', prefix + name, value) for name, value in metrics.items())


def _opened(path: epath.Path) -> BinaryIO:
    """The file for reading, if it is one: opening a pipe would wait for somebody to write to it."""
    if durable_files.is_remote(path):
        return path.open('rb')
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f'{path} is no file')
    return os.fdopen(descriptor, 'rb')


def _identity(file: BinaryIO) -> int:
    """Tells a file apart from one that replaced it; 0 where the storage does not say."""
    try:
        return os.fstat(file.fileno()).st_ino
    except (OSError, AttributeError):
        return 0
