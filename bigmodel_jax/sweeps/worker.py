"""The trials of a sweep in this process: what the command line's `trial SWEEP NAME` calls, which every engine starts.

`trial SWEEP -` trains several, one after another, as the local engine asks for them. A request is a line of JSON on
standard input, {"trial": NAME, "log": FILE, "stop_after": STEP or null}; the answer, when the trial has ended as it
should, is a line on standard output, its name. A trial that fails or is stopped ends the process, whose exit status is
then that of the trial.
"""

import gc
import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import IO, Any

from bigmodel_jax import config, experiment_file
from bigmodel_jax import experiment as experiments
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.sweeps import sweep_directory, trials
from bigmodel_jax.train import loop, step
from bigmodel_jax.train.together import kept_programs

REQUESTS = '-'  # In place of the name of a trial.


def command(
    sweep: sweep_directory.SweepDirectory, entry: sweep_directory.TrialEntry, *, stop_after: int | None = None
) -> list[str]:
    """The command that runs a trial, to its end or to a step; its exit status is that of `train`."""
    until = [] if stop_after is None else ['--stop-after', str(stop_after)]
    return [sys.executable, '-m', 'bigmodel_jax', 'trial', str(sweep.path), entry.name, *until]


def serving_command(sweep: sweep_directory.SweepDirectory) -> list[str]:
    """The command that runs trials as they are asked for on its standard input."""
    return [sys.executable, '-m', 'bigmodel_jax', 'trial', str(sweep.path), REQUESTS]


def request(trial: str, log: os.PathLike[str], stop_after: int | None) -> bytes:
    """The line that asks such a process for a trial."""
    return json.dumps({'trial': trial, 'log': os.fspath(log), 'stop_after': stop_after}).encode() + b'\n'


class Worker:
    """Trains trials of a sweep in this process."""

    def __init__(self, sweep: sweep_directory.SweepDirectory):
        self._sweep = sweep
        self._by_name = {entry.name: entry for entry in sweep.description.trials}
        self._path = experiment_file.parse(sweep.description.source.experiment)[0]
        self._arms: dict[str, Experiment] = {}
        self._programs = kept_programs.KeptPrograms(sweep.description.seeds)
        if self._path:
            experiment_file.load_module(self._path)  # Defines the parts of its own.

    def experiment(self, entry: sweep_directory.TrialEntry) -> Experiment:
        """The experiment of a trial, as the sweep's directory says it.

        Raises:
          InputError: the code of its own parts is not what it was when the sweep was started.
        """
        found = trials.trial(entry.arm, entry.seed, self._arm(entry.arm))
        if not entry.name.endswith(f'-{found.address}'):
            raise config.InputError(
                f'{self._path} has changed since the sweep was started: arm {entry.arm} would be another trial than '
                f'{entry.name}. Give the sweep command again, which runs what is new.'
            )
        return found.experiment

    def run(self, name: str, *, stop_after: int | None = None) -> loop.TrainingResult:
        """Trains a trial with programs of its own, or resumes it.

        Raises:
          InputError: there is no such trial, or as loop.train().
        """
        return self._train(name, stop_after, step.OWN_PROGRAMS)

    def run_sharing(self, name: str, *, stop_after: int | None = None) -> loop.TrainingResult:
        """run() with programs that are kept for the trials that can share them."""
        arms = {arm: self._arm(arm) for arm in self._sweep.description.arms}
        return self._train(name, stop_after, self._programs.of(self._entry(name).arm, arms))

    def _train(self, name: str, stop_after: int | None, programs: step.RunPrograms) -> loop.TrainingResult:
        entry = self._entry(name)
        directory = self._sweep.trial(entry)
        return loop.train(self.experiment(entry), directory, stop_after=stop_after, programs=programs)

    def _entry(self, name: str) -> sweep_directory.TrialEntry:
        if name not in self._by_name:
            nearest = config.nearest(name, self._by_name)
            raise config.InputError(f'{self._sweep.path}: the sweep has no trial {name!r}.{nearest}')
        return self._by_name[name]

    def _arm(self, arm: str) -> Experiment:
        """The experiment of an arm; of each class of the file's own there is one as long as the process lives."""
        if arm not in self._arms:
            made = config.from_json(self._sweep.description.arms[arm])
            self._arms[arm] = (
                experiment_file.finish(made, f'arm {arm}', self._path) if self._path else experiments.check(made)
            )
        return self._arms[arm]


def serve(
    sweep: sweep_directory.SweepDirectory,
    requests: Iterable[bytes],
    answers: IO[bytes],
    status: Callable[[loop.TrainingResult], int],
) -> int:
    """Trains the trials that are asked for, until there are no more requests or a trial does not end as it should.

    What a trial prints, as a process does to its standard output and error, goes to the log of its request.

    Args:
      answers: gets the names of those that ended.
      status: the exit status of a trial, about which it says what is to be said.

    Returns:
      The exit status of the last one.
    """
    worker = Worker(sweep)
    for line in requests:
        asked: dict[str, Any] = json.loads(line)
        _print_to(asked['log'])
        ended = status(worker.run_sharing(asked['trial'], stop_after=asked['stop_after']))
        if ended:
            return ended
        gc.collect()  # What the trial had on the devices is free for the next one.
        sys.stdout.flush()
        sys.stderr.flush()
        answers.write(f'{asked["trial"]}\n'.encode())
        answers.flush()
    return 0


def _print_to(log: str) -> None:
    """From now on this process prints to the end of a file."""
    with open(log, 'ab') as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
