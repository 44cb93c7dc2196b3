"""Logging to Weights & Biases: the id of a run there, and a tracker that fails without ending the run."""

import importlib.util
import pathlib
import re
import secrets
from collections.abc import Mapping
from typing import Any

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.storage import appending, durable_files

FILE = 'wandb.json'  # In the work directory: the id of its run there.
ID = re.compile(r'[0-9a-z]{1,64}')
FORBIDDEN = '/\\#?%:'  # In the name of a project.
LONGEST = 128  # Characters of the name of a project.


def check(project: str) -> None:
    """Raises InputError if Weights & Biases is not installed, or can have no project of this name."""
    bad = sorted({letter for letter in project if letter in FORBIDDEN or not letter.isprintable()})
    if not project or bad or len(project) > LONGEST:
        listed = f'it holds {" ".join(map(repr, bad))}' if bad else f'it has {len(project)} characters'
        raise config.InputError(
            f'--wandb {project!r} cannot be the name of a project: {listed}. Use 1 to {LONGEST} characters without '
            f'any of {" ".join(FORBIDDEN)}'
        )
    if importlib.util.find_spec('wandb') is None:
        raise config.InputError('--wandb needs the client of Weights & Biases: pip install wandb.')


def identity(workdir: epath.Path) -> str:
    """The id of the run of a work directory: drawn once and stored there.

    A resumed run thus continues in its chart, wherever its directory is moved to, and no two runs share one, whatever
    their directories are called.

    Raises:
      DamagedFile: the file that holds it is not as it was written.
    """
    path = workdir / FILE
    if durable_files.exists(path):
        stored = durable_files.read_json(path)
        known = stored.get('id') if isinstance(stored, dict) else None
        if not isinstance(known, str) or not ID.fullmatch(known):
            raise durable_files.DamagedFile(
                f'{path} is damaged: its id is {known!r}. Remove the file to begin a new chart.'
            )
        return known
    drawn = secrets.token_hex(8)
    durable_files.write_json(path, {'id': drawn})
    return drawn


def name(workdir: epath.Path) -> str:
    """What the run is called on the screen: the directory and the one that it is in, 'lr1/seed0'."""
    parts = (pathlib.Path(workdir).resolve() if not durable_files.is_remote(workdir) else workdir).parts
    return '/'.join(part for part in parts[-2:] if part.strip('/')) or 'run'


class Tracker:
    """A run of Weights & Biases, to which metrics are logged; training continues without it where it fails.

    Args:
      project: see check().
      details: what it shows as the configuration.

    Raises:
      InputError: it refuses the run, such as for want of a key.
    """

    def __init__(self, project: str, workdir: epath.Path, details: Mapping[str, Any]):
        import wandb  # An extra; see check().

        self._run: Any = None
        # Its files belong to the run: in the current directory they would be untracked files beside the user's code.
        local = None if durable_files.is_remote(workdir) else str(workdir)
        try:
            self._run = wandb.init(
                project=project,
                id=identity(workdir),
                name=name(workdir),
                config=dict(details),
                resume='allow',
                dir=local,
            )
        except wandb.errors.UsageError as error:
            raise config.InputError(
                f'Weights & Biases refuses the run: {error}. Log in with `wandb login`, or set WANDB_MODE=offline.'
            ) from error
        except (OSError, wandb.errors.Error) as error:
            appending.say(f'Weights & Biases cannot be used: {error}. The run continues without it.')

    def log(self, shown: Mapping[str, float], step: int) -> None:
        """Logs the values of some series at a step."""
        if self._run is None:
            return
        try:
            self._run.log(dict(shown), step=step)
        except OSError as error:  # Its own process is gone, or its disk is full.
            appending.say(f'Weights & Biases does not take what is logged: {error}. The run continues without it.')
            self._run = None

    def finish(self) -> None:
        """Ends the session."""
        if self._run is None:
            return
        try:
            self._run.finish()
        except OSError as error:
            appending.say(f'Weights & Biases did not take the end of the run: {error}.')
