"""What the directory of a run says while the run goes on, read often and cheaply."""

import os
import pathlib
import statistics
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from bigmodel_jax.run_directory import event_log
from bigmodel_jax.storage import durable_files, stores


class ProcessWatch:
    """One session of a run, from just before it is started until it ends.

    Args:
      workdir: of the run; need not exist yet.
    """

    def __init__(self, workdir: pathlib.Path):
        self._log = workdir / event_log.FILE
        self._checkpoints = workdir / durable_files.CHECKPOINTS
        self._offset = self._log.stat().st_size if self._log.exists() else 0
        self._torn = b''
        self.began = time.time()
        self.records: list[event_log.Record] = []  # Of this session.

    def look(self) -> None:
        """Reads what was appended to the log since the last look."""
        if not self._log.exists():
            return
        with self._log.open('rb') as file:
            file.seek(self._offset)
            text = file.read()
        self._offset += len(text)
        *lines, self._torn = (self._torn + text).split(b'\n')
        decoded = [event_log.decode(line) for line in lines]
        self.records += [record for record in decoded if record is not None]

    @property
    def beginning(self) -> event_log.Record | None:
        """The record of the start or resumption, once it has been written."""
        return next((record for record in self.records if record['kind'] in event_log.BEGINNINGS), None)

    @property
    def reported(self) -> int | None:
        """The step of the last report of training; None before the first."""
        return max((record['step'] for record in self.records if record['kind'] == 'train'), default=None)

    @property
    def reached(self) -> int | None:
        """The last step that was recorded, or of which a checkpoint is being saved; None before the beginning."""
        if self.beginning is None:
            return None
        return max([record['step'] for record in self.records] + self.saving)

    @property
    def saving(self) -> list[int]:
        """The steps of which checkpoints are being saved at this moment."""
        ending = stores.PARTIAL
        return sorted(int(name.removesuffix(ending)) for name in self._names() if name.endswith(ending))

    @property
    def committed(self) -> int | None:
        """The newest step that has a checkpoint; None if there is none."""
        return max((int(name) for name in self._names() if name.isdecimal()), default=None)

    def _names(self) -> list[str]:
        return os.listdir(self._checkpoints) if self._checkpoints.is_dir() else []


class Pace(NamedTuple):
    """How long the parts of an undisturbed run took."""

    start_s: float  # From the command to the first record.
    compile_s: float  # From there to the first report, without the time of its steps.
    step_s: float  # With what saving and evaluating add.
    save_s: float  # From when a checkpoint is begun to when it is committed.
    whole_s: float
    steps: int
    log_every: int


def pace(log: list[event_log.Record], began: float, saves_s: list[float], stored: Mapping[str, Any]) -> Pace:
    """The pace of a whole run.

    Args:
      log: its records.
      began: when it was started, in Unix time.
      saves_s: how long each save took, as far as they were seen.
      stored: its experiment.json.
    """
    reports = [record for record in log if record['kind'] == 'train']
    first, last = reports[0], reports[-1]
    start = next(record for record in log if record['kind'] in event_log.BEGINNINGS)['time']
    step_s = (last['time'] - first['time']) / max(last['step'] - first['step'], 1)
    return Pace(
        start_s=start - began,
        compile_s=max(first['time'] - start - first['step'] * step_s, 0.0),
        step_s=step_s,
        save_s=statistics.median(saves_s) if saves_s else step_s,
        whole_s=time.time() - began,
        steps=stored['steps'],
        log_every=stored['watch']['log_every'],
    )
