"""SHA256SUMS: the checksums of what a run directory holds outside its checkpoints and logs.

experiment.json, environment.json and the files of tokenizer/ are read long after they were written, and a flipped bit
in them would pass for another experiment or another text. The file has the form of sha256sum, whose -c checks it too.
While a file is being replaced it has two lines, one of the old content and one of the new.
"""

import hashlib
from collections.abc import Mapping

from etils import epath

from bigmodel_jax.storage import durable_files

FILE = durable_files.SUMS


def write(workdir: epath.Path, contents: Mapping[str, bytes]) -> None:
    """Writes files of a run, by their names within its directory, each as a whole and with its checksum.

    Raises:
      InputError: one is a symbolic link.
      OSError: they cannot be written.
    """
    known = durable_files.known_sums(workdir)
    new = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    changed = [name for name, content in contents.items() if not _holds(workdir / name, content)]
    if not changed and all(known.get(name) == {each} for name, each in new.items()):
        return
    if changed:
        _write_sums(workdir, known | {name: known.get(name, set()) | {each} for name, each in new.items()})
    for name in changed:
        path = workdir / name
        durable_files.check_no_link(path.parent)
        path.parent.mkdir(exist_ok=True)
        durable_files.write(path, contents[name])
    _write_sums(workdir, known | {name: {each} for name, each in new.items()})


def check(workdir: epath.Path, folder: str) -> None:
    """Raises files.Damaged if a file in `folder`, within a run's directory, is not as it was written."""
    for name in durable_files.known_sums(workdir):
        if name.startswith(f'{folder}/'):
            durable_files.read_checked(workdir, name)


def _holds(path: epath.Path, content: bytes) -> bool:
    return durable_files.exists(path) and durable_files.retried(path.read_bytes) == content


def _write_sums(workdir: epath.Path, sums: Mapping[str, set[str]]) -> None:
    lines = [f'{each}  {name}\n' for name in sorted(sums) for each in sorted(sums[name])]
    durable_files.write(workdir / FILE, ''.join(lines).encode())
