"""Reading one checkpoint, or naming what is wrong with it: the files first, then the arrays as they were read.

All processes come to the same end, whichever of them met the damage.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from bigmodel_jax.checkpoints import partial_state, saving
from bigmodel_jax.hosts import processes
from bigmodel_jax.run_directory import digest
from bigmodel_jax.storage import durable_files, integrity

Structs = Mapping[str, jax.ShapeDtypeStruct]


def read(
    path: epath.Path,
    items: Mapping[str, Structs],
    *,
    step: int,
    ours: integrity.Ours,
    cast: bool,
    partly: Collection[str] = (),
) -> tuple[dict[str, dict[str, jax.Array]], dict[str, Any]]:
    """The arrays of some items of a checkpoint, and its position.

    Args:
      path: its directory.
      items: shape, dtype and sharding of every array of an item.
      step: of the checkpoint, as the directory's name says.
      ours: see integrity.check().
      cast: convert arrays that are stored with another dtype.
      partly: items of which only those arrays are given that the checkpoint has too; see partial_state.matched().

    Raises:
      DamagedCheckpoint: the checkpoint is not as it was written; on all processes.
      InputError: its arrays are not those of `items`, or the storage does not give them.
    """
    record = _told(path, lambda: integrity.check(path, step=step, ours=ours, items=items.keys()))
    found = {}
    for item, wanted in items.items():
        stored = record['arrays'][item]
        there = {name: (tuple(facts['shape']), facts['dtype']) for name, facts in stored.items()}
        here = {
            name: (tuple(each.shape), there[name][1] if cast and name in there else str(each.dtype))
            for name, each in wanted.items()
        }
        if item in partly:
            names = partial_state.matched(here, there)
        else:
            partial_state.check_same(here, there, f'Checkpoint {path}')
            names = {name: name for name in wanted}
        # Orbax would convert as it reads, and then there were no bits to compare with those that were saved.
        asked = {
            own: jax.ShapeDtypeStruct(wanted[name].shape, there[own][1], sharding=wanted[name].sharding)
            for name, own in names.items()
        }
        arrays = _arrays(path / item, asked, stored, where=path)
        found[item] = {name: arrays[own].astype(wanted[name].dtype) for name, own in names.items()}
    return found, record['position']


def read_some(
    path: epath.Path, choose: Callable[[partial_state.Arrays], Structs], *, item: str, step: int, ours: integrity.Ours
) -> dict[str, jax.Array]:
    """Some arrays of one item of a checkpoint, converted to the dtypes that are asked for.

    Args:
      path: its directory.
      choose: of the arrays that are there (path -> shape and dtype), those wanted, with their dtypes and shardings.
      step, ours: see read().

    Raises:
      DamagedCheckpoint: the checkpoint is not as it was written; on all processes.
      InputError: the storage does not give it.
    """
    record = _told(path, lambda: integrity.check(path, step=step, ours=ours, items=(item,)))
    stored = record['arrays'][item]
    wanted = choose({name: (tuple(facts['shape']), facts['dtype']) for name, facts in stored.items()})
    asked = {
        name: jax.ShapeDtypeStruct(each.shape, stored[name]['dtype'], sharding=each.sharding)
        for name, each in wanted.items()
    }
    arrays = _arrays(path / item, asked, stored, where=path)
    return {name: array.astype(wanted[name].dtype) for name, array in arrays.items()}


def _arrays(
    directory: epath.Path, targets: Structs, stored: Mapping[str, Any], *, where: epath.Path
) -> dict[str, jax.Array]:
    """The arrays of one item, with their checksums compared."""
    if not targets:
        return {}
    arrays = _together(where, lambda: _load(directory, targets, partly=len(targets) < len(stored)))
    sums = digest.texts(digest.sums(arrays))
    _together(where, lambda: integrity.check_sums(sorted(arrays), sums, stored))
    return arrays


def _load(directory: epath.Path, targets: Structs, *, partly: bool) -> dict[str, jax.Array]:
    how = {
        name: ocp.ArrayRestoreArgs(sharding=target.sharding, global_shape=target.shape, dtype=target.dtype)
        for name, target in targets.items()
    }
    args = ocp.args.PyTreeRestore(dict(targets), restore_args=how, partial_restore=partly)

    def restore() -> dict[str, jax.Array]:
        return jax.block_until_ready(saving.handler().restore(directory, args=args))

    try:
        return integrity.reading(directory.parent, lambda: _told_apart(restore, directory))
    except integrity.DamagedCheckpoint:
        # Once more, as not every failure of the storage is told as one by the libraries that read.
        return integrity.reading(directory.parent, lambda: _told_apart(restore, directory))


def _told_apart(restore: Callable[[], dict[str, jax.Array]], directory: epath.Path) -> dict[str, jax.Array]:
    """What `restore` gives.

    Raises:
      OSError: the storage failed.
      DamagedCheckpoint: it did not, but what it gave are no arrays.
    """
    try:
        return restore()
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise  # The fault is not the checkpoint's.
    except Exception as error:  # TensorStore and Orbax meet damage with ValueError, KeyError and bare Exceptions.
        if durable_files.is_of_the_storage(error):
            raise OSError(durable_files.brief(error)) from error
        _check_storage(directory)
        raise integrity.DamagedCheckpoint(f'{directory.name}/ cannot be read: {durable_files.brief(error)}') from error


def _check_storage(directory: epath.Path) -> None:
    """Raises OSError if the files of an item cannot be opened and read now."""
    for _, path in integrity.files_of(directory):
        with path.open('rb') as file:
            file.read(integrity.HASHED_BYTES)


def _told(path: epath.Path, action: Callable[[], Any]) -> Any:
    """What `action` gives on the first process, JSON-ready; on all, also if it raises Damaged or InputError."""

    def attempt() -> tuple[Any, str | None]:
        try:
            return action(), None
        except integrity.DamagedCheckpoint as error:
            return None, str(error)

    value, problem = processes.from_first(processes.on_first(attempt))
    if problem is not None:
        raise integrity.DamagedCheckpoint(f'Checkpoint {path} is damaged: {problem}')
    return value


def _together(path: epath.Path, action: Callable[[], Any]) -> Any:
    """What `action` gives on this process. If it raises Damaged or Unreadable on any, it does on all."""
    value, damaged, unreadable = None, None, None
    try:
        value = action()
    except integrity.DamagedCheckpoint as error:
        damaged = f'Checkpoint {path} is damaged: {error}'
    except integrity.Unreadable as error:
        unreadable = str(error)
    told = processes.exchange([damaged, unreadable])
    for text in (each for _, each in told if each is not None):  # First: of what cannot be read nothing is known.
        raise integrity.Unreadable(text)
    for text in (each for each, _ in told if each is not None):
        raise integrity.DamagedCheckpoint(text)
    return value
