"""Augmentations are functions of (seed, epoch, example) alone; crops, colors and mixtures are as in their papers."""

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import counter_rng
from bigmodel_jax.data.vision import augmentations, drawn, images, mixing, transforms

SHAPE = (20, 30, 3)
IMAGE = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)


def keys(count):
    return counter_rng.bits(7, np.arange(count))


def gratings(**changes):
    source = drawn.Gratings(count=24, shape=SHAPE, classes=4)
    augment = (augmentations.RandomResizedCrop(size=(8, 8)), transforms.RandomFlip(), augmentations.ColorNoise())
    made = (*augment, transforms.Normalize())
    return images.Images(source=source, shape=(8, 8, 3), classes=4, batch=6, transforms=made, **changes)


@pytest.mark.parametrize('mixed', [None, mixing.Mixup(), mixing.CutMix()])
def test_a_batch_is_that_of_its_rows_read_apart_and_after_a_resume(mixed):
    """As hosts and workers read it: whatever else is read, before it or together with it."""
    data = gratings(mixing=mixed).build(3)
    whole = [data.training(step) for step in range(6)]  # More than an epoch.
    again = gratings(mixing=mixed).build(3)
    for step in (5, 2):
        for rows in (slice(0, 2), slice(2, 6), np.array([1, 4])):
            part = again.training(step, rows)
            for name, array in part.items():
                np.testing.assert_array_equal(array, whole[step][name][rows])
    first, second = data.training(0), data.training(4)  # Of two epochs.
    assert not np.array_equal(first['image'], second['image'])


def test_crops_have_the_area_and_the_proportions_that_are_asked_for():
    crop = augmentations.RandomResizedCrop(size=(4, 4), area=(0.3, 0.5), proportions=(0.5, 2.0))
    assert crop.shape(SHAPE) == (4, 4, 3)
    for key in keys(200):
        top, left, rows, columns = crop._part(SHAPE, key)
        assert 0 <= top <= top + rows <= 20
        assert 0 <= left <= left + columns <= 30
        assert 0.25 < rows * columns / 600 < 0.55  # Rounded to whole pixels.
        assert 0.45 < columns / rows < 2.3
    narrow = augmentations.RandomResizedCrop(size=(4, 4), proportions=(1.0, 1.0))
    assert narrow._part((5, 500, 3), keys(1)[0]) == (0, 247, 5, 5)  # No attempt fits.
    whole = augmentations.RandomResizedCrop(size=(4, 4), area=(1.0, 1.0), proportions=(1.5, 1.5))
    np.testing.assert_array_equal(whole(IMAGE, keys(1)[0]), transforms.Resize(size=(4, 4))(IMAGE, keys(1)[0]))


def test_the_shorter_side_is_resized_and_proportions_are_kept():
    assert augmentations.ResizeShorter(side=10)(IMAGE, keys(1)[0]).shape == (10, 15, 3)
    assert augmentations.ResizeShorter(side=10).shape((30, 20, 3)) == (15, 10, 3)


def test_color_noise_has_the_covariance_of_the_paper():
    """deviation^2 times P diag(variances^2) P^T, in units of the pixels, over 4,000 draws; one color for an image."""
    noise = augmentations.ColorNoise()
    changes = np.stack([noise(IMAGE[:2, :2], key) - IMAGE[:2, :2] for key in keys(4_000)])
    assert changes.std(axis=(1, 2)).max() < 1e-4
    components, variances = np.array(noise.components), np.array(noise.variances)
    expected = (25.5 * components.T * variances) @ (25.5 * components.T * variances).T
    np.testing.assert_allclose(np.cov(changes[:, 0, 0].T), expected, rtol=0.1)  # The deviation of a variance is 2%.
    with pytest.raises(config.InputError, match='but the images have 1; give as many of each'):
        noise.shape((4, 4, 1))


def test_mixup_is_the_weighted_mean():
    first, second = np.zeros((4, 4, 1), np.float32), np.ones((4, 4, 1), np.float32)
    found = [mixing.Mixup(alpha=0.5)(first, second, key) for key in keys(2_000)]
    shares = np.array([each.share for each in found])
    np.testing.assert_allclose([each.image[0, 0, 0] for each in found], shares)
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)); three deviations of 2,000 draws.
    np.testing.assert_allclose([shares.mean(), shares.var()], [0.5, 0.125], atol=0.025)


def test_cutmix_says_how_much_it_took():
    first, second = np.zeros((8, 12, 1), np.float32), np.ones((8, 12, 1), np.float32)
    found = [mixing.CutMix()(first, second, key) for key in keys(500)]
    np.testing.assert_allclose([each.image.mean() for each in found], [each.share for each in found], rtol=1e-6)
    assert 0.2 < np.mean([each.share for each in found]) < 0.5  # Less than 1/2, for what lies beyond the edge.
    assert not first.any()


def test_partners_are_labelled():
    data = gratings(mixing=mixing.Mixup())
    batch = data.open(0).training(1)
    partners = data.mixing.partners(data.build(0).ids(1), np.zeros(6, np.int64), 0, count=24)
    np.testing.assert_array_equal(batch['mixed_labels'], partners % 4)
    assert set(data.fields) == set(batch) - {'example_weights'}
