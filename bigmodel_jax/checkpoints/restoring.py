"""The files of a run beside its checkpoints, when they are gone: from the checkpoints, or from the process that trains.

experiment.json, environment.json and tokenizer/ are the oldest files of a long run, so that a purge by age takes them
first; and no checkpoint could be read without them. Each checkpoint holds copies, see Checkpointer.attachments.
"""

from collections.abc import Mapping

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.storage import appending, durable_files, integrity, sums


class RunFiles:
    """The content of the files of a run, to be written again if they vanish while it trains.

    Args:
      attachments: what its checkpoints hold, see Checkpointer.attachments.
    """

    def __init__(self, workdir: epath.Path, attachments: Mapping[str, bytes]):
        self._workdir = workdir
        self._contents = {name: content for name, content in attachments.items() if name != durable_files.SESSION}
        path = workdir / durable_files.ENVIRONMENT
        if attachments and durable_files.exists(path):
            self._contents[durable_files.ENVIRONMENT] = durable_files.read(path)

    def restored(self) -> str | None:
        """Writes again what is gone; a sentence that says so, or None. Raises nothing: the training continues."""
        try:
            gone = [name for name in self._contents if not durable_files.exists(self._workdir / name)]
            if not gone:
                return None
            sums.write(self._workdir, {name: self._contents[name] for name in gone})
        except (OSError, config.InputError) as error:
            return f'Files of the run may be gone from {self._workdir}: {durable_files.brief(error)}.'
        verb = 'was' if len(gone) == 1 else 'were'
        return (
            f'{", ".join(gone)} had vanished from {self._workdir} and {verb} written again. If something deletes old '
            'files there, move the run.'
        )


def from_checkpoints(workdir: epath.Path) -> None:
    """Writes the files of a run whose experiment.json is gone, from the newest checkpoint that holds good copies.

    Raises:
      InputError: they cannot be written.
    """
    if durable_files.exists(workdir / durable_files.EXPERIMENT):
        return
    folder = workdir / durable_files.CHECKPOINTS
    for step in reversed(durable_files.saved_steps(workdir)):
        try:
            contents = _copies(folder / str(step))
        except integrity.DamagedCheckpoint:
            continue
        missing = {name: each for name, each in contents.items() if not durable_files.exists(workdir / name)}
        if durable_files.EXPERIMENT not in missing:
            continue  # Written by a version whose checkpoints held no copies.
        try:
            sums.write(workdir, missing)
        except OSError as error:
            raise config.InputError(
                f'{workdir} has lost its {durable_files.EXPERIMENT}, of which the checkpoint of step {step} has a '
                f'copy, and it cannot be written: {durable_files.brief(error)}. Make the directory writable.'
            ) from error
        appending.say(f'{", ".join(missing)} was missing in {workdir}; restored from the checkpoint of step {step}.')
        return


def _copies(checkpoint: epath.Path) -> dict[str, bytes]:
    """The files of the run that a checkpoint holds, by their names in the run.

    Raises:
      DamagedCheckpoint: one of them is not as it was written.
    """
    described = integrity.record_of(checkpoint)
    folders = described['arrays'].keys()
    names = [name for name in described['files'] if name.split('/')[0] not in folders]
    found = {}
    for name in names:
        integrity.check_folder(checkpoint, name)
        found[name] = durable_files.read(checkpoint / name)
    if durable_files.SESSION in found:
        found[durable_files.ENVIRONMENT] = b'[' + found.pop(durable_files.SESSION).strip() + b']\n'
    return found
