"""Labelled images: a folder with a folder of images for each class, or arrays in an .npz file."""

import dataclasses
import hashlib
import importlib
import pathlib
import types
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.data import batches, cache, preparation_progress, splits
from bigmodel_jax.data.sources import files

SUFFIXES = ('.png', '.jpg', '.jpeg')
MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}  # Channels -> what Pillow calls such images.


class Pictures(NamedTuple):
    """What a source gives."""

    images: np.ndarray  # [n, Y, X, Z], uint8 or a float.
    labels: np.ndarray  # [n] int32.
    fingerprint: Mapping[str, Any]


class ImageSource:
    """Interface of the configs that say where labelled images come from."""

    def open(self, shape: tuple[int, int, int]) -> Pictures:
        """All images, in the shape [Y, X, Z]. Raises InputError if they are missing, damaged or of another shape."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaling:
    """How pixels become the numbers that a model sees: (pixel / divisor - mean) / deviation."""

    divisor: config.PositiveFloat = 255.0  # 1 leaves pixels as they are.
    mean: tuple[float, ...] = (0.0,)  # Of each channel, or one number for all.
    deviation: tuple[config.PositiveFloat, ...] = (1.0,)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """[..., Z] of any dtype -> float32."""
        mean, deviation = np.array(self.mean, np.float32), np.array(self.deviation, np.float32)
        return (images.astype(np.float32) / np.float32(self.divisor) - mean) / deviation

    def check(self, channels: int) -> None:
        """Raises InputError if images with so many channels cannot be scaled by this."""
        if not self.divisor or not all(self.deviation):
            raise config.InputError(f'data.scaling={self}: the divisor and the deviations should be above 0.')
        for name, values in (('mean', self.mean), ('deviation', self.deviation)):
            if len(values) not in (1, channels):
                raise config.InputError(
                    f'data.scaling.{name} has {len(values)} numbers for {channels} channels; give one for each, or one.'
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images(batches.Data):
    """Images and the classes that they show.

    A batch holds, where n is `batch` and [Y, X, Z] is `shape`:
      image: [n, Y, X, Z] float32, as `scaling` makes it.
      labels: [n] int32, below `classes`.
      weights: [n] float32, 1.
    """

    source: ImageSource
    shape: tuple[config.Positive, config.Positive, config.Positive]  # Rows, columns and channels.
    classes: config.Positive
    batch: config.Positive
    scaling: Scaling = Scaling()

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        return {
            'image': batches.Field(self.shape, np.dtype(np.float32), ('height', 'width', 'channels')),
            'labels': batches.Field((), np.dtype(np.int32), (), self.classes),
            'weights': batches.Field((), np.dtype(np.float32), ()),
        }

    def build(self, seed: int) -> batches.Batches:
        self.scaling.check(self.shape[-1])
        return batches.Batches(ImageExamples(self), rows=self.batch, seed=seed)


class ImageExamples(batches.Examples):
    """Images as they are stored, scaled when they are read."""

    def __init__(self, data: Images):
        self._pictures, self._scaling = data.source.open(data.shape), data.scaling
        images, labels = self._pictures.images, self._pictures.labels
        if len(labels) and not 0 <= labels.min() <= labels.max() < data.classes:
            raise config.InputError(
                f'data.classes={data.classes}, but the labels of the images are {labels.min()} to {labels.max()}.'
            )
        if images.dtype != np.uint8 and data.scaling == Scaling():
            raise config.InputError(
                f'The images are {images.dtype} numbers from {images.min():g} to {images.max():g}, not bytes, and the '
                'default scaling divides by 255. Say how they are scaled: scaling=Scaling(divisor=1.0) leaves them.'
            )
        self.fields = data.fields
        self.fingerprint = {**self._pictures.fingerprint, 'scaling': config.to_json(data.scaling)}

    def __len__(self) -> int:
        return len(self._pictures.labels)

    def gather(self, indices: np.ndarray, epochs: np.ndarray, seed: int) -> batches.Batch:
        return {
            'image': self._scaling(self._pictures.images[indices]),
            'labels': self._pictures.labels[indices],
            'weights': np.ones(len(indices), np.float32),
        }


# ---- folders ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folder(ImageSource):
    """A folder with a folder for each class, whose names in alphabetical order are the labels 0, 1, 2 ...

    PNG and JPEG, read by Pillow once, and kept as pixels in the cache.
    """

    path: str
    resize: bool = False  # Bilinear, whatever the proportions; otherwise images of another size are refused.
    part: splits.Part | None = None

    def open(self, shape: tuple[int, int, int]) -> Pictures:
        names, classes = _in_classes(files.path_of(self.path))
        chosen = np.arange(len(names)) if self.part is None else self.part.select(names, self.path)
        paths = [files.path_of(self.path) / names[i] for i in chosen]
        hashes = [hashlib.sha256(files.read_bytes(path)).hexdigest() for path in paths]
        labels = np.array([classes.index(names[i].split('/')[0]) for i in chosen], np.int32)
        fingerprint = {'sha256': hashes, 'labels': labels.tolist(), 'shape': list(shape), 'resized': self.resize}
        _pillow()

        def make(directory: pathlib.Path, parts: pathlib.Path) -> None:
            pixels = np.lib.format.open_memmap(directory / 'pixels.npy', 'w+', np.uint8, (len(paths), *shape))
            for i, path in enumerate(preparation_progress.track(paths, total=len(paths), what=f'Decoding {self.path}')):
                pixels[i] = decode(path, shape, resize=self.resize)
            pixels.flush()

        key = {'sha256': hashes, 'shape': list(shape), 'resized': self.resize, 'format': 'pixels 1'}
        images = np.load(cache.prepared('images', key, make) / 'pixels.npy', mmap_mode='r')
        return Pictures(images, labels, fingerprint)


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


def decode(path: epath.Path, shape: tuple[int, int, int], *, resize: bool) -> np.ndarray:
    """[Y, X, Z] uint8: an image file.

    Raises:
      InputError: it is damaged, or has another size or other channels.
    """
    pillow, (rows, columns, channels) = _pillow(), shape
    if channels not in MODES:
        raise config.InputError(f'data.shape={shape}: images have 1, 3 or 4 channels, which are its last number.')
    try:
        with path.open('rb') as file, pillow.open(file, formats=('PNG', 'JPEG')) as image:
            if image.size != (columns, rows) and not resize:
                raise config.InputError(
                    f'{path} has {image.size[1]} x {image.size[0]} pixels, but data.shape={shape} asks for '
                    f'{rows} x {columns}; change the shape, or use Folder(resize=True).'
                )
            found = image.convert(MODES[channels])
            if found.size != (columns, rows):
                found = found.resize((columns, rows), pillow.Resampling.BILINEAR)
            return np.asarray(found, np.uint8).reshape(shape)
    except (OSError, SyntaxError, pillow.DecompressionBombError) as error:  # SyntaxError: of a damaged PNG.
        raise config.InputError(f'{path} is not a whole PNG or JPEG image: {error}') from error


def _pillow() -> types.ModuleType:
    try:
        return importlib.import_module('PIL.Image')
    except ModuleNotFoundError as error:
        raise config.InputError(
            'Images are read by Pillow, which is not installed. In a clone of this repository: '
            "pip install -e '.[vision]'; or: pip install pillow."
        ) from error


# ---- arrays -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Npz(ImageSource):
    """Arrays in a file that numpy.savez wrote: images [n, Y, X] or [n, Y, X, Z] and labels [n]; held in memory."""

    path: str
    images: str = 'images'
    labels: str = 'labels'
    part: splits.Part | None = None

    def open(self, shape: tuple[int, int, int]) -> Pictures:
        path = files.path_of(self.path)
        images, labels = self._arrays(path)
        images = images[..., None] if images.ndim == 3 else images
        if images.shape[1:] != tuple(shape) or len(images) != len(labels) or labels.ndim != 1:
            raise config.InputError(
                f'{path} has {self.images} of shape {list(images.shape)} and {self.labels} of shape '
                f'{list(labels.shape)}, but data.shape={shape} asks for [n, {", ".join(map(str, shape))}] and [n].'
            )
        if images.dtype.kind not in 'uf' or labels.dtype.kind not in 'ui':
            raise config.InputError(
                f'{path}: {self.images} are {images.dtype} and {self.labels} {labels.dtype}; they should be bytes or '
                'floats, and integers.'
            )
        if images.dtype.kind == 'f' and not np.isfinite(images).all():
            raise config.InputError(f'{path}: {self.images} hold numbers that are not finite.')
        chosen = np.arange(len(labels)) if self.part is None else self.part.select(range(len(labels)), self.path)
        sha256 = hashlib.sha256(files.read_bytes(path)).hexdigest()
        part = {} if self.part is None else {'part': config.to_json(self.part)}
        fingerprint = {'sha256': sha256, 'arrays': [self.images, self.labels], **part}
        return Pictures(images[chosen], labels[chosen].astype(np.int32), fingerprint)

    def _arrays(self, path: epath.Path) -> Sequence[np.ndarray]:
        wanted = (self.images, self.labels)
        with files.readable(path) as file:
            try:
                with np.load(file, allow_pickle=False) as kept:
                    names, found = list(kept), [kept[name] for name in wanted if name in kept]
            except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
                raise config.InputError(f'{path} is not an .npz file of plain arrays: {error}') from error
        for name in wanted:
            if name not in names:
                raise config.InputError(f'{path} has no array {name!r}.{config.nearest(name, names)}')
        return found
