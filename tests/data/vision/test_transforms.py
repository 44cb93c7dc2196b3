"""Transforms against independent references, and the laws of their randomness."""

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import records, sources
from bigmodel_jax.data import transforms as pipeline
from bigmodel_jax.data.text.transforms import Lowercase, NormalizeUnicode
from bigmodel_jax.data.vision import images, transforms

SHAPE = (5, 7, 3)
AUGMENTED = (transforms.RandomCrop(padding=2), transforms.RandomFlip(), transforms.Normalize())


def pixels(count=40, seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def key(number):
    return np.uint64(number)


@pytest.fixture
def built(tmp_path):
    np.savez(tmp_path / 'a.npz', image=pixels(), label=np.arange(40) % 4)
    source = sources.Npz(path=str(tmp_path / 'a.npz'))
    return images.Images(source=source, shape=SHAPE, classes=4, batch=8, transforms=AUGMENTED).open(seed=5)


# ---- each transform -------------------------------------------------------------------------------------------------


def test_a_crop_is_a_window_of_the_padded_image_and_every_window_occurs():
    image, crop = pixels(1)[0], transforms.RandomCrop(padding=1)
    padded = np.zeros((7, 9, 3), np.uint8)
    padded[1:-1, 1:-1] = image
    windows = {padded[y : y + 5, x : x + 7].tobytes() for y in range(3) for x in range(3)}
    assert {crop(image, key(number)).tobytes() for number in range(200)} == windows
    sized = transforms.RandomCrop(size=(2, 3))
    windows = {image[y : y + 2, x : x + 3].tobytes() for y in range(4) for x in range(5)}
    assert {sized(image, key(number)).tobytes() for number in range(400)} == windows


def test_a_flip_reflects_the_columns_as_often_as_it_says():
    image = pixels(1)[0]
    reflected = np.stack([image[:, column] for column in range(6, -1, -1)], axis=1)
    found = [transforms.RandomFlip(probability=0.25)(image, key(number)) for number in range(2_000)]
    flips = [np.array_equal(each, reflected) for each in found]
    assert all(flip or np.array_equal(each, image) for flip, each in zip(flips, found))
    assert abs(np.mean(flips) - 0.25) < 0.05  # Five standard deviations of a mean of 2,000.


def test_normalization_is_its_formula_in_float64():
    normalize = transforms.Normalize(divisor=255.0, mean=(0.5, 0.4, 0.3), deviation=(0.2, 0.3, 0.4))
    expected = (pixels(1)[0].astype(np.float64) / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    found = normalize(pixels(1)[0], key(0))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-6)  # Rounding to float32 of numbers up to 3.


def test_every_channel_is_normalized_by_its_own_numbers():
    image = pixels(1)[0]
    found = transforms.Normalize(divisor=16.0, mean=(0.1, 0.2, 0.3), deviation=(0.3, 0.2, 7.0))(image, key(0))
    mean, deviation = np.float32((0.1, 0.2, 0.3)), np.float32((0.3, 0.2, 7.0))
    np.testing.assert_array_equal(found, (image.astype(np.float32) / np.float32(16) - mean) / deviation)


@pytest.mark.parametrize('size', [(5, 3), (5, 20), (2, 7), (17, 7), (5, 7)])
def test_resizing_one_axis_is_what_pillow_does(size):
    pillow = pytest.importorskip('PIL.Image')
    for image in pixels(20):
        expected = np.asarray(pillow.fromarray(image).resize(size[::-1], pillow.Resampling.BILINEAR))
        np.testing.assert_array_equal(transforms.Resize(size=size)(image, key(0)), expected)
        without = transforms._resized(image, size[1], axis=1)  # As where Pillow is not installed.
        np.testing.assert_array_equal(transforms._resized(without, size[0], axis=0), expected)


def test_resizing_both_axes_is_resizing_one_after_the_other():
    for image in pixels(5, shape=(23, 31, 3)):
        columns = transforms.Resize(size=(23, 12))(image, key(0))
        both = transforms.Resize(size=(40, 12))(image, key(0))
        np.testing.assert_array_equal(both, transforms.Resize(size=(40, 12))(columns, key(0)))
        floats = transforms.Resize(size=(40, 12))(image.astype(np.float64), key(0))
        assert abs(floats - both).max() <= 1  # Bytes are rounded twice, by half a level each.


def test_the_center_crop_has_the_center():
    image = pixels(1)[0]
    np.testing.assert_array_equal(transforms.CenterCrop(size=(3, 3))(image, key(0)), image[1:4, 2:5])


@pytest.mark.parametrize('transform', [*AUGMENTED, transforms.CenterCrop(size=(2, 2)), transforms.Resize(size=(9, 4))])
def test_the_shape_that_is_announced_is_the_one_that_comes_and_the_image_stays(transform):
    image = pixels(1)[0]
    before = image.copy()
    assert transform(image, key(3)).shape == transform.shape(SHAPE)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize('transform', [transforms.RandomCrop(size=(6, 7)), transforms.CenterCrop(size=(5, 8))])
def test_a_crop_that_does_not_fit_is_refused(transform):
    with pytest.raises(config.InputError, match=r'does not fit into an image of 5 x 7'):
        transform.shape(SHAPE)


# ---- randomness -----------------------------------------------------------------------------------------------------


def test_an_example_is_the_same_wherever_it_is_read_and_another_in_the_next_epoch(built):
    """Alone, in another order, or with others: a function of (seed, epoch, example)."""
    everything, zeros = np.arange(40), np.zeros(40, np.int64)
    first, second = (built.examples.gather(everything, zeros + epoch, 5)['image'] for epoch in (0, 1))
    for order in (everything[::-1], everything[7:9]):
        again = built.examples.gather(order, zeros[: len(order)], 5)['image']
        np.testing.assert_array_equal(again, first[order])
    other = built.examples.gather(everything, zeros, 6)['image']
    # Of 25 crops and two reflections, a few are the same by chance.
    for differs in (first != second, first != other):
        assert differs.any(axis=(1, 2, 3)).mean() > 0.8


def test_the_place_in_the_tuple_is_part_of_the_key():
    """Two flips one after the other are drawn apart, or they would undo one another always."""
    flips, image = (transforms.RandomFlip(), transforms.RandomFlip()), pixels(1)[0]
    found = [
        pipeline.apply(flips, {'image': image}, seed=0, epoch=0, example=example)['image'] for example in range(200)
    ]
    same = np.mean([np.array_equal(each, image) for each in found])
    assert abs(same - 0.5) < 0.18  # Five standard deviations.


def test_transforms_that_do_not_give_the_shape_or_the_type_are_refused(tmp_path):
    np.savez(tmp_path / 'a.npz', image=pixels(), label=np.arange(40) % 4)
    source = sources.Npz(path=str(tmp_path / 'a.npz'))
    for changes, message in (
        ((transforms.RandomFlip(),), r'leave uint8 numbers.*add Normalize\(\)'),
        ((transforms.CenterCrop(size=(4, 4)), transforms.Normalize()), r'make 4 x 4 x 3, but .* asks for 5 x 7 x 3'),
    ):
        with pytest.raises(config.InputError, match=message):
            images.Images(source=source, shape=SHAPE, classes=4, batch=8, transforms=changes).open(seed=0)


# ---- text -----------------------------------------------------------------------------------------------------------


def test_text_is_transformed_before_it_is_tokenized():
    source = sources.Texts(texts=('ÄRGER', 'e\u0301'))
    changed = sources.Transformed(source=source, transforms=(Lowercase(), NormalizeUnicode(form='NFC')))
    assert list(records.texts(changed)) == ['ärger', 'é']
    assert records.texts(changed).fingerprint != records.texts(source).fingerprint
    with pytest.raises(config.InputError, match='which is random'):
        sources.Transformed(source=source, transforms=(transforms.RandomFlip(),)).open()


class Stored(records.Source):
    """Text as TFDS gives it: as bytes."""

    def open(self):
        return records.RecordList('stored', [{'text': 'ÄB'.encode()}, {'other': b''}], {})


def test_text_that_is_stored_as_bytes_is_changed_as_text():
    found = sources.Transformed(source=Stored(), transforms=(Lowercase(),)).open()
    assert found.read(0, 1) == [{'text': 'äb'}]
    with pytest.raises(config.InputError, match="has no field 'text'"):
        found.read(1, 2)
