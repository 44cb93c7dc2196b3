"""RandAugment: each operation against torchvision's own arithmetic, and how operations are drawn."""

import pathlib

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import counter_rng
from bigmodel_jax.data.vision import rand_augment

pillow = pytest.importorskip('PIL.Image')
# What torchvision 0.29.1 makes of `image`, [24, 20, 3], as a tensor and so without Pillow: the strength is 0.6 of the
# greatest, pixels from outside are 128, and the nearest pixel is taken.
RECORDED = dict(np.load(pathlib.Path(__file__).parents[2] / 'oracles' / 'rand_augment.npz'))
IMAGE = RECORDED.pop('image')
GREY = (128, 128, 128)


def applied(operation, strength):
    return np.asarray(operation(rand_augment.Drawn(pillow.fromarray(IMAGE), strength, GREY)))


@pytest.mark.parametrize('operation', rand_augment.OPERATIONS, ids=lambda each: each.__name__)
def test_an_operation_is_that_of_torchvision(operation):
    found = applied(operation, 0.6)
    # Where the two round in another order they differ by one level.
    assert np.abs(found.astype(int) - RECORDED[operation.__name__]).max() <= 1
    assert operation is rand_augment.identity or (found != IMAGE).any(axis=-1).mean() > 0.5


def test_there_are_fourteen_and_magnitude_zero_is_the_image():
    assert len(rand_augment.OPERATIONS) == len(RECORDED) == 14
    without_strength = (rand_augment.autocontrast, rand_augment.equalize)
    for operation in set(rand_augment.OPERATIONS) - set(without_strength):
        np.testing.assert_array_equal(applied(operation, 0.0), IMAGE)


def test_one_operation_of_fourteen_is_drawn_in_one_of_two_directions():
    possible = {applied(each, sign * 0.9).tobytes() for each in rand_augment.OPERATIONS for sign in (-1, 1)}
    augment = rand_augment.RandAugment(count=1, magnitude=9.0)
    found = [augment(IMAGE, key).tobytes() for key in counter_rng.bits(5, np.arange(420))]
    assert set(found) == possible
    share = np.mean([each == IMAGE.tobytes() for each in found])
    assert abs(share - 1 / 14) < 0.063  # Five standard deviations.


def test_operations_follow_one_another_and_the_image_stays():
    augment, before = rand_augment.RandAugment(count=2, magnitude=4.0), IMAGE.copy()
    once = {applied(each, sign * 0.4).tobytes() for each in rand_augment.OPERATIONS for sign in (-1, 1)}
    found = [augment(IMAGE, key) for key in counter_rng.bits(6, np.arange(30))]
    assert any(each.tobytes() not in once for each in found)
    assert augment(IMAGE[..., :1], counter_rng.bits(6, 1)).shape == (24, 20, 1)
    np.testing.assert_array_equal(IMAGE, before)


def test_what_is_no_image_of_bytes_is_refused():
    augment = rand_augment.RandAugment()
    with pytest.raises(config.InputError, match='is given float32; put it before Normalize'):
        augment(IMAGE.astype(np.float32), counter_rng.bits(0))
    with pytest.raises(config.InputError, match='1 or 3 channels, but these have 4'):
        augment.shape((8, 8, 4))
