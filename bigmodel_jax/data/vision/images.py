"""Labelled images as batches: records with an image and a label, after transforms."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches, counter_rng, preparation_progress, records, transforms
from bigmodel_jax.data.transforms import Shape, Transform
from bigmodel_jax.data.vision.mixing import Mixing
from bigmodel_jax.data.vision.transforms import Normalize, shares
from bigmodel_jax.data.vision.views import Views

LISTED = 8  # Classes that a sentence names.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images(batches.Data):
    """Images and the classes that they show.

    A batch holds, where n is `batch` and [Y, X, Z] is `shape`:
      image: [n, Y, X, Z] float32, as the `transforms` leave it.
      labels: [n] int32, below `classes`.
    and where examples are mixed:
      mixed_labels, mixed_share: [n] int32 and float32: the label of the partner, and how much of the image is its own.
    """

    source: records.Source  # Of records with an image, [Y, X, Z] or [Y, X] of uint8 or a float, and a label.
    shape: tuple[config.Positive, config.Positive, config.Positive]  # After the transforms: rows, columns, channels.
    classes: config.Positive
    batch: config.Positive
    transforms: tuple[Transform, ...] = (Normalize(),)
    image: str = 'image'  # The field of the source's records that holds the image;
    label: str = 'label'  # and the number of its class.
    mixing: Mixing | None = None  # Examples are mixed with others, for training.
    # Each image is shown n times, for evaluation: example i is view i mod n of image i // n. Classes averages them.
    views: Views | None = None

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        label = batches.Field((), np.dtype(np.int32), (), self.classes)
        mixed = {'mixed_labels': label, 'mixed_share': batches.Field((), np.dtype(np.float32), ())}
        return {
            'image': batches.Field(self.shape, np.dtype(np.float32), ('height', 'width', 'channels')),
            'labels': label,
            **({} if self.mixing is None else mixed),
        }

    @property
    def units(self) -> batches.Units:
        return batches.Units('images', 1)

    def build(self, seed: int) -> batches.Batches:
        return batches.Batches(ImageExamples(self), rows=self.batch, seed=seed)

    def made_of(self, shape: Shape) -> Shape:
        """The shape of an example of an image of that shape.

        Raises:
          InputError: a transform cannot be applied to it.
        """
        made = transforms.shape(self.transforms, shape)
        return made if self.views is None else self.views.shape(made)


class ImageExamples(batches.Examples):
    """Images that are read and transformed one by one; a pure function of (seed, epoch, example)."""

    def __init__(self, data: Images):
        if data.views is not None and data.mixing is not None:
            raise config.InputError('data.views and data.mixing exclude one another: views are for evaluation.')
        self._data, self._records = data, data.source.open()
        self._fitting: set[tuple[int, ...]] = set()  # Shapes of images that give examples of the declared shape.
        self.fields, self.views = data.fields, 1 if data.views is None else data.views.count
        self.fingerprint = {
            **self._records.fingerprint,
            'fields': [data.image, data.label],
            'transforms': config.to_json(data.transforms),
            **({} if data.mixing is None else {'mixing': config.to_json(data.mixing)}),
            **({} if data.views is None else {'views': config.to_json(data.views)}),
        }
        self._check()

    def _check(self) -> None:
        """Raises InputError if the labels, the shapes or the type of the images are not what the config says."""
        data, labels = self._data, self._records.column(self._data.label)
        if labels is not None and len(labels) and labels.dtype.kind not in 'ui':
            raise config.InputError(f'{self._records.name}: {data.label!r} is {labels.dtype}; labels are integers.')
        if labels is not None and len(labels) and not 0 <= labels.min() <= labels.max() < data.classes:
            raise config.InputError(
                f'data.classes={data.classes}, but the labels of the images are {labels.min()} to {labels.max()}.'
            )
        if labels is not None and len(labels):
            self._say_empty(labels)
        shapes = self._records.shapes(data.image)
        if shapes is None:
            shapes = np.array([self._image(self._records.read(0, 1)[0], 0).shape])
        different, firsts = np.unique(shapes, axis=0, return_index=True)
        for shape, first in zip(different.tolist(), firsts.tolist()):
            self._check_shape(tuple(shape), first)
        self.gather(np.zeros(1, np.int64), np.zeros(1, np.int64), 0)

    def _say_empty(self, labels: np.ndarray) -> None:
        """Names the classes of which there is no image: a mistake in many data sets, but not in a part of one."""
        counts = np.bincount(labels.astype(np.int64), minlength=self._data.classes)
        empty = np.flatnonzero(counts == 0).tolist()
        if empty:
            listed = ', '.join(map(str, empty[:LISTED])) + (' ...' if len(empty) > LISTED else '')
            preparation_progress.say(
                f'{self._records.name}: {len(empty)} of {self._data.classes} classes have no image: {listed}'
            )

    def _check_shape(self, shape: tuple[int, ...], example: int) -> None:
        data, shape = self._data, (*shape, 1) if len(shape) == 2 else shape
        if len(shape) != 3:
            raise config.InputError(
                f'{self._records.where(example)}: {data.image!r} has the shape {list(shape)}, which is not an image.'
            )
        try:
            made = data.made_of(shape)
        except config.InputError as error:
            raise config.InputError(f'{self._records.where(example)} has {_size(shape)}. {error}') from error
        if made[-1] != data.shape[-1]:
            raise config.InputError(
                f'{self._records.where(example)} has {_size(shape)}, the last of which are {shape[-1]} channels, but '
                f'data.shape={data.shape} asks for {data.shape[-1]}; use data.shape={(*data.shape[:-1], made[-1])}, or '
                'have the source convert them: ImageFolder(channels=...) does.'
            )
        if made != data.shape:
            raise config.InputError(
                f'{self._records.where(example)} has {_size(shape)}, which the transforms make {_size(made)}, but '
                f'data.shape={data.shape} asks for {_size(data.shape)}; change the shape, or add '
                f'Resize(size={data.shape[:2]}) to the transforms.'
            )
        self._fitting.add(shape)

    def __len__(self) -> int:
        return len(self._records) * self.views

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """[Y, X, Z] float32 in [0, 1]: an image of a batch as it is to be looked at.

        What the last transform did, if it is Normalize, is undone. What lies outside of [0, 1] then, as floats may, is
        scaled to it.
        """
        made = shares(self._data.transforms, image)
        low, high = min(float(made.min()), 0.0), max(float(made.max()), 1.0)
        return (made - np.float32(low)) / np.float32(high - low)

    def gather(self, indices: np.ndarray, epochs: np.ndarray, seed: int) -> batches.Batch:
        images, labels = self._read(indices, epochs, seed)
        mixing = self._data.mixing
        if mixing is None:
            return {'image': np.stack(images), 'labels': np.array(labels, np.int32)}
        partners = mixing.partners(indices, epochs, seed, count=len(self))
        others, mixed_labels = self._read(partners, epochs, seed)
        keys = counter_rng.bits(seed, epochs, indices)
        mixed = [mixing(*each) for each in zip(images, others, keys)]
        return {
            'image': np.stack([each.image for each in mixed]),
            'labels': np.array(labels, np.int32),
            'mixed_labels': np.array(mixed_labels, np.int32),
            'mixed_share': np.array([each.share for each in mixed], np.float32),
        }

    def _read(self, indices: np.ndarray, epochs: np.ndarray, seed: int) -> tuple[list[np.ndarray], list[int]]:
        """The images at `indices` after the transforms, and their labels."""
        wanted = list(zip((indices // self.views).tolist(), epochs.tolist()))
        distinct = list(dict.fromkeys(wanted))  # The views of an image stand side by side.
        found = zip(self._records.gather([number for number, _ in distinct]), distinct)
        made = {each: self._example(record, *each, seed) for record, each in found}
        views = (indices % self.views).tolist()
        images = [self._view(made[each][0], number) for each, number in zip(wanted, views)]
        return images, [made[each][1] for each in wanted]

    def _view(self, image: np.ndarray, number: int) -> np.ndarray:
        return image if self._data.views is None else self._data.views(image, number)

    def _example(self, record: records.Record, example: int, epoch: int, seed: int) -> tuple[np.ndarray, int]:
        data = self._data
        image = self._image(record, example)
        if image.shape not in self._fitting:
            self._check_shape(image.shape, example)
        made = transforms.apply(data.transforms, {'image': image}, seed=seed, epoch=epoch, example=example)['image']
        if made.dtype != np.float32:
            raise config.InputError(
                f'{self._records.where(example)}: the transforms leave {made.dtype} numbers, but models take float32; '
                'add Normalize() as the last of data.transforms.'
            )
        label = records.value(record, data.label, functools.partial(self._records.where, example))
        return made, int(label)

    def _image(self, record: records.Record, example: int) -> np.ndarray:
        """[Y, X, Z] uint8 or a float."""
        where = functools.partial(self._records.where, example)
        image = np.asarray(records.value(record, self._data.image, where))
        if image.dtype.kind not in 'uf':
            raise config.InputError(f'{where()}: {self._data.image!r} is {image.dtype}; images are bytes or floats.')
        if image.dtype != np.uint8 and self._data.transforms == (Normalize(),):
            raise config.InputError(
                f'{where()} holds {image.dtype} numbers from {image.min():g} to {image.max():g}, not bytes, and the '
                'default transforms divide by 255. Say how they are scaled: transforms=(Normalize(divisor=1.0),) '
                'leaves them.'
            )
        return image[..., None] if image.ndim == 2 else image


def _size(shape: tuple[int, ...]) -> str:
    return ' x '.join(map(str, shape))
