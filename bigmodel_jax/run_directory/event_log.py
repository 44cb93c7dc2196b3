"""metrics.jsonl: what happened in a run, one JSON record a line, appended as it happens.

Every record has 'kind', 'step' and 'time' (seconds since 1970). The values of 'metrics' are floats, exact to the last
bit; JSON has no nan and no infinity, so these are written as the strings 'nan', 'inf' and '-inf'. The last member of a
line, 'crc32', is a checksum of the rest, which reading takes off; lines of older versions have none.

A session that resumes at step k continues from there, and so does a run that rolls back to it: what was recorded before
of the steps after k is void, and read() leaves it out.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.run_directory import record_types
from bigmodel_jax.storage import appending, durable_files, lines

FILE = 'metrics.jsonl'
BEGINNINGS = ('start', 'resume')  # The kinds of record that open a session.
BACK = (*BEGINNINGS, 'rollback')  # Those from whose step on a run went on: what was recorded after it is void.

Record = dict[str, Any]


class EventWriter:
    """Appends records to a file; each is with the operating system when append() returns, and on disk after sync().

    What cannot be written, as on a full disk, waits in memory and is written later; see appending.Appender. An object
    store (gs://) cannot append, so there the whole file is written again from time to time and on close().

    Args:
      guard: called before anything is written; raises if this process must not write any more.

    Raises:
      InputError: the file is a symbolic link, or may not be written.
    """

    def __init__(self, path: epath.PathLike, *, guard: Callable[[], None] = appending.nothing):
        self._file = appending.appender(path, guard=guard)

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one record; adds 'time' if it has none.

        Raises:
          ValueError: a number outside 'metrics' is not finite.
        """
        self._file.append(encode({'time': time.time(), **record}).encode() + b'\n')

    def sync(self) -> None:
        """Returns when what was written is on disk, where a loss of power does not reach it."""
        self._file.sync()

    def close(self) -> str | None:
        """Writes what is not written yet; returns what could not be written, if anything."""
        return self._file.close()

    def abandon(self) -> None:
        """Closes the file without writing anything more."""
        self._file.abandon()

    def __enter__(self) -> 'EventWriter':
        return self

    def __exit__(self, *_: object) -> None:
        lost = self.close()
        if lost is not None:
            raise config.InputError(f'{lost}: it cannot be written. Make room, or make it writable.')


def append(path: epath.PathLike, record: Mapping[str, Any]) -> None:
    """Appends a single record to the file."""
    with EventWriter(path) as writer:
        writer.append(record)


def encode(record: Mapping[str, Any]) -> str:
    """The record on one line of ASCII, so that a torn line never ends within a character; with its checksum."""
    metrics = {name: number(value) for name, value in record.get('metrics', {}).items()}
    whole = {**record, 'metrics': metrics} if 'metrics' in record else dict(record)
    return lines.seal(json.dumps(whole, allow_nan=False))


def number(value: Any) -> int | float | str:
    """A number as JSON can hold it: what is not finite becomes text."""
    if isinstance(value, int):
        return value
    exact = float(value)  # Also of NumPy's and JAX's scalars; from float32 the conversion is exact.
    return exact if math.isfinite(exact) else str(exact)


def decode(line: bytes) -> Record | None:
    """The record on a line; None for one that is torn or damaged."""
    try:
        return _decode(line)[0]
    except lines.DamagedLine:
        return None


def _decode(line: bytes) -> tuple[Record, bool]:
    record, verified = lines.unseal(line)
    wrong = record_types.problem(record)
    if wrong is not None:
        raise lines.DamagedLine(wrong)
    if 'metrics' in record:
        record['metrics'] = {name: float(value) for name, value in record['metrics'].items()}
    return record, verified


class Log(NamedTuple):
    """What a file of records holds."""

    records: list[Record]  # Every whole one, in the order of writing.
    damage: list[str]  # A sentence for each line that was left out because it is not as it was written.


def scan(path: epath.PathLike) -> Log:
    """Reads a file of records, and says which lines are damaged; there is nothing to read if there is no file yet.

    A line that was cut off when its writer was killed is no damage: the session that follows began before it.
    """
    path = epath.Path(path)
    text = durable_files.read(path) if durable_files.exists(path) else b''
    found, checksums = Log([], []), False
    unread: list[tuple[int, int, str, bytes]] = []  # Records before it, number of the line, what is wrong, the line.
    pieces = text.split(b'\n')
    for number, line in enumerate(pieces, 1):
        try:
            record, verified = _decode(line)
            if checksums and not verified:
                raise lines.DamagedLine('it has no checksum, although an earlier line has one')
        except lines.DamagedLine as error:
            unread.append((len(found.records), number, str(error), line))
            continue
        checksums = checksums or verified
        found.records.append(record)
    for before, number, why, line in unread:
        is_last = before == len(found.records)
        ends_session = number == len(pieces) if is_last else found.records[before]['kind'] in BEGINNINGS
        if line and not (ends_session and lines.is_torn(line)):
            found.damage.append(f'{path}, line {number} is damaged and was left out: {why}.')
    return found


def read_all(path: epath.PathLike) -> list[Record]:
    """Every whole record of the file in the order of writing; none if there is no file yet."""
    return scan(path).records


def read(path: epath.PathLike) -> list[Record]:
    """The records that hold: read_all() without those that were taken back."""
    return current(read_all(path))


def current(records: Iterable[Record]) -> list[Record]:
    """`records` without those of the steps to before which the run went back, by resuming or rolling back."""
    kept: list[Record] = []
    limit = math.inf  # The earliest step to which the run went back later.
    for record in reversed(list(records)):
        if record['step'] <= limit:
            kept.append(record)
        if record['kind'] in BACK:
            limit = min(limit, record['step'])
    return kept[::-1]
