"""The last step of writing arrays: the files of all processes become one database, which is then looked through.

Orbax finds the files of the processes by a listing that takes a failure of the storage for an empty directory; what it
then merged would be no checkpoint.
"""

import glob
import os
from collections.abc import Collection, Iterator

import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath
from etils.epath import gpath

from bigmodel_jax.storage import durable_files


class _LiteralPath(gpath.PosixGPath):
    """A local path of which every character means itself; epath takes a directory a[1] for a pattern, as Orbax does."""

    def glob(self, pattern: str) -> Iterator[epath.Path]:
        yield from epath.Path(glob.escape(os.fspath(self))).glob(pattern)


def literal(directory: epath.Path) -> epath.Path:
    """The same directory, for Orbax to merge."""
    return directory if durable_files.is_remote(directory) else _LiteralPath(directory)


def base(directory: epath.Path) -> str | dict[str, str]:
    """Where TensorStore finds a directory; not as the URL file://, in which '?' and '%' have a meaning."""
    path = f'{str(directory).rstrip("/")}/'
    return path if durable_files.is_remote(directory) else {'driver': 'file', 'path': path}


def merge(directory: epath.Path, handler: ocp.PyTreeCheckpointHandler, *, arrays: Collection[str], count: int) -> None:
    """Makes one database of what the processes wrote.

    Args:
      directory: of one item of a checkpoint.
      arrays: the names of all that it holds.
      count: how many processes wrote.

    Raises:
      OSError: the database does not hold all that was written.
    """
    handler.finalize(literal(directory))
    parts = [directory / f'ocdbt.process_{index}' for index in range(count)]
    written = {key for part in parts if durable_files.exists(part) for key in _keys(part)}
    merged = _keys(directory)
    missing = sorted((written | {f'{name}/zarr.json' for name in arrays}) - merged)
    if missing:
        raise OSError(f'{directory.name}/ lacks {len(missing)} parts after it was merged, such as {missing[0]}')


def _keys(directory: epath.Path) -> set[str]:
    store = ts.KvStore.open({'driver': 'ocdbt', 'base': base(directory)}).result()
    return {key.decode() for key in store.list().result()}
