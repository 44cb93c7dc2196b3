"""COCO's files: a folder of images and a JSON file of the boxes in them."""

import collections
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import preparation_progress, records
from bigmodel_jax.data.sources import files, image_folder
from bigmodel_jax.data.vision.detection import boxes as boxes_of

SHOWN = 3  # Damaged boxes that a message names.


@dataclasses.dataclass(frozen=True, kw_only=True)
class CocoFolder(records.Source):
    """The images of a folder with the annotations of a file of COCO: instances_train2017.json and the like.

    A record has `image` [Y, X, 3] uint8, `boxes` [n, 4] float32 (left, upper, right, lower edge in pixels), `labels`
    [n] int32, `crowd` [n] bool and `areas` [n] float32, for detection_images.ObjectFields(crowd='crowd',
    areas='areas'). A label is the number of the category in the file, from 1 to 90 in COCO, or with `dense_labels` its
    place among the sorted numbers, from 0 to 79. Images without annotations are records too.

    Every box is checked when the file is opened: one of a negative size, outside of its image, or without an area, of
    which COCO's training set has a few, is refused, or with skip_damaged=True left out and told.

    Source: Lin et al. (2014), arXiv:1405.0312, and the format of its web site.
    """

    images: str  # The folder.
    annotations: str  # The JSON file.
    dense_labels: bool = False
    skip_damaged: bool = False

    def open(self) -> 'CocoRecords':
        return CocoRecords(self)


class CocoRecords(records.Records):
    """The images in the order of their numbers, decoded when they are read."""

    def __init__(self, source: CocoFolder):
        self.name = source.annotations
        content = files.read_bytes(files.path_of(source.annotations))
        found = _parsed(content, source.annotations)
        folder = files.path_of(source.images)
        if not folder.is_dir():
            raise config.InputError(f'There is no folder {folder}.')
        self._entries = sorted(found['images'], key=lambda each: int(each['id']))
        self._paths = [folder / _plain(each['file_name'], source.annotations) for each in self._entries]
        missing = [path for path in self._paths if not path.is_file()]
        if missing:
            raise config.InputError(
                f'{source.annotations} names {len(self._paths)} images, of which {len(missing)} are not in {folder}, '
                f'such as {missing[0].name}.'
            )
        self.categories = {int(each['id']): str(each['name']) for each in found['categories']}
        numbers = {number: place for place, number in enumerate(sorted(self.categories))}
        self._labels = numbers if source.dense_labels else {number: number for number in numbers}
        self._objects = self._checked(found['annotations'], skip=source.skip_damaged)
        self.fingerprint = {
            'sha256': hashlib.sha256(content).hexdigest(),
            'dense_labels': source.dense_labels,
            'skip_damaged': source.skip_damaged,
        }

    def __len__(self) -> int:
        return len(self._entries)

    def read(self, start: int, stop: int) -> list[records.Record]:
        return [self._record(number) for number in range(len(self))[start:stop]]

    def where(self, index: int) -> str:
        return str(self._paths[index])

    def _record(self, number: int) -> records.Record:
        path, objects = self._paths[number], self._objects.get(int(self._entries[number]['id']), ())
        image = image_folder.decode(files.read_bytes(path), 3, str(path))
        size = self._size(number)
        if image.shape[:2] != size:
            raise config.InputError(f'{path} has {image.shape[:2]} rows and columns, but {self.name} says {size}.')
        edges = np.array([each['edges'] for each in objects], np.float64).reshape(-1, 4)
        return {
            'image': image,
            'boxes': boxes_of.checked(edges, size, lambda: str(path)),
            'labels': np.array([self._labels[int(each['category_id'])] for each in objects], np.int32),
            'crowd': np.array([bool(each.get('iscrowd', 0)) for each in objects], bool),
            'areas': np.array([float(each['area']) for each in objects], np.float32),
        }

    def _size(self, number: int) -> tuple[int, int]:
        return int(self._entries[number]['height']), int(self._entries[number]['width'])

    def _checked(self, annotations: Any, *, skip: bool) -> dict[int, list[Mapping[str, Any]]]:
        """The objects of each image, by its number; boxes that cannot be are refused, or left out and told."""
        sizes = {int(each['id']): self._size(number) for number, each in enumerate(self._entries)}
        found: dict[int, list[Mapping[str, Any]]] = collections.defaultdict(list)
        damaged = []
        for each in annotations:
            image, category = int(each['image_id']), int(each['category_id'])
            if image not in sizes or category not in self._labels:
                what = f'image {image}' if image not in sizes else f'category {category}'
                raise config.InputError(f'{self.name}: annotation {each.get("id")} is of {what}, which is not there.')
            left, top, width, height = map(float, each['bbox'])
            edges = np.array([[left, top, left + width, top + height]])
            said = [text for _, text in boxes_of.problems(edges, sizes[image])]
            said += ['its box has no area'] if not said and boxes_of.areas(edges)[0] <= 0 else []
            if said:
                damaged.append(f'annotation {each.get("id")}: {said[0]}')
                continue
            found[image].append({'area': width * height, **each, 'edges': edges[0]})
        if damaged:
            listed = '; '.join(damaged[:SHOWN]) + (' ...' if len(damaged) > SHOWN else '')
            sentence = f'{self.name}: {len(damaged)} of {len(annotations)} boxes are damaged: {listed}'
            if not skip:
                raise config.InputError(f'{sentence}. Mend them, or leave them out: CocoFolder(skip_damaged=True).')
            preparation_progress.say(f'{sentence}. They are left out.')
        return dict(found)


def _parsed(content: bytes, where: str) -> Mapping[str, Any]:
    """The JSON of an annotation file.

    Raises:
      InputError: it is none, or parts of it are missing.
    """
    try:
        found = json.loads(content)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise config.InputError(f'{where} is no JSON file: {error}.') from error
    wanted = {
        'images': ('id', 'file_name', 'height', 'width'),
        'categories': ('id', 'name'),
        'annotations': ('image_id', 'category_id', 'bbox'),
    }
    for part, fields in wanted.items():
        entries = found.get(part) if isinstance(found, Mapping) else None
        if not isinstance(entries, list) or (part != 'annotations' and not entries):
            raise config.InputError(f"{where} should be an object with the list {part!r}, as COCO's instances_*.json.")
        wrong = next(
            (each for each in entries if not isinstance(each, Mapping) or not each.keys() >= set(fields)), None
        )
        if wrong is not None:
            raise config.InputError(
                f'{where}: an entry of {part!r} lacks one of {", ".join(fields)}: {str(wrong)[:80]}.'
            )
    return found


def _plain(name: Any, where: str) -> str:
    """The name of a file, which may lead into folders below but not out of its folder."""
    path = pathlib.PurePosixPath(str(name))
    if path.is_absolute() or '..' in path.parts or not path.parts:
        raise config.InputError(f'{where}: the file name {name!r} leads out of the folder of images.')
    return str(path)
