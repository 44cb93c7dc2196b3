"""The Frechet distance against SciPy's root and known normal distributions; its interval; precision and recall."""

import numpy as np
import pytest
from scipy import linalg

from bigmodel_jax import config
from bigmodel_jax.evaluate.vision.generation import frechet, precision_recall

RNG = np.random.default_rng(0)


def drawn(count, width, *, seed, shift=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(size=(count, width)) * scale + shift


def test_distance_is_that_of_the_general_root():
    for width in (1, 3, 17):
        mixing_DD = RNG.normal(size=(width, width))
        first, second = (
            frechet.fitted(drawn(40, width, seed=seed, shift=seed) @ mixing_DD * (1 + seed)) for seed in (1, 2)
        )
        root_DD = linalg.sqrtm(first.covariance_DD @ second.covariance_DD)
        wanted = np.square(first.mean_D - second.mean_D).sum() + np.trace(
            first.covariance_DD + second.covariance_DD - 2 * np.real(root_DD)
        )
        np.testing.assert_allclose(frechet.distance(first, second), wanted, rtol=1e-9)
        np.testing.assert_allclose(frechet.distance(second, first), wanted, rtol=1e-9)


def test_known_distances():
    covariance_DD = np.diag([1.0, 4.0, 0.0])  # Of rank 2, where a general root is unsafe.
    one = frechet.FeatureGaussian(np.zeros(3), covariance_DD)
    assert frechet.distance(one, one) < 1e-12
    shifted = frechet.FeatureGaussian(np.array([3.0, 0.0, 4.0]), covariance_DD)
    np.testing.assert_allclose(frechet.distance(one, shifted), 25.0, rtol=1e-12)
    wider = frechet.FeatureGaussian(np.zeros(3), covariance_DD * 9)
    np.testing.assert_allclose(frechet.distance(one, wider), (3 - 1) ** 2 * 5.0, rtol=1e-12)


def test_a_set_with_itself_and_a_planted_shift():
    features_ND = drawn(200, 8, seed=3)
    real = frechet.fitted(features_ND)
    assert frechet.estimate(features_ND, real).value < 1e-9
    np.testing.assert_allclose(frechet.estimate(features_ND + 0.5, real).value, 8 * 0.25, rtol=1e-9)


def test_the_interval_holds_the_mean_of_many_draws_and_the_bias_falls_with_the_number_of_samples():
    # |m|^2 + sum (s - 1)^2 = 4 * 0.09 + 4 * 0.04 in the limit of infinitely many samples.
    real, true = frechet.FeatureGaussian(np.zeros(4), np.eye(4)), 4 * 0.09 + 4 * 0.04
    found = [frechet.estimate(drawn(200, 4, seed=seed, shift=0.3, scale=1.2), real, blocks=10) for seed in range(100)]
    mean = np.mean([each.value for each in found])
    covered = np.mean([each.low <= mean <= each.high for each in found])
    assert 0.88 <= covered <= 1.0  # 95% +- 3 standard deviations of 100 draws.
    values, biases = np.array([each.value for each in found]), np.array([each.bias for each in found])
    error = values.std() / 10  # Of the mean.
    assert mean - true > 2 * error
    assert abs((values - biases).mean() - true) < 3 * error


def test_too_few_samples_are_refused():
    real = frechet.FeatureGaussian(np.zeros(8), np.eye(8))
    with pytest.raises(config.InputError, match=r'8 features are too few: a covariance of 8 features .* at least 9'):
        frechet.fitted(np.zeros((8, 8)))
    with pytest.raises(config.InputError, match='8 samples, without one of 5 blocks, are too few'):
        frechet.estimate(np.zeros((10, 8)), real, blocks=5)
    with pytest.raises(config.InputError, match='not a number'):
        frechet.fitted(np.full((20, 8), np.nan))


def test_precision_and_recall_of_sets_that_agree_and_that_have_nothing_in_common():
    real_ND, made_ND = drawn(300, 5, seed=1), drawn(280, 5, seed=2)
    assert precision_recall.precision_recall(real_ND, real_ND) == (1.0, 1.0)
    assert precision_recall.precision_recall(made_ND + 100, real_ND) == (0.0, 0.0)
    both = precision_recall.precision_recall(made_ND, real_ND)
    assert min(both) > 0.7  # Of one distribution.
    # A generator of half of what there is: what it makes is real, but the other half of the real ones is missed.
    half_ND = made_ND[made_ND[:, 0] > 0]
    half = precision_recall.precision_recall(half_ND, real_ND)
    assert half.precision > 0.7
    assert half.recall < both.recall - 0.2


def test_precision_is_what_its_definition_says():
    real_ND, made_ND = drawn(30, 2, seed=5), drawn(25, 2, seed=6, shift=0.7)
    distances = np.linalg.norm(real_ND[:, None] - real_ND, axis=-1)
    radii = np.sort(distances, axis=1)[:, 4]
    inside = [any(np.linalg.norm(point - each) <= radius for each, radius in zip(real_ND, radii)) for point in made_ND]
    assert precision_recall.precision_recall(made_ND, real_ND, neighbours=4).precision == np.mean(inside)
    with pytest.raises(config.InputError, match='neighbours=25: each of 25 samples'):
        precision_recall.precision_recall(made_ND, real_ND, neighbours=25)
