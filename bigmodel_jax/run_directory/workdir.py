"""The work directory: one run each, never silently overwritten, shared by all hosts.

experiment.json, environment.json (one entry for each session), metrics.jsonl, checkpoints/,
tensorboard/, tokenizer/, report.html, trace.jsonl; SHA256SUMS; lock.json while it trains; and damaged/, checkpoints
that were found to be damaged.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from bigmodel_jax import config, differences
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.run_directory import locking, run_files
from bigmodel_jax.storage import appending, durable_files, sums

Attempt = Callable[[epath.Path, Callable[[], None]], None]
LEFT = (locking.FILE, sums.FILE)  # What a start that was killed may leave besides partial files.


def check(workdir: epath.PathLike, experiment: Experiment) -> list[config.Difference]:
    """Whether `workdir` is new, empty, or holds a run. Writes nothing.

    Returns:
      Where the experiment of the run there differs.

    Raises:
      InputError: it holds something else.
    """
    workdir = epath.Path(workdir).expanduser()
    if not present(workdir / durable_files.EXPERIMENT):
        # What is left of a start that was killed in its first moments does not count.
        found = [
            name for name in durable_files.names_in(workdir) if not (durable_files.is_partial(name) or name in LEFT)
        ]
        if found:
            raise config.InputError(
                f'{workdir} is not empty and holds no run (no {durable_files.EXPERIMENT}): {", ".join(found[:5])}. '
                'Use a new or empty directory.'
            )
        return []
    return stored_differences(workdir, experiment)


def check_shared(workdir: epath.Path) -> None:
    """Raises InputError if this process does not see the directory that the first one made."""
    if not present(workdir / durable_files.EXPERIMENT):
        raise config.InputError(
            f'--workdir {workdir} holds nothing here, but a run on host 0; use a directory that all hosts share '
            '(NFS, Lustre, gs://...).'
        )


def present(path: epath.Path) -> bool:
    """Whether there is a file; raises InputError where the storage does not say."""
    try:
        return durable_files.exists(path)
    except OSError as error:
        raise config.InputError(f'{path} could not be read: {error}. Try again when the storage answers.') from error


def stored_differences(workdir: epath.Path, experiment: Experiment) -> list[config.Difference]:
    """Where the experiment stored in `workdir` differs from `experiment`; compared as JSON, so that it need not
    load."""
    stored = run_files.experiment(workdir)
    return differences.between(config.normalized(stored), config.to_json(experiment))


def check_writable(workdir: epath.Path) -> None:
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
        durable_files.retried(lambda: workdir.mkdir(parents=True, exist_ok=True))
        durable_files.clean(workdir)
        path, new = workdir / durable_files.EXPERIMENT, config.to_json(experiment)
        # As an older version wrote it, if it says the same: by this its checkpoints are known.
        if not durable_files.exists(path) or config.normalized(durable_files.read_json(path)) != new:
            sums.write(workdir, {durable_files.EXPERIMENT: durable_files.encode_json(_like_stored(path, new))})
    except OSError as error:
        raise config.InputError(
            f'--workdir {workdir} cannot be written: {error}. Make it writable, with free space, or use another one.'
        ) from error


def _like_stored(path: epath.Path, new: dict[str, Any]) -> dict[str, Any]:
    """`new`, which differs in its circumstances at most, with all else as it is stored in `path`, if it is there."""
    stored = durable_files.read_json(path) if durable_files.exists(path) else new
    return stored | {name: new[name] for name in differences.CIRCUMSTANCES}


def at_once(path: epath.Path, write: Callable[[], None]) -> None:
    """Writes a file with `write`; raises InputError if it cannot be written."""
    try:
        write()
    except OSError as error:
        raise config.InputError(f'{path} cannot be written: {error}. Start again when it can be.') from error


def add_session(workdir: epath.Path, session: dict[str, Any], attempt: Attempt = at_once) -> None:
    """Appends one session to environment.json.

    Args:
      attempt: calls what writes a file, given with its path; and decides what happens if that fails.
    """
    path = workdir / durable_files.ENVIRONMENT
    try:
        sessions = run_files.environment(workdir) if present(path) else []
    except durable_files.DamagedFile as error:
        # It tells of earlier sessions, and no later one depends on them.
        appending.say(f'{error} It was kept as {_kept(path).name}; a new one begins with this session.')
        sessions = []
    content = durable_files.encode_json([*sessions, session])
    attempt(path, lambda: sums.write(workdir, {durable_files.ENVIRONMENT: content}))


def add_tokenizer(workdir: epath.Path, contents: Mapping[str, bytes], attempt: Attempt = at_once) -> None:
    """Writes the files of the run's tokenizer, by name; see add_session()."""
    named = {f'{tokenizers.FOLDER}/{name}': content for name, content in contents.items()}
    attempt(workdir / tokenizers.FOLDER, lambda: sums.write(workdir, named))


def _kept(path: epath.Path) -> epath.Path:
    """Moves a damaged file out of the way, to a name of its own; returns where it is."""
    taken = set(durable_files.names_in(path.parent))
    names = (f'{path.name}.damaged', *(f'{path.name}.damaged-{number}' for number in range(2, len(taken) + 3)))
    kept = path.parent / next(name for name in names if name not in taken)
    try:
        path.rename(kept)
    except OSError as error:
        raise config.InputError(f'{path} is damaged and cannot be renamed: {error}. Move it away.') from error
    return kept
