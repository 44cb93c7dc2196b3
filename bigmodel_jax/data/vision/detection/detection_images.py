"""Images with objects as batches: boxes and labels of a fixed number of objects, and which of them are there."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches, counter_rng, records
from bigmodel_jax.data import transforms as applying
from bigmodel_jax.data.vision.detection import boxes as boxes_of
from bigmodel_jax.data.vision.detection.scenes import SCENE, Scene, SceneTransform
from bigmodel_jax.data.vision.transforms import Normalize


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectFields:
    """What the fields of a source's records are called, and how it writes boxes."""

    image: str = 'image'
    boxes: str = 'boxes'
    labels: str = 'labels'
    crowd: str | None = None  # Whether a box is around many objects; None: none is.
    areas: str | None = None  # Of the objects, in pixels; None: those of their boxes.
    layout: boxes_of.BoxLayout = boxes_of.Corners()
    skip_empty: bool = (
        False  # Leave out objects whose box has no area, of which COCO has a few; otherwise they are refused.
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionImages(batches.Data):
    """Images and the objects in them. An image may have none.

    A batch holds, where n is `batch`, [Y, X, Z] is `shape` and O is `max_objects`:
      image: [n, Y, X, Z] float32, as the transforms leave it, in the upper left corner; the rest is 0.
      image_size: [n, 2] int32, the rows and columns of the image without the rest.
      boxes: [n, O, 4] float32 in [0, 1]: the column and the row of the middle, the width and the height, as shares of
        the image without the rest.
      labels: [n, O] int32, below `classes`.
      object_mask: [n, O] float32, 1 for an object, 0 for a crowd and where there is none.
      crowd: [n, O] float32, 1 for a crowd, which trains nothing and is no mistake if it is found.
      areas: [n, O] float32, shares of the image.
      original_size: [n, 2] int32, the rows and columns before the transforms.
    """

    source: records.Source
    shape: tuple[config.Positive, config.Positive, config.Positive]  # Rows, columns and channels that have room.
    classes: config.Positive
    max_objects: config.Positive  # O
    batch: config.Positive
    transforms: tuple[SceneTransform, ...] = ()
    normalize: Normalize = Normalize()  # Of the pixels, at the end.
    fields_of: ObjectFields = ObjectFields()

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        O, floats, integers = self.max_objects, np.dtype(np.float32), np.dtype(np.int32)
        objects, sides = batches.Field((O,), floats, ('objects',)), batches.Field((2,), integers, ('sides',))
        return {
            'image': batches.Field(self.shape, floats, ('height', 'width', 'channels')),
            'image_size': sides,
            'boxes': batches.Field((O, 4), floats, ('objects', 'box')),
            'labels': batches.Field((O,), integers, ('objects',), self.classes),
            'object_mask': objects,
            'crowd': objects,
            'areas': objects,
            'original_size': sides,
        }

    @property
    def units(self) -> batches.Units:
        return batches.Units('images', 1)

    def build(self, seed: int) -> batches.Batches:
        return batches.Batches(DetectionExamples(self), rows=self.batch, seed=seed)


class DetectionExamples(batches.Examples):
    """Scenes that are read and transformed one by one; a pure function of (seed, epoch, example)."""

    def __init__(self, data: DetectionImages):
        self._data, self._records = data, data.source.open()
        self.fields = data.fields
        self.fingerprint = {
            **self._records.fingerprint,
            'fields': config.to_json(data.fields_of),
            'max_objects': data.max_objects,
            'transforms': config.to_json(data.transforms),
            'normalize': config.to_json(data.normalize),
        }
        for each in data.transforms:
            if not isinstance(each, SceneTransform):
                raise config.InputError(
                    f'data.transforms: {type(each).__name__} changes images, and would leave the boxes behind. Use one '
                    'of data/vision/detection/scenes.py, such as FlipScene, ResizeShorterSide or RandomPart.'
                )
        self.gather(np.zeros(1, np.int64), np.zeros(1, np.int64), 0)

    def __len__(self) -> int:
        return len(self._records)

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """[Y, X, Z] float32 in [0, 1]: an image of a batch as it is to be looked at."""
        return np.clip(self._data.normalize.undone(image), 0, 1)

    def gather(self, indices: np.ndarray, epochs: np.ndarray, seed: int) -> batches.Batch:
        found = zip(self._records.gather(indices.tolist()), indices.tolist(), epochs.tolist())
        made = [self._example(record, example, epoch, seed) for record, example, epoch in found]
        return {name: np.stack([each[name] for each in made]) for name in self.fields}

    def scene(self, record: records.Record, example: int) -> Scene:
        """The scene of a record before the transforms, checked.

        Raises:
          InputError: the image, a box or a label is not what the config says.
        """
        of, where = self._data.fields_of, functools.partial(self._records.where, example)
        image = np.asarray(records.value(record, of.image, where))
        image = image[..., None] if image.ndim == 2 else image
        if image.ndim != 3 or image.dtype.kind not in 'uf':
            raise config.InputError(f'{where()}: {of.image!r} is {image.dtype}{list(image.shape)}, which is no image.')
        size = image.shape[0], image.shape[1]
        written = np.asarray(records.value(record, of.boxes, where), np.float64).reshape(-1, 4)
        boxes = boxes_of.checked(of.layout.edges(written, size), size, where)
        labels = np.asarray(records.value(record, of.labels, where)).reshape(-1)
        self._check_labels(labels, len(boxes), where)
        crowd = self._of_each(record, of.crowd, np.zeros(len(boxes)), where)
        areas = self._of_each(record, of.areas, boxes_of.areas(boxes), where)
        scene = Scene(image, boxes, labels.astype(np.int32), crowd.astype(bool), areas.astype(np.float32))
        empty = boxes_of.areas(boxes) <= 0
        if empty.any() and not of.skip_empty:
            raise config.InputError(
                f'{where()}, object {int(empty.argmax())}: its box has no area. Mend it, or leave out all such objects '
                '(data.fields_of.skip_empty=True).'
            )
        return scene.kept(~empty)

    def _of_each(
        self, record: records.Record, field: str | None, otherwise: np.ndarray, where: boxes_of.Where
    ) -> np.ndarray:
        """A number of each object; `otherwise` where no field has it."""
        found = otherwise if field is None else np.asarray(records.value(record, field, where)).reshape(-1)
        if len(found) != len(otherwise):
            raise config.InputError(f'{where()}: {field!r} has {len(found)} values for {len(otherwise)} boxes.')
        return found

    def _check_labels(self, labels: np.ndarray, count: int, where: boxes_of.Where) -> None:
        classes, name = self._data.classes, self._data.fields_of.labels
        if len(labels) != count:
            raise config.InputError(f'{where()} has {count} boxes and {len(labels)} labels; give one for each.')
        if count and (labels.dtype.kind not in 'ui' or labels.min() < 0 or labels.max() >= classes):
            raise config.InputError(
                f'{where()}: {name!r} is {labels.tolist()}; labels are whole numbers from 0 to {classes - 1}, since '
                f'data.classes={classes}.'
            )

    def _example(self, record: records.Record, example: int, epoch: int, seed: int) -> batches.Batch:
        data, where = self._data, functools.partial(self._records.where, example)
        before = self.scene(record, example)
        changed = applying.apply(data.transforms, {SCENE: before}, seed=seed, epoch=epoch, example=example)
        scene: Scene = changed[SCENE]
        (rows, columns), count = scene.size, len(scene.boxes)
        if rows > data.shape[0] or columns > data.shape[1] or scene.image.shape[2] != data.shape[2]:
            raise config.InputError(
                f'{where()} is {" x ".join(map(str, scene.image.shape))} after the transforms, for which '
                f'data.shape={data.shape} has no room; add ResizeShorterSide(longest=...), or use a larger shape.'
            )
        if count > data.max_objects:
            raise config.InputError(
                f'{where()} has {count} objects, but data.max_objects={data.max_objects}; use a larger one, and no '
                'fewer queries.'
            )
        image = np.zeros(data.shape, np.float32)
        image[:rows, :columns] = data.normalize(scene.image, counter_rng.bits(0))
        left, top, right, bottom = (scene.boxes / np.array([columns, rows, columns, rows], np.float32)).T
        middles = np.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], axis=-1)
        return {
            'image': image,
            'image_size': np.array([rows, columns], np.int32),
            'boxes': _padded(middles.astype(np.float32), data.max_objects),
            'labels': _padded(scene.labels, data.max_objects),
            'object_mask': _padded((~scene.crowd).astype(np.float32), data.max_objects),
            'crowd': _padded(scene.crowd.astype(np.float32), data.max_objects),
            'areas': _padded((scene.areas / (rows * columns)).astype(np.float32), data.max_objects),
            'original_size': np.array(before.size, np.int32),
        }


def _padded(values: np.ndarray, count: int) -> np.ndarray:
    """[count, ...]: the values of objects, and zeros."""
    found = np.zeros((count, *values.shape[1:]), values.dtype)
    found[: len(values)] = values
    return found
