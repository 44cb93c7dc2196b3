"""How a checkpoint appears all at once, and goes all at once: on file systems, which rename, and in object stores.

Only the first process calls these.
"""

import contextlib
import os
import shutil
from typing import Protocol

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.storage import durable_files, integrity

PARTIAL, DELETED = '.partial', '.deleted'  # Endings of directories that a process died over; nobody misses them.
REPLACED = '.replaced'  # Of a checkpoint while another of its step takes its place.
SPARE_BYTES = 16 * 2**20  # For what is written beside the arrays.


class Store(Protocol):
    """Where checkpoints are kept. A directory is written by all processes, and then committed by one."""

    def begin(self, final: epath.Path, size_bytes: int) -> None:
        """Makes the empty directory partial(final); raises OSError if it cannot, or if there is no room."""

    def partial(self, final: epath.Path) -> epath.Path:
        """The directory to write to."""

    def sync(self, final: epath.Path) -> None:
        """Returns when all that is in partial(final) is on disk."""

    def committed(self, directory: epath.Path) -> bool:
        """Whether a directory that is named like a checkpoint was one when it was written."""

    def commit(self, final: epath.Path, record: str) -> None:
        """Writes the record of what is in partial(final), which makes it the checkpoint `final`, replacing another.

        Call sync() first: when this returns, the checkpoint is on disk.
        """

    def delete(self, directory: epath.Path) -> None:
        """Removes a directory; whatever happens, it is a checkpoint as it was before or none at all."""

    def clean(self, directory: epath.Path) -> None:
        """Removes what was not committed or not wholly deleted."""


class PosixStore(Store):
    """A file system: written under another name, and renamed, which is atomic. Survives a loss of power."""

    def begin(self, final: epath.Path, size_bytes: int) -> None:
        if final.parent.is_dir():
            check_room(final.parent, size_bytes)
            self.clean(final.parent)
        self.partial(final).mkdir(parents=True)

    def partial(self, final: epath.Path) -> epath.Path:
        return final.parent / f'{final.name}{PARTIAL}'

    def sync(self, final: epath.Path) -> None:
        # TensorStore brings its own files to disk, but neither Orbax's nor the names in the directories.
        for directory, _, names in os.walk(self.partial(final), topdown=False, onerror=_raise):
            for name in names:
                # The lock files of another process that still writes come and go.
                with contextlib.suppress(FileNotFoundError):
                    durable_files.sync(os.path.join(directory, name))
            durable_files.sync(directory)

    def committed(self, directory: epath.Path) -> bool:
        return True

    def commit(self, final: epath.Path, record: str) -> None:
        partial, replaced = self.partial(final), final.parent / f'{final.name}{REPLACED}'
        with open(partial / integrity.RECORD, 'w') as file:
            file.write(record)
            file.flush()
            os.fsync(file.fileno())
        durable_files.sync(partial)
        if durable_files.exists(final):
            os.rename(final, replaced)  # There at any moment, under one name or the other; see clean().
        try:
            os.rename(partial, final)
        except OSError:
            if durable_files.exists(replaced):
                os.rename(replaced, final)
            raise
        durable_files.sync(final.parent)
        if durable_files.exists(replaced):
            shutil.rmtree(replaced)

    def delete(self, directory: epath.Path) -> None:
        # Deleting takes a while; half a checkpoint must not have the name of a whole one.
        deleted = directory.parent / f'{directory.name}{DELETED}'
        if durable_files.exists(deleted):
            shutil.rmtree(deleted)
        os.rename(directory, deleted)
        shutil.rmtree(deleted)

    def clean(self, directory: epath.Path) -> None:
        for name in durable_files.names_in(directory):
            child = directory / name
            if name.endswith((PARTIAL, DELETED, REPLACED)) and os.path.islink(child):
                os.unlink(child)  # Not ours, and not to be written through.
            elif name.endswith(REPLACED) and not durable_files.exists(directory / name.removesuffix(REPLACED)):
                os.rename(child, directory / name.removesuffix(REPLACED))
            elif name.endswith((PARTIAL, DELETED, REPLACED)) and durable_files.is_directory(child):
                shutil.rmtree(child)


class ObjectStore(Store):
    """An object store (gs://), which cannot rename: a directory is a checkpoint once its record is there."""

    def begin(self, final: epath.Path, size_bytes: int) -> None:
        if final.parent.is_dir():
            self.clean(final.parent)
        self.delete(final)
        final.mkdir(parents=True, exist_ok=True)

    def partial(self, final: epath.Path) -> epath.Path:
        return final

    def sync(self, final: epath.Path) -> None:
        pass  # An object is there once it is written.

    def committed(self, directory: epath.Path) -> bool:
        return (directory / integrity.RECORD).exists()

    def commit(self, final: epath.Path, record: str) -> None:
        (final / integrity.RECORD).write_text(record)

    def delete(self, directory: epath.Path) -> None:
        if directory.exists():
            (directory / integrity.RECORD).unlink(missing_ok=True)
            directory.rmtree()

    def clean(self, directory: epath.Path) -> None:
        for child in directory.iterdir():
            if child.name.isdigit() and child.is_dir() and not self.committed(child):
                child.rmtree()


def store_for(directory: epath.Path) -> Store:
    """The kind of store that a path is in."""
    return ObjectStore() if '://' in str(directory) else PosixStore()


def _raise(error: OSError) -> None:
    raise error


def check_room(directory: epath.Path, size_bytes: int) -> None:
    """Raises OSError if the file system has not so much room left."""
    status = os.statvfs(directory)
    free, needed = status.f_bavail * status.f_frsize, size_bytes + SPARE_BYTES
    if free < needed:
        raise OSError(f'the disk of {directory} has {free / 1e6:,.0f} MB left, and it takes {needed / 1e6:,.0f} MB')


def make(directory: epath.Path, store: Store) -> None:
    """Makes a directory for checkpoints, and removes what is left there of unfinished ones.

    Raises:
      InputError: it cannot be written.
    """
    try:
        durable_files.retried(lambda: directory.mkdir(parents=True, exist_ok=True))
        durable_files.retried(lambda: store.clean(directory))
    except OSError as error:
        raise config.InputError(f'{directory} cannot be written: {error}. Make it writable.') from error
