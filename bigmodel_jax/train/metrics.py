"""Metrics and artifacts, from the devices to files and the terminal. Only this module reads metrics from devices."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.evaluate.artifacts import Artifact
from bigmodel_jax.evaluate.evaluation import EvaluationResult
from bigmodel_jax.hosts import processes
from bigmodel_jax.run_directory import artifact_files, event_log, locking
from bigmodel_jax.run_directory.trackers import boards, series, tracking
from bigmodel_jax.storage import appending, sums
from bigmodel_jax.train import step

# One step's metrics as Python floats: name -> (total, count). JSON keeps them exactly.
StepMetrics = dict[str, tuple[float, float]]
LATE_ARTIFACTS = 16  # Evaluations whose files wait for room on the disk; above it the oldest are given up.


class Anomalous(ArithmeticError):
    """A step went wrong, and the experiment says that the run then stops."""


class ReadStep(NamedTuple):
    """What was read of one step."""

    number: int
    metrics: StepMetrics
    verdict: int  # See optim.anomaly_policy.
    certificate: np.ndarray  # [4] uint32; see step.Trace.


def read(unread: Sequence[step.Trace], first_step: int) -> list[ReadStep]:
    """What the steps from `first_step` on record, fetched from the devices in one go, without the norms."""
    found = jax.device_get([(each.metrics, each.verdict, each.certificate) for each in unread])
    return [
        ReadStep(
            number,
            {name: (float(mean.total), float(mean.count)) for name, mean in means.items()},
            int(verdict),
            certificate,
        )
        for number, (means, verdict, certificate) in enumerate(found, first_step)
    ]


def not_finite(metrics: StepMetrics) -> str | None:
    """The first metric that is nan or infinite."""
    return next((name for name, (total, _) in metrics.items() if not math.isfinite(total)), None)


def mean(steps: Sequence[StepMetrics]) -> dict[str, float]:
    """The mean of each metric over several steps: totals and counts are added in float64, then divided."""
    sums: dict[str, tuple[float, float]] = {}
    for metrics in steps:
        for name, (total, count) in metrics.items():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = (before[0] + total, before[1] + count)
    return {name: total / count if count else math.nan for name, (total, count) in sums.items()}


class MetricsWriter:
    """Writes a run's records to `metrics.jsonl` and TensorBoard, and to Weights & Biases if asked, as a context
    manager.

    Args:
      workdir: the run's directory.
      start: the step a session of training begins at; TensorBoard drops what a killed session logged after it.
        None: only adds to what is there.
      wandb: a project of Weights & Biases, or None.
      details: what Weights & Biases shows as the configuration.
      guard: called before anything is written; raises if this process must not write any more.
    """

    def __init__(
        self,
        workdir: epath.Path,
        *,
        start: int | None,
        wandb: str | None,
        details: Mapping[str, Any],
        guard: Callable[[], None] = appending.nothing,
    ):
        self._workdir, self._guard = workdir, guard
        self.lost: list[str] = []  # What could not be written to the end, a sentence each.
        self._late: list[tuple[epath.Path, Callable[[], None]]] = []  # Files that could not be written yet.
        self._records = event_log.EventWriter(workdir / event_log.FILE, guard=guard)
        purge_step = None if start is None else start + 1
        self._board = boards.open_board(workdir, purge_step=purge_step, guard=guard)
        self._tags = series.Tags()
        self._tracker = None if wandb is None else tracking.Tracker(wandb, workdir, details)

    def __enter__(self) -> 'MetricsWriter':
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, locking.DirectoryInUse):
            self._records.abandon()
            return
        lost = self._records.close()
        self.lost += [] if lost is None else [lost]
        self._write_late()
        self.lost += [f'{path} lacks what this session is' for path, _ in self._late]
        for text in self.lost if kind is not None else ():  # There will be no result that says it.
            appending.say(f'{text}.')
        self._board.close()
        if self._tracker is not None:
            self._tracker.finish()

    def sync(self) -> None:
        """Returns when what was recorded is on disk."""
        self._records.sync()
        self._write_late()

    def write_file(self, path: epath.Path, write: Callable[[], None]) -> None:
        """Writes a file of the session with `write`; where that fails, again before each checkpoint and at the end."""
        try:
            write()
        except OSError as error:
            appending.say(f'{path} cannot be written: {error.strerror}. The run continues, and tries it again.')
            self._late.append((path, write))

    def _write_late(self) -> None:
        for each in list(self._late):
            with contextlib.suppress(OSError):
                each[1]()
                self._late.remove(each)
                appending.say(f'{each[0]} can be written again.')

    def event(self, kind: str, step: int, **fields: Any) -> None:
        """A record without metrics: the start, resumption or end of a session."""
        self._records.append({'kind': kind, 'step': step, 'time': time.time(), **fields})

    def scalars(self, kind: str, step: int, metrics: Mapping[str, float], **fields: Any) -> None:
        """A record with metrics; the boards show them under the names of run_directory/trackers/series.py."""
        self.event(kind, step, metrics=dict(metrics), **fields)
        shown = {series.name(kind, fields.get('name'), name): value for name, value in metrics.items()}
        for name, value in shown.items():
            self._board.add_scalar(self._tags.tag(name), value, step)
        if self._tracker is not None:
            self._tracker.log(shown, step)

    def evaluation(self, step: int, name: str, found: EvaluationResult) -> dict[str, float]:
        """Records what an evaluation found; returns the values of its metrics as 'name/metric'."""
        numbers = found.values
        if numbers:
            about = {key: measured.about() for key, measured in found.metrics.items()}
            self.scalars('evaluation', step, numbers, name=name, about=about)
        if found.artifacts:
            self.artifacts(step, name, found.artifacts)
        return {f'{name}/{key}': value for key, value in numbers.items()}

    def histograms(self, step: int, found: Mapping[str, Any]) -> None:
        """Histograms on TensorBoard, by their tags; see histograms.Histogram."""
        for tag, each in jax.device_get(dict(found)).items():
            self._board.add_histogram_raw(
                tag,
                min=float(each.edges[0]),
                max=float(each.edges[-1]),
                num=int(each.counts.sum(dtype=np.int64)),
                sum=float(each.total),
                sum_squares=float(each.squares),
                bucket_limits=each.edges[1:].tolist(),
                bucket_counts=each.counts.tolist(),
                global_step=step,
            )

    def artifacts(self, step: int, name: str, found: Sequence[Artifact]) -> None:
        """Records what the evaluation `name` shows, with its files, and shows it on TensorBoard."""
        entries, files = artifact_files.encoded(step, name, found)
        if files:
            folder = self._workdir / artifact_files.FOLDER
            self._guard()
            self.write_file(folder, functools.partial(sums.write, self._workdir, files))
            waiting = [each for each in self._late if each[0] == folder]
            if len(waiting) > LATE_ARTIFACTS:
                self._late.remove(waiting[0])
                self.lost.append(f'{folder} lacks files, for which there was no room')
        self.event('artifacts', step, name=name, artifacts=entries)
        for number, artifact in enumerate(found):
            boards.show(self._board, self._tags.tag(series.name('evaluation', name, str(number))), artifact, step)


class Unwritten(MetricsWriter):
    """The writer of a process that is not the first: it writes nothing."""

    def __init__(self) -> None:
        self.lost = []

    def __exit__(self, *_: object) -> None:
        pass

    def sync(self) -> None:
        pass

    def write_file(self, path: epath.Path, write: Callable[[], None]) -> None:
        pass

    def event(self, kind: str, step: int, **fields: Any) -> None:
        pass

    def scalars(self, kind: str, step: int, metrics: Mapping[str, float], **fields: Any) -> None:
        pass

    def histograms(self, step: int, found: Mapping[str, Any]) -> None:
        pass

    def artifacts(self, step: int, name: str, found: Sequence[Artifact]) -> None:
        pass


def open_writer(
    workdir: epath.Path,
    *,
    start: int | None,
    wandb: str | None,
    details: Mapping[str, Any],
    guard: Callable[[], None] = appending.nothing,
) -> MetricsWriter:
    """The MetricsWriter of a run on the first process, and one that writes nothing on the others."""
    if processes.is_first():
        return MetricsWriter(workdir, start=start, wandb=wandb, details=details, guard=guard)
    return Unwritten()


def open_recorder(workdir: epath.Path) -> MetricsWriter:
    """A MetricsWriter of later results; where this user may not write to the run, it says so and writes nothing."""
    try:
        return open_writer(workdir, start=None, wandb=None, details={})
    except config.InputError as error:
        appending.say(f'The results are not recorded with the run: {error}')
        return Unwritten()
