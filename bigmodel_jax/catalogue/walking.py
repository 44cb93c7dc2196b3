"""Finds run directories below a root: names and times of files alone, so that thousands take a fraction of a second.

A directory that holds experiment.json is a run. Runs may lie within runs. Directories whose name begins with a dot are
left out, and so are a run's own folders and checkpoints. Symbolic links to directories are followed, and each directory
is visited once, however many links lead to it.
"""

import json
import os
import stat
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.storage import durable_files

LOCK, METRICS, SEGMENTS = 'lock.json', 'metrics.jsonl', durable_files.SEGMENTS
# The files from which the facts of a run are read; a change of any of them is a change of the run.
READ = (durable_files.EXPERIMENT, durable_files.ENVIRONMENT, METRICS, SEGMENTS, durable_files.SUMS)
MIB = 2**20
LARGEST = {
    durable_files.EXPERIMENT: 64 * MIB,
    durable_files.ENVIRONMENT: 256 * MIB,
    METRICS: 1024 * MIB,
    SEGMENTS: 256 * MIB,
    durable_files.SUMS: 64 * MIB,
}  # Bytes; a larger file is not read.
# Two of these, without experiment.json, are what is left of a run.
REMAINS = frozenset({durable_files.ENVIRONMENT, METRICS, durable_files.TRACE, durable_files.CHECKPOINTS})
# The folders of a run's directory, in which no other run is.
OWN_FOLDERS = frozenset({'checkpoints', 'tensorboard', 'tokenizer', 'artifacts', 'code', 'damaged', 'profile'})
CHECKPOINT = 'checkpoint.json'  # In the directory of a checkpoint, which holds a copy of experiment.json.
SWEEP, TRIALS = 'sweep.json', 'trials'  # In the directory of a sweep.
LARGEST_SWEEP_BYTES = 64 * MIB
SETTLED_NS = 2_000_000_000  # The coarsest clock of a file system: what changed within it may change again unnoticed.


class FoundRun(NamedTuple):
    """The directory of a run, not read yet.

    Attributes:
      path: the root as it was given, and the way from there.
      relative: the way from the root; '.' for the root itself.
      is_locked: it holds a lock, so that a process may be training there.
      sweep: the directory of the sweep whose trial it is.
      arm: of that sweep.
    """

    path: str
    relative: str
    is_locked: bool
    sweep: str | None
    arm: str | None


class Walk(NamedTuple):
    """What is below a root."""

    runs: list[FoundRun]
    problems: list[str]  # A sentence for each directory that could not be listed.


class FileStamp(NamedTuple):
    """Tells the state of a run's files: equal stamps mean that nothing was written in between."""

    text: str
    changed_ns: int  # When one of them was last written, in nanoseconds since 1970; 0 where the storage does not say.
    problem: str | None  # What is wrong with one of them, so that it must not be read.


# ---- the walk -------------------------------------------------------------------------------------------------------


def find(root: str, visited: set[Any]) -> Walk:
    """Every run below a root, sorted by path.

    Args:
      visited: the directories that were visited before, under other roots, to which those of this walk are added.

    Raises:
      InputError: there is no such directory, or it cannot be listed.
    """
    top = durable_files.directory(root)
    try:
        is_there, is_directory = durable_files.exists(top), durable_files.is_directory(top)
    except OSError as error:
        raise config.InputError(f'{root} cannot be read: {durable_files.brief(error)}.') from error
    if not is_directory:
        what = 'is a file' if is_there else 'is not there'
        raise config.InputError(f'{root} {what}. Pass a directory below which runs are.')
    walk = Walk([], [])
    walker = _Walker(os.fspath(top), walk, visited)
    walker.go()
    walk.runs.sort(key=lambda found: found.path)
    return walk


class _Pending(NamedTuple):
    path: str
    relative: str
    sweep: str | None = None
    arms: Mapping[str, str] | None = None  # Of the trials in it, by the names of their directories.
    arm: str | None = None


class _Walker:
    def __init__(self, root: str, walk: Walk, visited: set[Any]):
        self._root, self._walk, self._visited = root, walk, visited
        self._remote = durable_files.is_remote(root)
        self._links: list[_Pending] = []

    def go(self) -> None:
        pending = [_Pending(self._root, '.')]
        while pending or self._links:
            # Links last, so that a directory is listed under its own path, and not under that of a link.
            place = pending.pop() if pending else self._links.pop(0)
            if not self._is_new(place.path):
                continue
            try:
                found = _remote_names(place.path) if self._remote else _local_names(place.path)
            except (FileNotFoundError, NotADirectoryError):
                continue  # It was removed a moment ago.
            except OSError as error:
                if place.path == self._root:
                    raise config.InputError(f'{place.path} cannot be listed: {durable_files.brief(error)}.') from error
                self._walk.problems.append(f'{place.path} could not be listed: {error.strerror or error}.')
                continue
            pending += self._visit(place, found)

    def _is_new(self, path: str) -> bool:
        if self._remote:
            key: Any = path
        else:
            try:
                status = os.stat(path)
            except OSError:
                return True  # Listing it says why.
            key = (status.st_dev, status.st_ino)
        new = key not in self._visited
        self._visited.add(key)
        return new

    def _visit(self, place: _Pending, found: Mapping[str, str]) -> list[_Pending]:
        """Notes the run in a directory, if it is one; returns the directories to visit next."""
        if CHECKPOINT in found:
            return []
        is_run = durable_files.EXPERIMENT in found or len(REMAINS.intersection(found)) > 1
        if is_run:
            self._walk.runs.append(FoundRun(place.path, place.relative, LOCK in found, place.sweep, place.arm))
        arms = _arms(place.path, remote=self._remote) if SWEEP in found and not is_run else None
        inner = []
        for name, kind in found.items():
            if kind == 'file' or name.startswith('.') or (is_run and name in OWN_FOLDERS):
                continue
            path, relative = f'{place.path.rstrip("/")}/{name}', name
            if place.relative != '.':
                relative = f'{place.relative}/{name}'
            child = _Pending(path, relative, *_membership(place, name, arms))
            (self._links if kind == 'link' else inner).append(child)
        return inner


def _membership(
    place: _Pending, name: str, arms: Mapping[str, str] | None
) -> tuple[str | None, Mapping[str, str] | None, str | None]:
    """(sweep, arms, arm) of a directory within another: trials/ of a sweep, and the trials in it, belong to it."""
    if arms is not None and name == TRIALS:
        return place.path, arms, None
    if place.arms is not None:
        return place.sweep, None, place.arms.get(name)
    return None, None, None


def _local_names(path: str) -> dict[str, str]:
    """Name -> 'directory', 'link' to one, or 'file', sorted."""
    with os.scandir(path) as entries:
        return {entry.name: _kind(entry) for entry in sorted(entries, key=lambda entry: entry.name)}


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if not entry.is_dir():
            return 'file'
        return 'link' if entry.is_symlink() else 'directory'
    except OSError:  # A link that leads to itself, or to where nobody may look.
        return 'file'


def _remote_names(path: str) -> dict[str, str]:
    children = durable_files.retried(lambda: list(epath.Path(path).iterdir()))
    kinds = {child.name: 'directory' if child.is_dir() else 'file' for child in children}
    return dict(sorted(kinds.items()))


def _arms(sweep: str, *, remote: bool) -> dict[str, str]:
    """Name of a trial's directory -> its arm, as sweep.json says; nothing where that cannot be read."""
    path = epath.Path(sweep) / SWEEP
    try:
        if not remote and not _is_readable(os.stat(path), LARGEST_SWEEP_BYTES):
            return {}
        trials = json.loads(path.read_bytes())['trials']
        return {str(trial['name']): str(trial['arm']) for trial in trials}
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return {}


# ---- the state of a run's files -------------------------------------------------------------------------------------


def _is_readable(status: os.stat_result, most_bytes: int) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_size <= most_bytes


def stamp(path: str) -> FileStamp:
    """The state of the files of a run."""
    parts, changed, problem = [], 0, None
    for name in READ:
        place = f'{path}/{name}'
        try:
            state, wrong = _state(place, LARGEST[name])
        except FileNotFoundError:
            continue
        except OSError as error:
            state, wrong = (0, 0, 0, 0), f'{place} cannot be read: {error.strerror or error}.'
        parts.append(f'{name} {state}')
        changed = max(changed, state[1])
        problem = problem or wrong
    return FileStamp('\n'.join(parts), changed, problem)


def _state(place: str, most_bytes: int) -> tuple[tuple[int, int, int, int], str | None]:
    """((bytes, time of change, time of change of its entry, number), problem) of a file."""
    if durable_files.is_remote(place):
        state, regular = _remote_state(place), True
    else:
        status = os.stat(place)
        state = (status.st_size, max(status.st_mtime_ns, 1), status.st_ctime_ns, status.st_ino)
        regular = stat.S_ISREG(status.st_mode)
    if not regular:
        return state, f'{place} is not a file.'
    large = state[0] > most_bytes
    return state, f'{place} has {state[0]:,} bytes; more than {most_bytes:,} are not read.' if large else None


def _remote_state(place: str) -> tuple[int, int, int, int]:
    found = durable_files.retried(lambda: epath.Path(place).stat())
    return (found.length or 0, int(found.mtime) * 1_000_000_000, 0, 0)


def is_settled(found: FileStamp, now_ns: int) -> bool:
    """Whether a later change will show: the time of the last one is known, and further back than a clock resolves."""
    return found.changed_ns > 0 and now_ns - found.changed_ns > SETTLED_NS


def key(found: FoundRun) -> bytes:
    """The key under which an index knows a run: its way from the root, so that both may be moved together."""
    return os.fsencode(found.relative)
