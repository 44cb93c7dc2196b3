"""One trial of a sweep in this process; every engine starts the command line's `trial SWEEP NAME`, which calls this."""

import sys

from bigmodel_jax import config, experiment_file
from bigmodel_jax import experiment as experiments
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.sweeps import sweep_directory, trials
from bigmodel_jax.train import loop


def command(sweep: sweep_directory.SweepDirectory, entry: sweep_directory.TrialEntry) -> list[str]:
    """The command that runs a trial; its exit status is that of `train`."""
    return [sys.executable, '-m', 'bigmodel_jax', 'trial', str(sweep.path), entry.name]


def experiment_of(sweep: sweep_directory.SweepDirectory, entry: sweep_directory.TrialEntry) -> Experiment:
    """The experiment of a trial, as the sweep's directory says it.

    Raises:
      InputError: the code of its own parts is not what it was when the sweep was started.
    """
    path, made = experiment_file.parse(sweep.description.source.experiment)[0], f'arm {entry.arm}'
    if path:
        experiment_file.load_module(path)  # Defines the parts of its own.
        arm = experiment_file.finish(config.from_json(sweep.description.arms[entry.arm]), made, path)
    else:
        arm = experiments.check(config.from_json(sweep.description.arms[entry.arm]))
    found = trials.trial(entry.arm, entry.seed, arm)
    if not entry.name.endswith(f'-{found.address}'):
        raise config.InputError(
            f'{path} has changed since the sweep was started: arm {entry.arm} would be another trial than '
            f'{entry.name}. Give the sweep command again, which runs what is new.'
        )
    return found.experiment


def run(sweep: sweep_directory.SweepDirectory, name: str) -> loop.TrainingResult:
    """Trains a trial, or resumes it.

    Raises:
      InputError: there is no such trial, or as loop.train().
    """
    by_name = {entry.name: entry for entry in sweep.description.trials}
    if name not in by_name:
        raise config.InputError(f'{sweep.path}: the sweep has no trial {name!r}.{config.nearest(name, by_name)}')
    return loop.train(experiment_of(sweep, by_name[name]), sweep.trial(by_name[name]))
