"""The record of what a checkpoint holds, so that damage is found and named before a number of it is used.

Every step directory holds checkpoint.json, written last. It is sealed with its own SHA-256, and says of which step and
experiment the checkpoint is, the path, shape, dtype and checksum of every array, and the size of every file, with the
SHA-256 of all but the large ones that hold the arrays' numbers: of those the arrays' checksums are checked, on the
devices, after they were read.
"""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.storage import durable_files

RECORD = 'checkpoint.json'
FORMAT = 1
FIELDS = {
    'format': int, 'step': int, 'experiment': str, 'position': dict, 'metrics': dict, 'arrays': dict, 'files': dict
}  # fmt: skip
HASHED_BYTES = 2**20  # Files of arrays up to this size are hashed: all but those with the numbers of large arrays.
PASSING = '.nfs'  # NFS keeps a file that was deleted while somebody reads it under such a name for a while.

T = TypeVar('T')
Ours = Callable[[epath.Path, str], bool]
Record = dict[str, Any]  # 'format', 'step', 'experiment', 'position', 'metrics', 'arrays', 'files'.


class DamagedCheckpoint(Exception):
    """A checkpoint is not as it was written; says which part of it is wrong, and how."""


class Unreadable(config.InputError):
    """The storage did not give the content of a checkpoint, which may be good all the same."""


def unreadable(directory: epath.Path, reason: str) -> Unreadable:
    """The error that says so, of the checkpoint in a directory."""
    return Unreadable(
        f'Checkpoint {directory} could not be read: {reason}. It may be undamaged, and was neither moved nor changed. '
        'Try again when the storage answers. If it never does, move this '
        'directory away, and the checkpoint before it is used.'
    )


def reading(directory: epath.Path, action: Callable[[], T]) -> T:
    """What `action` reads of a checkpoint; a read that fails is tried again for a few seconds.

    Raises:
      DamagedCheckpoint: a file is missing, or not as it was written.
      Unreadable: the storage failed every time.
    """
    try:
        return durable_files.retried(action)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        name = str(error.filename).removeprefix(f'{directory}/')
        raise DamagedCheckpoint(f'{name} is missing') from error
    except PermissionError as error:
        raise Unreadable(
            f'Checkpoint {directory} could not be read: {durable_files.brief(error)}. '
            'Give this user the right to read it.'
        ) from error
    except OSError as error:
        raise unreadable(directory, durable_files.brief(error)) from error


def files_of(directory: epath.Path, below: str = '') -> Iterator[tuple[str, epath.Path]]:
    """The name within `directory`, and the path, of every file in it except the record.

    Raises:
      DamagedCheckpoint: one of them is a symbolic link.
    """
    for child in sorted(directory.iterdir()):
        name = below + child.name
        if _is_link(child):
            raise DamagedCheckpoint(f'{name} is a symbolic link')
        if child.is_dir():
            yield from files_of(child, f'{name}/')
        elif name != RECORD and not child.name.startswith(PASSING):
            yield name, child


def _is_link(path: epath.Path) -> bool:
    return os.path.islink(path)  # Of an object store's: no.


def describe_files(directory: epath.Path, attachments: Collection[str] = ()) -> dict[str, list[Any]]:
    """Size and SHA-256 of every file, as the record keeps them; of large files of arrays the size alone.

    Args:
      attachments: the names of files that hold no arrays, and are hashed whatever their size.
    """
    return {name: _describe(path, hashed=name in attachments) for name, path in files_of(directory)}


def _describe(path: epath.Path, *, hashed: bool) -> list[Any]:
    size = path.stat().length
    known = hashed or size <= HASHED_BYTES
    return [size, hashlib.sha256(path.read_bytes()).hexdigest()] if known else [size]


def seal(record: Record) -> str:
    """The text of a record's file: the record on one line, and its SHA-256 on the next."""
    line = json.dumps(record, sort_keys=True)
    return f'{line}\n{hashlib.sha256(line.encode()).hexdigest()}\n'


def unseal(content: bytes) -> Record:
    """The inverse of seal().

    Raises:
      DamagedCheckpoint: the text is not what seal() wrote, or of another format.
    """
    line, _, rest = content.partition(b'\n')
    if rest != f'{hashlib.sha256(line).hexdigest()}\n'.encode():
        raise DamagedCheckpoint(f'{RECORD} is damaged: its checksum is not that of its content')
    try:
        record = json.loads(line)
        wrong = [name for name, kind in FIELDS.items() if not isinstance(record.get(name), kind)]
    except (ValueError, RecursionError, AttributeError) as error:  # Written by somebody else, with a right checksum.
        raise DamagedCheckpoint(f'{RECORD} is damaged: {error}') from None
    if wrong:
        raise DamagedCheckpoint(f'{RECORD} is damaged: its {wrong[0]} is missing, or of another type')
    if record['format'] != FORMAT:
        raise DamagedCheckpoint(f'{RECORD} is of format {record["format"]}; this version reads format {FORMAT}')
    return record


def check(directory: epath.Path, *, step: int, ours: Ours, items: Collection[str]) -> Record:
    """The record of a checkpoint, after a comparison with the files that are there.

    Args:
      step: of the checkpoint, as the directory's name says.
      ours: tells whether a checkpoint is of the run, by its directory and the fingerprint() in its record.
      items: the parts, as folders of `directory`, whose files matter.

    Raises:
      DamagedCheckpoint: something is missing, or not as it was written.
      Unreadable: the storage does not say.
    """
    return reading(directory, lambda: _check(directory, step=step, ours=ours, items=items))


def _check(directory: epath.Path, *, step: int, ours: Ours, items: Collection[str]) -> Record:
    record = _record(directory)
    if record['step'] != step:
        raise DamagedCheckpoint(f'it is a checkpoint of step {record["step"]}, in the directory of step {step}')
    if not ours(directory, record['experiment']):
        raise DamagedCheckpoint('it is a checkpoint of another run: its experiment is not the one of this directory')
    wanted = {name: facts for name, facts in record['files'].items() if name.split('/')[0] in items}
    # A foreign file anywhere says that somebody wrote here; one that is not read does no harm where nothing is wanted.
    found = dict(files_of(directory))
    foreign = sorted(found.keys() - record['files'].keys())
    if foreign:
        raise DamagedCheckpoint(f'{foreign[0]} does not belong to it')
    for name, facts in wanted.items():
        _check_file(name, found.get(name), facts)
    return record


def _record(directory: epath.Path) -> Record:
    if _is_link(directory):
        raise DamagedCheckpoint('it is a symbolic link, not a directory')
    if not durable_files.is_directory(directory):
        raise DamagedCheckpoint(
            'it is a file, not a directory' if durable_files.exists(directory) else 'it is not there any more'
        )
    path = directory / RECORD
    if not durable_files.exists(path):
        empty = next(iter(directory.iterdir()), None) is None
        reason = 'it is empty' if empty else f'{RECORD} is missing: it is incomplete, or was written without checksums'
        raise DamagedCheckpoint(reason)
    if _is_link(path) or durable_files.is_directory(path):
        raise DamagedCheckpoint(f'{RECORD} is not a file')
    return unseal(path.read_bytes())


def check_folder(directory: epath.Path, folder: str) -> None:
    """Compares a file of a checkpoint, or those in one of its folders, with its record.

    Raises:
      DamagedCheckpoint: one is missing, or not as it was written.
      Unreadable: the storage does not say.
    """

    def compare() -> None:
        for name, facts in _record(directory)['files'].items():
            if name == folder or name.startswith(f'{folder}/'):
                _check_file(name, directory / name if durable_files.exists(directory / name) else None, facts)

    reading(directory, compare)


def record_of(directory: epath.Path) -> Record:
    """The record of a checkpoint, compared with nothing.

    Raises:
      DamagedCheckpoint: there is none, or it is not as it was written.
      Unreadable: the storage does not say.
    """
    return reading(directory, lambda: _record(directory))


def metrics_of(directory: epath.Path) -> dict[str, float]:
    """The metrics that were saved with a checkpoint; none if it is damaged.

    Raises:
      Unreadable: the storage does not say.
    """
    try:
        return record_of(directory)['metrics']
    except DamagedCheckpoint:
        return {}


def _check_file(name: str, path: epath.Path | None, facts: list[Any]) -> None:
    if path is None:
        raise DamagedCheckpoint(f'{name} is missing')
    size = path.stat().length
    if size != facts[0]:
        raise DamagedCheckpoint(f'{name} has {size:,} bytes instead of {facts[0]:,}')
    if _describe(path, hashed=len(facts) > 1) != facts:
        raise DamagedCheckpoint(f'{name} has another content than was written')


def check_sums(names: Collection[str], found: Collection[str], wanted: Mapping[str, Mapping[str, Any]]) -> None:
    """Compares the checksums of arrays that were read with those of the record.

    Raises:
      DamagedCheckpoint: some are others; names up to three.
    """
    wrong = [name for name, text in zip(names, found) if text != wanted[name]['checksum']]
    if wrong:
        more = f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''
        arrays = 'the array' if len(wrong) == 1 else f'{len(wrong)} arrays'
        raise DamagedCheckpoint(f'{arrays} {", ".join(wrong[:3])}{more}: the checksum is not that of the numbers saved')


def fingerprint(experiment: Mapping[str, Any], circumstances: Collection[str]) -> str:
    """SHA-256 of an experiment's JSON without the fields that may change within a run."""
    kept = {name: value for name, value in experiment.items() if name not in circumstances}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
