"""The work directory: one run each, never silently overwritten.

experiment.json, environment.json (one entry for each session), metrics.jsonl, checkpoints/, tensorboard/, tokenizer/,
report.html.
"""

import os
from typing import Any

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.experiment import CIRCUMSTANCES, Experiment
from bigmodel_jax.train import files


def check(workdir: epath.PathLike, experiment: Experiment) -> list[config.Difference]:
    """Whether `experiment` may run in `workdir`: it is new, empty, or holds this experiment. Writes nothing.

    Returns:
      The circumstances (mesh, checkpoints, log_every) in which the run there differs.

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


def stored_differences(workdir: epath.Path, experiment: Experiment) -> list[config.Difference]:
    """Where the experiment stored in `workdir` differs from `experiment`; compared as JSON, so that it need not
    load."""
    stored = files.read_json(workdir / files.EXPERIMENT)
    return _json_difference(stored, config.to_json(experiment), '')


def _json_difference(left: Any, right: Any, path: str) -> list[config.Difference]:
    if isinstance(left, dict) and isinstance(right, dict) and left.get('class') == right.get('class'):
        names = list(dict.fromkeys([*left, *right]))
        pairs = [(name, left.get(name, config.MISSING), right.get(name, config.MISSING)) for name in names]
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(left, right))]
    else:
        return [] if left == right else [config.Difference(path, _short(left), _short(right))]
    return [found for name, a, b in pairs for found in _json_difference(a, b, config.join(path, name))]


def _short(value: Any) -> Any:
    """A config in JSON as its class's name and fields."""
    if not isinstance(value, dict) or 'class' not in value:
        return value
    fields = ', '.join(f'{name}={_short(item)!r}' for name, item in value.items() if name != 'class')
    return f'{value["class"].rpartition(":")[2]}({fields})'


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
