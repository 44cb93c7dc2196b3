"""Boxes stay on their objects, whatever is done to the image; and what cannot be a box is refused."""

import dataclasses

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import records, splits
from bigmodel_jax.data.builders import digit_scenes
from bigmodel_jax.data.sources import scikit_learn
from bigmodel_jax.data.vision import transforms
from bigmodel_jax.data.vision.detection import boxes, detection_images, scenes

RED = np.array([255, 0, 0], np.uint8)


def painted(rectangles, size=(40, 60)):
    """A black image with filled red rectangles (left, upper, right, lower edge), whose boxes are known exactly."""
    image = np.zeros((*size, 3), np.uint8)
    for left, top, right, bottom in rectangles:
        image[top:bottom, left:right] = RED
    edges = np.array(rectangles, np.float32).reshape(-1, 4)
    labels = np.arange(len(edges), dtype=np.int32)
    return scenes.Scene(image, edges, labels, np.zeros(len(edges), bool), boxes.areas(edges).astype(np.float32))


def seen(image):
    """The edges of what is red in an image."""
    rows, columns = np.nonzero(image[..., 0] > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize(
    'transform',
    [
        scenes.FlipScene(probability=1.0),
        scenes.ResizeScene(size=(80, 30)),
        scenes.ResizeShorterSide(sides=(20, 80), longest=100),
        scenes.RandomPart(sides=(25, 35)),
        scenes.ColorJitter(),
        scenes.EitherOf(first=(scenes.RandomPart(sides=(30, 35)), scenes.FlipScene()), second=(scenes.ColorJitter(),)),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_box_stays_around_its_object(transform):
    random, cut = np.random.default_rng(0), 0
    for number in range(60):
        left, top = random.integers(0, 40), random.integers(0, 25)
        wide, tall = random.integers(4, 20), random.integers(4, 15)
        before = painted([(left, top, left + wide, top + tall)])
        after = transform(before, np.uint64(number))
        if not len(after.boxes):
            assert not (after.image[..., 0] > 127).any()
            cut += 1
            continue
        # A bilinear edge lies within a pixel of its place.
        np.testing.assert_allclose(after.boxes[0], seen(after.image), atol=1.0)
        np.testing.assert_allclose(after.areas, boxes.areas(after.boxes), rtol=1e-4)
        again = transform(before, np.uint64(number))
        np.testing.assert_array_equal(after.image, again.image)
    assert cut < 60


def test_reflecting_twice_is_nothing_and_a_reflection_commutes_with_a_resize():
    scene = painted([(3, 4, 20, 30), (30, 10, 60, 40)])
    twice = scenes.reflected(scenes.reflected(scene))
    np.testing.assert_array_equal(twice.image, scene.image)
    np.testing.assert_array_equal(twice.boxes, scene.boxes)
    left = scenes.reflected(scenes.resized(scene, (20, 90)))
    right = scenes.resized(scenes.reflected(scene), (20, 90))
    np.testing.assert_array_equal(left.image, right.image)
    np.testing.assert_allclose(left.boxes, right.boxes, rtol=0, atol=1e-4)


def test_layouts_say_the_same_box():
    edges = np.array([[3.0, 4, 20, 30]])
    written = {
        boxes.Corners(): edges,
        boxes.CornerAndSize(): [[3, 4, 17, 26]],
        boxes.TfdsShares(): [[4 / 40, 3 / 60, 30 / 40, 20 / 60]],
    }
    for layout, each in written.items():
        np.testing.assert_allclose(layout.edges(np.array(each, np.float64), (40, 60)), edges)


# ---- batches --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed(records.Source):
    """Records of painted scenes."""

    rectangles: tuple[tuple[tuple[float, ...], ...], ...]
    labels: tuple[tuple[int, ...], ...] = ()

    def open(self):
        found = []
        for number, each in enumerate(self.rectangles):
            labels = self.labels[number] if self.labels else tuple(range(len(each)))
            image = painted([]).image
            found.append({'image': image, 'boxes': np.reshape(each, (-1, 4)), 'labels': np.array(labels, np.int32)})
        return records.RecordList('painted', found, {'name': 'painted'})


def data(*rectangles, labels=(), **changes):
    base = detection_images.DetectionImages(
        source=Listed(rectangles=rectangles, labels=labels), shape=(48, 64, 3), classes=3, max_objects=3, batch=2
    )
    return config.vary(base, changes)


def test_a_batch_holds_shares_of_the_image_and_masks_what_is_not_there():
    opened = data(((6, 4, 30, 24), (0, 0, 60, 40)), ()).open(0)
    batch = opened.eval_batch(0)
    np.testing.assert_allclose(batch['boxes'][0], [[0.3, 0.35, 0.4, 0.5], [0.5, 0.5, 1, 1], [0] * 4])
    np.testing.assert_array_equal(batch['object_mask'], [[1, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(batch['image_size'], [[40, 60]] * 2)
    np.testing.assert_array_equal(batch['original_size'], [[40, 60]] * 2)
    np.testing.assert_allclose(batch['areas'][0, :2], [0.2, 1])
    assert batch['image'].shape == (2, 48, 64, 3)


WRONG = {
    'negative size': (((20, 4, 6, 24),), {}, 'object 0: the box .* has a negative size'),
    'outside': (((6, 4, 66, 24),), {}, r'lies outside of its image of 40 x 60 pixels'),
    'not finite': (((6, 4, float('nan'), 24),), {}, 'is not finite'),
    'empty': (((6, 4, 6, 24),), {}, 'its box has no area.*skip_empty=True'),
    'too many': (((6, 4, 30, 24),) * 4, {'classes': 4}, 'has 4 objects, but data.max_objects=3'),
    'label': (((6, 4, 30, 24),), {'source.labels': ((3,),)}, 'labels are whole numbers from 0 to 2'),
    'labels': (((6, 4, 30, 24),), {'source.labels': ((1, 2),)}, 'has 1 boxes and 2 labels'),
    'size': (((6, 4, 30, 24),), {'shape': (32, 64, 3)}, 'ResizeShorterSide'),
}


@pytest.mark.parametrize('name', WRONG)
def test_what_cannot_be_a_box_is_refused_before_anything_starts(name):
    rectangles, changes, message = WRONG[name]
    with pytest.raises(config.InputError, match=f'(?s)painted, row 1.*{message}'):
        data(rectangles, **changes).open(0)


def test_boxes_that_rounding_put_outside_are_cut_and_empty_ones_can_be_left_out():
    batch = data(((-0.4, 0, 60.5, 40),), **{'fields_of.skip_empty': True}).open(0).eval_batch(0)
    np.testing.assert_allclose(batch['boxes'][0, 0], [0.5, 0.5, 1, 1])
    batch = data(((6, 4, 6, 24), (0, 0, 60, 40)), **{'fields_of.skip_empty': True}).open(0).eval_batch(0)
    np.testing.assert_array_equal(batch['object_mask'][0], [1, 0, 0])
    np.testing.assert_array_equal(batch['labels'][0], [1, 0, 0])


def test_a_transform_of_images_alone_is_refused():
    wrong = dataclasses.replace(data(()), transforms=(transforms.RandomFlip(),))
    with pytest.raises(config.InputError, match='RandomFlip changes images, and would leave the boxes behind'):
        wrong.open(0)


# ---- drawn scenes ---------------------------------------------------------------------------------------------------


def test_scenes_of_digits_are_functions_of_their_number_and_their_boxes_do_not_touch():
    part, other = splits.both(held_out=1 / 2)
    source = digit_scenes.DigitScenes(count=40, digits=scikit_learn.ScikitLearn(name='digits', part=part))
    opened = source.open()
    found = opened.read(0, 40)
    later = config.vary(source, {'first': 30, 'count': 10}).open().read(0, 10)
    for left, right in zip(found[30:], later, strict=True):
        np.testing.assert_array_equal(left['image'], right['image'])
        np.testing.assert_array_equal(left['boxes'], right['boxes'])
    assert {len(each['labels']) for each in found} == {0, 1, 2, 3, 4}
    for each in found:
        assert not boxes.problems(each['boxes'], (64, 64))
        low = np.maximum(each['boxes'][:, None, :2], each['boxes'][:, :2])
        high = np.minimum(each['boxes'][:, None, 2:], each['boxes'][:, 2:])
        touching = (high > low).all(axis=-1)
        assert (touching == np.eye(len(touching), dtype=bool)).all()
    elsewhere = config.vary(source, {'half': 'right', 'digits.part': other}).open()
    assert elsewhere.fingerprint != opened.fingerprint
