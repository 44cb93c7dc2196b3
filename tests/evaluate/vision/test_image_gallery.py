"""Which images an evaluation shows, with which words, and the filters as a picture."""

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data.tabular import tabular
from bigmodel_jax.data.vision import drawn, images, transforms, views
from bigmodel_jax.evaluate import classes, encodings
from bigmodel_jax.evaluate.vision import image_gallery
from bigmodel_jax.models import resnet

SOURCE = drawn.Gratings(count=8, shape=(6, 5, 3), classes=4)
SHOWING = image_gallery.ImageGallery(examples=3, mistakes=2, filters=5)
LABELS_N = np.arange(8) % 4
KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 7))


def shown(logits_NV, of=SHOWING, **changes):
    scaled = (transforms.Normalize(mean=(0.5, 0.4, 0.3), deviation=(0.2,)),)
    data = images.Images(source=SOURCE, shape=(6, 5, 3), classes=4, batch=4, transforms=scaled, **changes).open(0)
    found = classes.Predicted(logits_NV, LABELS_N, tuple('abcd'), data, {'backbone': {'stem': {'kernel': KERNEL}}})
    return of.artifacts(found, resnet.RESNET_20)


def test_examples_are_spaced_and_the_most_certain_mistakes_come_first():
    logits_NV = np.eye(4)[LABELS_N] * 10.0
    for number, certain in ((2, 3.0), (5, 9.0), (6, 5.0)):
        logits_NV[number] = np.eye(4)[(LABELS_N[number] + 1) % 4] * certain
    *pictures, filters = shown(logits_NV)
    titles = [each.title for each in pictures]
    assert titles == ['a 100%', 'a 100%', 'd 100%', 'mistake: c 100%, is b', 'mistake: d 98%, is c']
    source = SOURCE.open()
    for picture, number in zip(pictures, (0, 4, 7, 5, 6), strict=True):
        np.testing.assert_array_equal(encodings.pixels_in(picture.content), source[number]['image'])
    assert filters.title == 'The 5 filters of the first layer'
    pixels = encodings.pixels_in(filters.content)
    assert pixels.shape == (2 * 25, 3 * 25, 3)  # Tiles of 24 pixels and a line.
    first = KERNEL[..., 0]
    expected = np.round((first - first.min()) / np.ptp(first) * 255)
    np.testing.assert_allclose(pixels[4:24:8, 4:24:8], expected, atol=1)
    assert (pixels[24] == 255).all()


def test_without_a_mistake_none_is_shown_and_of_views_the_first():
    several = views.Reflections()
    found = shown(np.eye(4)[LABELS_N] * 9.0, views=several)
    assert [each.title for each in found[:-1]] == ['a 100%', 'a 100%', 'd 100%']
    np.testing.assert_array_equal(encodings.pixels_in(found[1].content), SOURCE.open()[4]['image'])


def test_data_without_pixels_is_refused():
    table = tabular.Features(source=SOURCE, columns=('a',), label='label', batch=4)
    with pytest.raises(config.InputError, match='the pixels of Images, but the data is Features'):
        SHOWING.check(table)
