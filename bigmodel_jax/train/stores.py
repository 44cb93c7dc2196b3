"""How a checkpoint appears all at once, and goes all at once: on file systems, which rename, and in object stores.

Only the first process calls these.
"""

import os
import shutil
from typing import Protocol

from etils import epath

from bigmodel_jax.train import integrity

PARTIAL, DELETED = '.partial', '.deleted'  # Endings of directories that a process died over; nobody misses them.
SPARE_BYTES = 16 * 2**20  # For what is written beside the arrays.


class Store(Protocol):
    """Where checkpoints are kept. A directory is written by all processes, and then committed by one."""

    def begin(self, final: epath.Path, size_bytes: int) -> None:
        """Makes the empty directory partial(final); raises OSError if it cannot, or if there is no room."""

    def partial(self, final: epath.Path) -> epath.Path:
        """The directory to write to."""

    def committed(self, directory: epath.Path) -> bool:
        """Whether a directory that is named like a checkpoint was one when it was written."""

    def commit(self, final: epath.Path, record: str) -> None:
        """Writes the record of what is in partial(final), which makes it the checkpoint `final`, replacing another."""

    def delete(self, directory: epath.Path) -> None:
        """Removes a directory; whatever happens, it is a checkpoint as it was before or none at all."""

    def clean(self, directory: epath.Path) -> None:
        """Removes what was not committed or not wholly deleted."""


class Renaming(Store):
    """A file system: written under another name, and renamed, which is atomic. Survives a loss of power."""

    def begin(self, final: epath.Path, size_bytes: int) -> None:
        if final.parent.is_dir():
            check_room(final.parent, size_bytes)
            self.clean(final.parent)
        self.partial(final).mkdir(parents=True)

    def partial(self, final: epath.Path) -> epath.Path:
        return final.parent / f'{final.name}{PARTIAL}'

    def committed(self, directory: epath.Path) -> bool:
        return True

    def commit(self, final: epath.Path, record: str) -> None:
        partial = self.partial(final)
        with open(partial / integrity.RECORD, 'w') as file:
            file.write(record)
            file.flush()
            os.fsync(file.fileno())
        if final.exists():
            self.delete(final)
        os.rename(partial, final)
        _sync(final.parent)

    def delete(self, directory: epath.Path) -> None:
        # Deleting takes a while; half a checkpoint must not have the name of a whole one.
        deleted = directory.parent / f'{directory.name}{DELETED}'
        os.rename(directory, deleted)
        shutil.rmtree(deleted)

    def clean(self, directory: epath.Path) -> None:
        for child in directory.iterdir():
            if child.name.endswith((PARTIAL, DELETED)) and child.is_dir():
                shutil.rmtree(child)


class Marking(Store):
    """An object store (gs://), which cannot rename: a directory is a checkpoint once its record is there."""

    def begin(self, final: epath.Path, size_bytes: int) -> None:
        if final.parent.is_dir():
            self.clean(final.parent)
        self.delete(final)
        final.mkdir(parents=True, exist_ok=True)

    def partial(self, final: epath.Path) -> epath.Path:
        return final

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
    return Marking() if '://' in str(directory) else Renaming()


def check_room(directory: epath.Path, size_bytes: int) -> None:
    """Raises OSError if the file system has not so much room left."""
    status = os.statvfs(directory)
    free, needed = status.f_bavail * status.f_frsize, size_bytes + SPARE_BYTES
    if free < needed:
        raise OSError(f'the disk of {directory} has {free / 1e6:,.0f} MB left, and it takes {needed / 1e6:,.0f} MB')


def _sync(directory: epath.Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
