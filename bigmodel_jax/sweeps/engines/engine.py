"""The interface between a sweep and what runs its trials: this machine, or an existing scheduler of many machines.

sweeps/running.py decides which trials run, watches their directories, records failures and keeps the budget; an engine
only starts processes that run worker.command() and says how they ended. What a trial computed is read from its
directory, never from the engine.
"""

import contextlib
import signal
from collections.abc import Sequence
from typing import NamedTuple

from bigmodel_jax.sweeps.sweep_directory import SweepDirectory, TrialEntry


class EndedJob(NamedTuple):
    """A trial whose process ended, whichever way.

    Attributes:
      status: the exit status of `train`: 0 done, or stopped after the step that was asked for; 128 + N stopped by
        signal N with a checkpoint; -N killed by signal N.
      reason: a sentence, where the engine knows more than the log of the trial: 'Slurm: OUT_OF_MEMORY on node4'.
    """

    entry: TrialEntry
    status: int
    reason: str = ''


class Jobs:
    """Interface: the trials of a sweep that an engine has been given. Made by Engine.jobs()."""

    def room(self) -> int:
        """How many more trials it takes now; a scheduler with a queue of its own takes any number."""
        raise NotImplementedError

    def submit(self, entries: Sequence[TrialEntry], *, stop_after: int | None = None) -> None:
        """Starts trials, or queues them: at most room(), as one array where the engine has arrays.

        What a trial prints is appended to directory.log(entry). A trial that the engine is running or has queued
        already, as an earlier start of the sweep submitted it, is not submitted again but waited for.

        Args:
          stop_after: the step after which the trials stop with a checkpoint; None: they are trained to their end.

        Raises:
          InputError: the engine refuses them; none of them was started.
        """
        raise NotImplementedError

    def ended(self) -> Sequence[EndedJob]:
        """The trials that have ended since it was last asked; returns at once."""
        raise NotImplementedError

    def stop(self, entries: Sequence[TrialEntry]) -> None:
        """Asks trials to stop with a checkpoint, or takes them out of the queue; ended() names them later."""
        raise NotImplementedError

    def interrupt(self, number: signal.Signals) -> str | None:
        """The sweep's own process got a signal that ends it.

        Returns:
          None if the trials were asked to stop with a checkpoint, and are to be waited for; a sentence if they go on
          without this process, which then ends: 'The trials go on in Slurm; the same command shows how far they are.'
        """
        raise NotImplementedError

    def describe(self) -> str:
        """Where the trials run, for the head of the table: '2 processes with 1 core each'."""
        raise NotImplementedError


class Engine:
    """Interface of the configs that say where trials run."""

    def check(self, directory: SweepDirectory) -> None:
        """Finds out whether the engine can run a sweep from here; starts nothing. Called once, before it starts.

        Args:
          directory: of the sweep as it is described, which need not have been written.

        Raises:
          InputError: the engine is not installed, cannot be reached, or cannot run this sweep, as when its directory is
            not on storage that the machines share; the message says what to do.
        """
        raise NotImplementedError

    def jobs(self, directory: SweepDirectory) -> contextlib.AbstractContextManager[Jobs]:
        """The connection to the engine while a sweep runs; what only this process can watch ends with the context."""
        raise NotImplementedError
