"""Training several runs in one process, with programs that are compiled once."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.checkpoints import checkpoints
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.hosts import preemption
from bigmodel_jax.run_directory import locking
from bigmodel_jax.storage import appending, durable_files
from bigmodel_jax.train import loop, metrics, preparation
from bigmodel_jax.train.together import grouping, shared_programs

# What ends one run, and not the others.
FAILURES = (
    config.InputError,
    metrics.Anomalous,
    checkpoints.NotSaved,
    locking.DirectoryInUse,
    OSError,
    jax.errors.JaxRuntimeError,
)


@dataclasses.dataclass(frozen=True)
class FailedRun:
    """A run that ended with an error; what it saved before is as good as that of a process that failed."""

    workdir: epath.Path
    error: Exception


Ended = loop.TrainingResult | FailedRun


def train_together(experiments: Sequence[Experiment], workdirs: Sequence[epath.PathLike]) -> list[Ended]:
    """Trains experiments one after another in this process; what they compute in a step is compiled once for all.

    Each run has an ordinary directory, in which environment.json says that it was trained together with others, and
    ends with the same state, bit for bit, as if it were trained alone. One that was interrupted resumes from its newest
    checkpoint, here or with loop.train(); one that is finished is not trained again. One that fails does not stop the
    others. A signal stops them all, with a checkpoint of the one that is being trained.

    Args:
      experiments: they may differ in what grouping.py says.
      workdirs: a directory for each.

    Returns:
      How each ended, in their order; fewer if a signal came before the last began.

    Raises:
      InputError: the experiments cannot be trained together, or a directory cannot be used; nothing was written.
    """
    directories = _checked(experiments, workdirs)
    programs = shared_programs.SharedPrograms(experiments)
    ended: list[Ended] = []
    for experiment, directory in zip(experiments, directories):
        try:
            ended.append(loop.train(experiment, directory, programs=programs))
        except FAILURES as error:
            appending.say(f'{directory}: the run failed: {error}')
            ended.append(FailedRun(directory, error))
        if preemption.status(stopped_by(ended[-1])):
            break
    return ended


def stopped_by(ended: Ended) -> str | None:
    """The signal or other reason that stopped a run before its end."""
    return ended.stopped_by if isinstance(ended, loop.TrainingResult) else None


def _checked(experiments: Sequence[Experiment], workdirs: Sequence[epath.PathLike]) -> list[epath.Path]:
    """The directories, if the runs can be trained together in them."""
    if not experiments or len(experiments) != len(workdirs):
        raise config.InputError(
            f'train_together() was given {len(experiments)} experiments and {len(workdirs)} directories; give at least '
            'one experiment, and a directory for each.'
        )
    directories = [durable_files.directory(path) for path in workdirs]
    twice = [path for path in dict.fromkeys(directories) if directories.count(path) > 1]
    if twice:
        raise config.InputError(f'{twice[0]} is the directory of two runs; each needs its own.')
    grouping.check(experiments)
    for experiment, directory in zip(experiments, directories):
        nothing: dict[str, Any] = dict.fromkeys(('stop_after', 'wandb', 'profile', 'budget'))
        preparation.check(experiment, directory, new_segment=False, **nothing)
    return directories
