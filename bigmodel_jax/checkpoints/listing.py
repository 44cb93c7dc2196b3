"""Lists the checkpoints of a directory, and moves damaged ones away."""

import functools
import os
from collections.abc import Collection
from typing import NamedTuple

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.storage import durable_files, integrity, stores

DAMAGED = 'damaged'  # Where damaged checkpoints are moved to, within the work directory.


class Gone(Exception):
    """A checkpoint was deleted while it was read."""


class ListedCheckpoints(NamedTuple):
    """The steps in a directory of checkpoints, as text, since JSON knows no other keys."""

    metrics: dict[str, dict[str, float]]  # Those saved with the checkpoint.
    unreadable: dict[str, str]  # Steps whose records the storage does not give, and why.


def found(directory: epath.Path, store: stores.Store) -> ListedCheckpoints:
    """The checkpoints that exist now.

    Raises:
      Unreadable: the storage does not say.
    """
    metrics: dict[str, dict[str, float]] = {}
    unreadable: dict[str, str] = {}
    for name in integrity.reading(directory, lambda: durable_files.names_in(directory)):
        if not durable_files.is_step(name):
            continue
        path = directory / name
        try:
            if integrity.reading(path, functools.partial(store.committed, path)):
                metrics[name] = integrity.metrics_of(path)
        except integrity.Unreadable as error:
            unreadable[name] = str(error)
    return ListedCheckpoints(metrics, unreadable)


def set_aside(workdir: epath.Path, steps: Collection[int]) -> list[str]:
    """Moves damaged checkpoints away; returns a sentence for each that could not be moved."""
    directory = workdir / durable_files.CHECKPOINTS
    # One that is a link is on a file system of its own, and a rename stays within one.
    folder = (directory if os.path.islink(directory) else workdir) / DAMAGED
    failed = []
    for step in steps:
        try:
            durable_files.check_no_link(folder)
            folder.mkdir(exist_ok=True)
            taken = set(durable_files.names_in(folder))
            names = (str(step), *(f'{step}-{number}' for number in range(2, len(taken) + 3)))
            (directory / str(step)).rename(folder / next(name for name in names if name not in taken))
        except (OSError, config.InputError) as error:
            failed.append(f'{directory / str(step)} could not be moved to {folder}: {durable_files.brief(error)}')
    return failed
