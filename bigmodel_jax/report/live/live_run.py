"""A run that is followed while it trains: its log, its experiment, and where it stands. No JAX."""

import functools
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.catalogue import catalogued_run, fields, walking
from bigmodel_jax.catalogue.catalogued_run import CataloguedRun, MetricSummary
from bigmodel_jax.report.live import log_tail
from bigmodel_jax.run_directory import event_log, locking, run_files
from bigmodel_jax.runs import goodput

KEY_CHARACTERS = 12
ENDED = {'end': catalogued_run.FINISHED, 'stop': catalogued_run.STOPPED}


class LiveRun:
    """A run below a root; has what figures.RunCurves asks for.

    Attributes:
      found: where it is.
      key: tells it apart in addresses, so that no path is ever in one.
      revision: of LiveRuns, when it last changed.
      problem: why its experiment cannot be read; '' if it can.
    """

    def __init__(self, found: walking.FoundRun):
        self.path, self.found = epath.Path(found.path), found
        self.key = hashlib.sha256(os.fsencode(found.path)).hexdigest()[:KEY_CHARACTERS]
        self.tail, self.revision, self.problem = log_tail.LogTail(self.path / event_log.FILE), 0, ''
        self.in_use = False
        self.stored: dict[str, Any] = {}
        self.read_experiment()

    def read_experiment(self) -> None:
        """Reads the experiment, which may change as a run continues."""
        try:
            self.stored, self.problem = run_files.experiment(self.path), ''
        except (config.InputError, OSError, ValueError) as error:
            self.stored, self.problem = {}, str(error)
        self.__dict__.pop('fields', None)

    def look_for_process(self) -> bool:
        """Finds out whether a process trains in the directory; returns whether that has changed."""
        before = self.in_use
        self.in_use = self.found.is_locked and locking.in_use(self.path) is not None
        return before != self.in_use

    @property
    def name(self) -> str:
        return str(self.stored.get('name', self.path.name))

    @property
    def steps(self) -> int | None:
        return self.stored.get('steps')

    @property
    def state(self) -> str:
        """One of the states of catalogued_run."""
        if self.problem:
            return catalogued_run.DAMAGED
        if self.in_use:
            return catalogued_run.RUNNING
        event = self.tail.last_event
        return ENDED.get(event, catalogued_run.INTERRUPTED) if event else catalogued_run.NOT_STARTED

    # ---- curves ----

    @property
    def metric_names(self) -> list[str]:
        return list(self.tail.points)

    def metrics(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """As directory.Run.metrics()."""
        return self.tail.points[name].arrays()

    @property
    def time_shares(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """As directory.Run.time_shares."""
        return {name: points.arrays() for name, points in self.tail.shares.items()}

    @property
    def resumptions(self) -> Sequence[int]:
        return self.tail.resumptions

    @property
    def training_share(self) -> float | None:
        """Of the recorded time, that which was training; None if it is not recorded."""
        total = sum(self.tail.spent.values())
        return self.tail.spent.get(goodput.TRAINING, 0.0) / total if total else None

    # ---- columns ----

    @functools.cached_property
    def fields(self) -> dict[str, Any]:
        """Of the experiment, by path."""
        try:
            return fields.flatten(self.stored)
        except ValueError:  # Too many to be compared.
            return {}

    def catalogued(self) -> CataloguedRun:
        """As the catalogue knows it, for its columns and expressions: where it stands, and the last values."""
        facts = {
            'path': self.found.path,
            'name': self.name,
            'state': self.state,
            'step': self.tail.step,
            'steps': self.steps,
            'seed': self.stored.get('seed'),
            'sweep': self.found.sweep,
            'arm': self.found.arm,
            'damage': [self.problem] if self.problem else [],
        }
        last = {name: float(points.arrays()[1][-1]) for name, points in self.tail.points.items() if len(points)}
        metrics = {name: MetricSummary(value, None, None, None, '') for name, value in last.items()}
        return CataloguedRun(facts, self.fields, metrics)
