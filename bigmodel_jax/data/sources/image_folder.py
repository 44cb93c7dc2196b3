"""A folder with a folder of images for each class, decoded when they are read."""

import dataclasses
import hashlib
import io
import pathlib
import types
from collections.abc import Sequence
from typing import Literal

import numpy as np
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.data import cache, libraries, preparation_progress, records, splits
from bigmodel_jax.data.sources import files

SUFFIXES = ('.png', '.jpg', '.jpeg')
LISTED = 5  # Damaged images that a message names.
MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}  # Channels -> what Pillow calls such images.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFolder(records.Source):
    """A folder with a folder of PNG and JPEG files for each class.

    A record has `image`, [Y, X, Z] uint8, and `label`: the number of its class, in the alphabetical order of the names
    of the folders. Each image is decoded by Pillow whenever it is read; once, when the folder is first opened, all are
    decoded to see that none is damaged. Damaged ones are refused, or, with skip_damaged=True, left out and listed; a
    fingerprint says how many.
    """

    path: str
    channels: Literal[1, 3, 4] = 3
    part: splits.Subset | None = None
    skip_damaged: bool = False

    def open(self) -> 'FolderRecords':
        names, classes = _in_classes(files.path_of(self.path))
        chosen = np.arange(len(names)) if self.part is None else self.part.select(names, self.path)
        names = [names[i] for i in chosen]
        labels = np.array([classes.index(name.split('/')[0]) for name in names], np.int32)
        return FolderRecords(self, [files.path_of(self.path) / name for name in names], labels)


class FolderRecords(records.Records):
    """The images of a folder."""

    def __init__(self, source: ImageFolder, paths: Sequence[epath.Path], labels: np.ndarray):
        self.name, self._paths, self._channels = source.path, paths, source.channels
        _pillow()
        self._hashes = [hashlib.sha256(files.read_bytes(path)).hexdigest() for path in paths]
        sizes = self._checked(skip=source.skip_damaged)
        whole = np.flatnonzero(sizes[:, 0]).tolist()
        damaged = [str(path) for path, rows in zip(paths, sizes[:, 0].tolist()) if not rows]
        _say_damaged(source.path, damaged, len(paths))
        self._sizes, self._labels = sizes[whole], labels[whole]
        self._paths, self._hashes = [paths[i] for i in whole], [self._hashes[i] for i in whole]
        self.fingerprint = {'sha256': self._hashes, 'labels': self._labels.tolist(), 'channels': source.channels}
        self.fingerprint |= {'damaged': len(damaged)} if damaged else {}

    def _checked(self, *, skip: bool) -> np.ndarray:
        """[n, 2] int64: the rows and columns of each image, 0 of one that is skipped; all are decoded for it once."""

        def size(number: int) -> tuple[int, ...]:
            try:
                return self._image(number).shape[:2]
            except DamagedImage:
                if not skip:
                    raise
                return 0, 0

        def make(directory: pathlib.Path, parts: pathlib.Path) -> None:
            numbers = preparation_progress.track(
                range(len(self._paths)), total=len(self._paths), what=f'Checking the images in {self.name}'
            )
            np.save(directory / 'sizes.npy', [size(number) for number in numbers])

        key = {'sha256': self._hashes, 'channels': self._channels, 'format': 'sizes 1' + ', 0 of damaged' * skip}
        return np.load(cache.prepared('images', key, make) / 'sizes.npy')

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, start: int, stop: int) -> list[records.Record]:
        return [
            {'image': self._image(number), 'label': self._labels[number]} for number in range(len(self))[start:stop]
        ]

    def column(self, field: records.Field) -> np.ndarray | None:
        return self._labels if field == 'label' else None

    def shapes(self, field: records.Field) -> np.ndarray | None:
        if field != 'image':
            return None
        return np.concatenate([self._sizes, np.full((len(self), 1), self._channels)], axis=1)

    def where(self, index: int) -> str:
        return str(self._paths[index])

    def _image(self, number: int) -> np.ndarray:
        content = files.read_bytes(self._paths[number])
        if hashlib.sha256(content).hexdigest() != self._hashes[number]:
            raise files.changed(self._paths[number])
        return decode(content, self._channels, str(self._paths[number]))


class DamagedImage(config.InputError):
    """An image that cannot be decoded."""


def _say_damaged(path: str, damaged: list[str], count: int) -> None:
    """Lists the images that are left out.

    Raises:
      InputError: there is no other.
    """
    if len(damaged) == count:
        raise config.InputError(f'All {count} images in {path} are damaged, such as {damaged[0]}.')
    if damaged:
        more = '' if len(damaged) <= LISTED else f' and {len(damaged) - LISTED} more'
        names = ', '.join(damaged[:LISTED])
        preparation_progress.say(f'{path}: {len(damaged)} of {count} images are damaged and left out: {names}{more}')


def _in_classes(folder: epath.Path) -> tuple[list[str], list[str]]:
    """The images as 'class/.../name', sorted, and the names of the classes."""
    if not folder.is_dir():
        raise config.InputError(f'There is no folder {folder}.')
    classes = sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith('.'))
    names = []
    for name in classes:
        inside = [path for path in files.below(folder / name) if path.name.lower().endswith(SUFFIXES)]
        if not inside:
            raise config.InputError(f'The folder {folder / name} holds no image that ends with {", ".join(SUFFIXES)}.')
        names += [path.relative_to(folder).as_posix() for path in inside]
    if not names:
        raise config.InputError(f'{folder} should hold a folder of images for each class, but has no folder in it.')
    return sorted(names), classes


def decode(content: bytes, channels: int, where: str) -> np.ndarray:
    """[Y, X, Z] uint8: the image in the bytes of a PNG or JPEG file.

    Raises:
      DamagedImage: it is damaged; `where` names it.
    """
    pillow = _pillow()
    try:
        with pillow.open(io.BytesIO(content), formats=('PNG', 'JPEG')) as image:
            wanted = image if image.mode == MODES[channels] else image.convert(MODES[channels])
            found = np.asarray(wanted, np.uint8)
            return found.reshape(*found.shape[:2], channels)
    except (OSError, SyntaxError, pillow.DecompressionBombError) as error:  # SyntaxError: of a damaged PNG.
        raise DamagedImage(
            f'{where} is not a whole PNG or JPEG image: {error}. Replace or delete it, or leave all such images out: '
            'ImageFolder(skip_damaged=True).'
        ) from error


def _pillow() -> types.ModuleType:
    return libraries.load('PIL.Image', 'Images are read by Pillow', package='pillow', extra='vision')
