"""The work directory: one run each, never silently overwritten, shared by all hosts.

experiment.json, environment.json (one entry for each session), metrics.jsonl, checkpoints/, compile_cache/,
tensorboard/, tokenizer/, report.html, trace.jsonl; and damaged/, checkpoints that were found to be damaged.
"""

import os
from typing import Any

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.experiment import CIRCUMSTANCES, Experiment
from bigmodel_jax.train import differences, files


def check(workdir: epath.PathLike, experiment: Experiment) -> list[config.Difference]:
    """Whether `experiment` may run in `workdir`: it is new, empty, or holds this experiment. Writes nothing.

    Returns:
      The circumstances (mesh, checkpoints, watch) in which the run there differs.

    Raises:
      InputError: it holds something else, or cannot be written.
    """
    workdir = epath.Path(workdir).expanduser()
    _check_writable(workdir)
    if not (workdir / files.EXPERIMENT).exists():
        found = sorted(path.name for path in workdir.iterdir()) if workdir.exists() else []
        if found:
            raise config.InputError(
                f'{workdir} is not empty and holds no run (no {files.EXPERIMENT}): {", ".join(found[:5])}. '
                'Use a new or empty directory.'
            )
        return []
    differences = stored_differences(workdir, experiment)
    changed = [each for each in differences if each.path.split('.')[0] not in CIRCUMSTANCES]
    if changed:
        lines = '\n'.join(f'  {each}' for each in changed)
        raise config.InputError(
            f'{workdir} holds another experiment; nothing was changed. There -> here:\n{lines}\n'
            'Use another --workdir, or undo the difference to go on with that run.'
        )
    return differences


def check_shared(workdir: epath.Path) -> None:
    """Raises InputError if this process does not see the directory that the first one made."""
    if not (workdir / files.EXPERIMENT).exists():
        raise config.InputError(
            f'--workdir {workdir} holds nothing here, but a run on host 0; use a directory that all hosts share '
            '(NFS, Lustre, gs://...).'
        )


def stored_differences(workdir: epath.Path, experiment: Experiment) -> list[config.Difference]:
    """Where the experiment stored in `workdir` differs from `experiment`; compared as JSON, so that it need not
    load."""
    stored = files.read_json(workdir / files.EXPERIMENT)
    return differences.between(stored, config.to_json(experiment))


def _check_writable(workdir: epath.Path) -> None:
    """Raises InputError if a local directory cannot be made or written. Remote stores answer when written to."""
    if '://' in str(workdir):
        return
    existing = workdir
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise config.InputError(f'--workdir {workdir}: {existing} is a file; use a directory.')
    if not os.access(existing, os.W_OK | os.X_OK):
        raise config.InputError(f'--workdir {workdir}: {existing} is not writable; use another directory.')


def create(workdir: epath.Path, experiment: Experiment) -> None:
    """Makes the directory and writes the experiment into it, replacing only an equal one or its circumstances.

    Raises:
      InputError: the directory cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        files.write_json(workdir / files.EXPERIMENT, config.to_json(experiment))
    except OSError as error:
        raise config.InputError(f'--workdir {workdir} cannot be written: {error}. Use another directory.') from error


def add_session(workdir: epath.Path, session: dict[str, Any]) -> None:
    """Appends one session to environment.json."""
    path = workdir / files.ENVIRONMENT
    sessions = files.read_json(path) if path.exists() else []
    files.write_json(path, [*sessions, session])
