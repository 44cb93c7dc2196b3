"""Ten crops of an image, and data that shows each image several times."""

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data.vision import drawn, images, mixing, transforms, views
from bigmodel_jax.evaluate import class_scores, classes

IMAGE = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
CROPS = views.TenCrops(size=(4, 6))


def test_ten_crops_are_the_middle_the_corners_and_their_reflections():
    found = [CROPS(IMAGE, number) for number in range(10)]
    np.testing.assert_array_equal(found[0], transforms.CenterCrop(size=(4, 6))(IMAGE, np.uint64(0)))
    corners = IMAGE[:4, :6], IMAGE[:4, -6:], IMAGE[-4:, :6], IMAGE[-4:, -6:]
    for one, other in zip(found[1:5], corners, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(found[:5], found[5:], strict=True):
        np.testing.assert_array_equal(one[:, ::-1], other)


def gratings(**changes):
    source = drawn.Gratings(count=5, shape=(9, 11, 3), classes=4)
    scaled = (transforms.Normalize(mean=(0.5,), deviation=(0.2,)),)
    return images.Images(source=source, shape=(4, 6, 3), classes=4, batch=8, transforms=scaled, **changes)


def test_data_with_views_shows_each_image_ten_times():
    data = gratings(views=CROPS).open(0)
    assert (len(data.examples), data.examples.views, data.steps_per_pass) == (50, 10, 7)
    whole = np.concatenate([data.eval_batch(index)['image'] for index in range(7)])
    source = drawn.Gratings(count=5, shape=(9, 11, 3), classes=4)
    full = images.Images(source=source, shape=(9, 11, 3), classes=4, batch=5, transforms=gratings().transforms).open(0)
    for number, image in enumerate(full.eval_batch(0)['image']):
        for view in range(10):
            np.testing.assert_array_equal(whole[10 * number + view], CROPS(image, view))


def test_views_that_do_not_fit_are_refused():
    with pytest.raises(config.InputError, match='CenterCrop of 10 x 6 pixels does not fit into an image of 9 x 11'):
        gratings(views=views.TenCrops(size=(10, 6))).open(0)
    with pytest.raises(config.InputError, match=r'views and data\.mixing exclude one another'):
        gratings(views=CROPS, mixing=mixing.Mixup()).open(0)


def test_the_probabilities_of_views_are_averaged():
    logits_NV = np.random.default_rng(1).normal(0, 3, (12, 4)).astype(np.float32)
    found = class_scores.probabilities(classes.averaged(logits_NV, 3))
    expected = class_scores.probabilities(logits_NV).reshape(4, 3, 4).mean(axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert classes.averaged(logits_NV, 1) is logits_NV
