"""Augmentations are functions of (seed, epoch, example) alone; crops, colors and mixtures are as in their papers."""

import functools
import itertools

import grain
import jax
import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import counter_rng
from bigmodel_jax.data.vision import augmentations, drawn, images, mixing, rand_augment, transforms
from bigmodel_jax.train import prefetch

SHAPE = (20, 30, 3)
IMAGE = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)


def keys(count):
    return counter_rng.bits(7, np.arange(count))


CROP = (augmentations.RandomResizedCrop(size=(8, 8)), transforms.RandomFlip(), augmentations.ColorNoise())
AUGMENT = (
    rand_augment.RandAugment(),
    augmentations.RandomResizeShorter(sides=(10, 16)),
    transforms.RandomCrop(size=(9, 9)),
    *CROP,
)


def gratings(augment=CROP, **changes):
    source = drawn.Gratings(count=24, shape=SHAPE, classes=4)
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


def read_by(hosts, workers, start):
    """What hosts of so many workers read of the steps from `start` to 5, each step's rows put together."""
    parts = []
    for rows in np.array_split(np.arange(6), hosts):
        data = gratings(mixing=mixing.CutMix(), augment=AUGMENT).build(3)
        steps = grain.MapDataset.range(start, 6).map(functools.partial(prefetch.read, data, rows=rows))
        parts.append(list(prefetch.read_ahead(steps, workers)))
    return [{name: np.concatenate([part[name] for part in step]) for name in step[0]} for step in zip(*parts)]


def test_augmentation_does_not_depend_on_hosts_workers_or_a_resume():
    """Through the threads that read batches in training, over the end of an epoch; every transform of this room."""
    whole = read_by(hosts=1, workers=0, start=0)
    for hosts, (workers, start) in itertools.product((1, 2, 3), ((1, 4), (4, 0))):
        found = read_by(hosts, workers, start)
        jax.tree.map(np.testing.assert_array_equal, found, whole[start:])


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


def test_a_drawn_side_lies_between_the_two():
    resize = augmentations.RandomResizeShorter(sides=(10, 13))
    assert {resize(IMAGE, key).shape for key in keys(60)} == {(s, round(s * 1.5), 3) for s in (10, 11, 12, 13)}
    assert resize.shape(SHAPE) == (10, 15, 3)
    with pytest.raises(config.InputError, match='give the least and then the most'):
        augmentations.RandomResizeShorter(sides=(13, 10)).shape(SHAPE)


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
