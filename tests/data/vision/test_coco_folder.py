"""COCO's files as scenes: what stands in them comes out, and what cannot be is refused when they are opened."""

import json

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data.vision.detection import coco_folder, detection_images

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), np.uint8)
OBJECTS = (
    {'id': 1, 'image_id': 7, 'category_id': 3, 'bbox': [2, 4, 10, 8], 'area': 60.5, 'iscrowd': 0},
    {'id': 2, 'image_id': 7, 'category_id': 90, 'bbox': [0, 0, 30, 20], 'area': 600, 'iscrowd': 1},
)


def written(path, objects=OBJECTS, name='a.png', **changes):
    image = pytest.importorskip('PIL.Image')
    (path / 'images').mkdir(exist_ok=True)
    for number, pixels in zip('ab', PIXELS):
        image.fromarray(pixels).save(path / 'images' / f'{number}.png')
    content = {
        'images': [
            {'id': 9, 'file_name': 'b.png', 'height': 20, 'width': 30},
            {'id': 7, 'file_name': name, 'height': 20, 'width': 30},
        ],
        'categories': [{'id': 90, 'name': 'brush'}, {'id': 3, 'name': 'car'}],
        'annotations': list(objects),
    }
    (path / 'file.json').write_text(json.dumps(content | changes))
    return coco_folder.CocoFolder(images=str(path / 'images'), annotations=str(path / 'file.json'))


def test_images_come_in_the_order_of_their_numbers_with_their_objects(tmp_path):
    source = written(tmp_path)
    first, second = source.open()
    np.testing.assert_array_equal(first['image'], PIXELS[0])
    np.testing.assert_array_equal(first['boxes'], [[2, 4, 12, 12], [0, 0, 30, 20]])
    np.testing.assert_array_equal(first['labels'], [3, 90])
    np.testing.assert_array_equal(first['crowd'], [False, True])
    np.testing.assert_array_equal(first['areas'], [60.5, 600])
    np.testing.assert_array_equal(second['image'], PIXELS[1])
    assert second['boxes'].shape == (0, 4)
    dense = config.vary(source, {'dense_labels': True}).open()
    np.testing.assert_array_equal(dense[0]['labels'], [0, 1])
    assert dense.fingerprint != source.open().fingerprint
    of = detection_images.ObjectFields(crowd='crowd', areas='areas')
    data = detection_images.DetectionImages(
        source=source, shape=(20, 30, 3), classes=91, max_objects=2, batch=2, fields_of=of
    )
    batch = data.open(0).eval_batch(0)
    np.testing.assert_array_equal(batch['object_mask'], [[1, 0], [0, 0]])
    np.testing.assert_array_equal(batch['crowd'], [[0, 1], [0, 0]])
    np.testing.assert_allclose(batch['areas'][0, 0] * 600, 60.5, rtol=1e-6)


@pytest.mark.parametrize(
    ('box', 'message'),
    [
        ([2, 4, -10, 8], 'has a negative size'),
        ([2, 4, 40, 8], 'lies outside of its image'),
        ([2, 4, 0, 8], 'its box has no area'),
    ],
)
def test_damaged_boxes_are_refused_or_left_out_and_told(box, message, tmp_path, capsys):
    source = written(tmp_path, [*OBJECTS, {**OBJECTS[0], 'id': 5, 'bbox': box}])
    with pytest.raises(config.InputError, match=f'1 of 3 boxes are damaged: annotation 5: .*{message}.*skip_damaged'):
        source.open()
    found = config.vary(source, {'skip_damaged': True}).open()
    assert len(found[0]['boxes']) == 2


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'objects': [{**OBJECTS[0], 'image_id': 8}]}, 'is of image 8, which is not there'),
        ({'objects': [{**OBJECTS[0], 'category_id': 4}]}, 'is of category 4, which is not there'),
        ({'objects': [{'image_id': 7}]}, "an entry of 'annotations' lacks one of"),
        ({'name': '../a.png'}, 'leads out of the folder'),
        ({'name': 'c.png'}, '1 are not in .*such as c.png'),
        ({'categories': []}, "the list 'categories'"),
    ],
)
def test_files_that_do_not_fit_are_refused(changes, message, tmp_path):
    with pytest.raises(config.InputError, match=message):
        written(tmp_path, **changes).open()
