"""Images that a list names: a table or lines of JSON with a path in each record, and the files beside it."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.data import records, splits
from bigmodel_jax.data.sources import files, image_folder

LISTED = 5  # Files that a message names.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFiles(records.Source):
    """The records of a list, each with the image that it names: ImageFiles(listed=Csv(path='pairs.csv'), folder='.').

    A record keeps its fields and gets `image`, [Y, X, Z] uint8. The images are PNG and JPEG files, decoded whenever
    they are read, and once, when the list is first opened, to see that none is damaged; see sources.ImageFolder.
    """

    listed: records.Source  # Such as Csv(path='pairs.csv') or JsonLines(pattern='pairs.jsonl').
    folder: str  # To which the paths are relative.
    path: records.Field = 'path'  # The field of the list that holds the path.
    channels: Literal[1, 3, 4] = 3
    part: splits.Subset | None = None
    skip_damaged: bool = False

    def open(self) -> records.Records:
        listed = records.selected(self.listed.open(), self.part)
        paths = _paths(listed, self.path, files.path_of(self.folder))
        folder = image_folder.ImageFolder(path=self.folder, channels=self.channels, skip_damaged=self.skip_damaged)
        return ListedRecords(listed, image_folder.FolderRecords(folder, paths, np.arange(len(paths), dtype=np.int32)))


class ListedRecords(records.Records):
    """The records of a list with their images.

    Args:
      listed: the records.
      pictures: the images, whose labels are the numbers of the records that they belong to.
    """

    def __init__(self, listed: records.Records, pictures: image_folder.FolderRecords):
        self.name, self._listed, self._pictures = listed.name, listed, pictures
        numbers = pictures.column('label')
        assert numbers is not None
        self._numbers = numbers.astype(np.int64)
        self.fingerprint = {'listed': dict(listed.fingerprint), 'pictures': dict(pictures.fingerprint)}

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, start: int, stop: int) -> list[records.Record]:
        return self.gather(range(len(self))[start:stop])

    def gather(self, indices: Sequence[int]) -> list[records.Record]:
        found = self._listed.gather(self._numbers[list(indices)].tolist())
        return [{**record, 'image': self._pictures[index]['image']} for record, index in zip(found, indices)]

    def shapes(self, field: records.Field) -> np.ndarray | None:
        return self._pictures.shapes(field)

    def where(self, index: int) -> str:
        return self._listed.where(int(self._numbers[index]))

    @property
    def without_images(self) -> records.Records:
        return ChosenRecords(self._listed, self._numbers, self.fingerprint)


class ChosenRecords(records.Records):
    """Some of the records of a list, by number."""

    def __init__(self, listed: records.Records, numbers: np.ndarray, fingerprint: records.Record):
        self.name, self._listed, self._numbers, self.fingerprint = listed.name, listed, numbers, fingerprint

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, start: int, stop: int) -> list[records.Record]:
        return self._listed.gather(self._numbers[start:stop].tolist())

    def where(self, index: int) -> str:
        return self._listed.where(int(self._numbers[index]))


def _paths(listed: records.Records, field: records.Field, folder: epath.Path) -> list[epath.Path]:
    """The file of each record.

    Raises:
      InputError: the folder or a file is missing, or a path leads out of the folder.
    """
    if not folder.is_dir():
        raise config.InputError(f'There is no folder {folder}.')
    found, missing = [], []
    for first, chunk in listed.chunks():
        for number, record in enumerate(chunk, first):
            where = functools.partial(listed.where, number)
            name = records.text(record, field, where).strip()
            pure = pathlib.PurePosixPath(name)
            if not name or pure.is_absolute() or '..' in pure.parts or '\\' in name or '://' in name:
                raise config.InputError(
                    f'{where()}: {field!r} is {name!r}; it should be the path of a file relative to {folder}, and '
                    'below it.'
                )
            found.append(folder / name)
            if not found[-1].is_file():
                missing.append(f'{name} ({where()})')
    if missing:
        more = f' and {len(missing) - LISTED:,} more' if len(missing) > LISTED else ''
        raise config.InputError(
            f'{len(missing):,} of the {len(found):,} images that {listed.name} names are not in {folder}: '
            f'{", ".join(missing[:LISTED])}{more}. Correct `folder`, or remove the records.'
        )
    return found
