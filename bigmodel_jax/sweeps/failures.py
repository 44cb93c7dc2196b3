"""How a trial failed: the last lines that it printed, kept beside its log until it is tried again."""

import re
import signal
from typing import NamedTuple

from bigmodel_jax.storage import durable_files
from bigmodel_jax.sweeps.engines import engine
from bigmodel_jax.sweeps.sweep_directory import SweepDirectory, TrialEntry

LINES = 12
READ_BYTES = 64 * 2**10
PROGRESS = re.compile(r'^step \d+/\d+ ')  # Lines that say how far a run is, and not what went wrong.


class Failure(NamedTuple):
    """Of the last attempt at a trial."""

    entry: TrialEntry
    reason: str  # A sentence without its period.
    lines: tuple[str, ...]  # The last that it printed.
    status: int = 1  # As of EndedJob.

    def __str__(self) -> str:
        return '\n'.join([f'{self.entry.name} failed: {self.reason}.', *(f'  | {line}' for line in self.lines)])


def record(directory: SweepDirectory, job: engine.EndedJob) -> Failure:
    """Writes the failure file of a trial whose process ended badly."""
    lines = last_lines(directory, job.entry)
    found = Failure(job.entry, job.reason or _words(job.status), lines, job.status)
    content = {'status': job.status, 'reason': found.reason, 'lines': list(lines)}
    durable_files.write_json(directory.failure(job.entry), content)
    return found


def read(directory: SweepDirectory, entry: TrialEntry) -> Failure | None:
    """The recorded failure of a trial; None if there is none.

    Raises:
      InputError: its file is damaged.
    """
    path = directory.failure(entry)
    if not durable_files.exists(path):
        return None
    content = durable_files.read_json(path)
    if not isinstance(content, dict):
        content = {}
    status = content.get('status')
    return Failure(
        entry,
        str(content.get('reason', 'unknown')),
        tuple(map(str, content.get('lines', ()))),
        status if isinstance(status, int) else 1,
    )


def was_killed(directory: SweepDirectory, entry: TrialEntry) -> bool:
    """Whether a trial that failed did so because its process was killed, so that it may end well another time."""
    found = read(directory, entry)
    return found is not None and found.status < 0


def last_lines(directory: SweepDirectory, entry: TrialEntry) -> tuple[str, ...]:
    """The last lines of a trial's log, without those of its progress."""
    path = directory.log(entry)
    if not durable_files.exists(path):
        return ()
    text = durable_files.read(path)[-READ_BYTES:].decode(errors='replace')
    return tuple(line for line in text.splitlines() if line.strip() and not PROGRESS.match(line))[-LINES:]


def _words(status: int) -> str:
    if status < 0:
        return f'killed by {signal.Signals(-status).name}'
    return {1: 'the training failed', 2: 'wrong input'}.get(status, f'exit status {status}')
