"""The Frechet distance between two sets of features, each taken for a normal distribution, and how sure it is.

Everything is computed in float64 on the host. Source: Heusel et al. (2017), arXiv:1706.08500, equation 6.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from bigmodel_jax import config


class FeatureGaussian(NamedTuple):
    """A normal distribution of features; fitted() makes one of samples."""

    mean_D: np.ndarray  # float64
    covariance_DD: np.ndarray


class FrechetEstimate(NamedTuple):
    """A distance of n samples, and what the jackknife says of it.

    Attributes:
      value: the distance of all samples, which is what papers report.
      bias: by how much it is too large because n is finite, estimated. The mean of a finite set is off, and each error
        adds to the distance, by about 1 / n. Values of different n must not be compared.
      low, high: the interval in which 95% of the values of other n samples of the same generator are expected to have
        their mean. It says nothing of the real images, which stay the same.
    """

    value: float
    bias: float
    low: float
    high: float


def fitted(features_ND: np.ndarray) -> FeatureGaussian:
    """The mean and the unbiased covariance of features.

    Raises:
      InputError: there are too few for a covariance of full rank, or a number is not finite.
    """
    check_count(*features_ND.shape, what='features')
    x_ND = features_ND.astype(np.float64)
    if not np.isfinite(x_ND).all():
        raise config.InputError(
            'Some features are infinite or not a number. Look for such numbers in the images, or use another extractor.'
        )
    mean_D = x_ND.mean(axis=0)
    centred_ND = x_ND - mean_D
    return FeatureGaussian(mean_D, centred_ND.T @ centred_ND / (len(x_ND) - 1))


def check_count(count: int, width: int, *, what: str) -> None:
    """Raises InputError if so many samples cannot have a covariance of full rank of so many features."""
    if count <= width:
        raise config.InputError(
            f'{count:,} {what} are too few: a covariance of {width:,} features has full rank only with more than '
            f'{width:,} samples, and the distance would say how few there are. Use at least {width + 1:,}, better ten '
            'times as many, or an extractor with fewer features.'
        )


def distance(first: FeatureGaussian, second: FeatureGaussian) -> float:
    """|m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)), at least 0.

    The eigenvalues of C1 C2 are those of C1^(1/2) C2 C1^(1/2), which is symmetric, so that no root of a general matrix
    is needed; those that rounding made negative count as 0.
    """
    root_DD = _root(first.covariance_DD)
    product_DD = root_DD @ second.covariance_DD @ root_DD
    values_D = np.linalg.eigvalsh((product_DD + product_DD.T) / 2)
    cross = np.sqrt(np.maximum(values_D, 0)).sum()
    means = np.square(first.mean_D - second.mean_D).sum()
    return max(float(means + np.trace(first.covariance_DD) + np.trace(second.covariance_DD) - 2 * cross), 0.0)


def _root(covariance_DD: np.ndarray) -> np.ndarray:
    """The symmetric root of a covariance."""
    values_D, vectors_DD = np.linalg.eigh(covariance_DD)
    return (vectors_DD * np.sqrt(np.maximum(values_D, 0))) @ vectors_DD.T


def estimate(features_ND: np.ndarray, real: FeatureGaussian, *, blocks: int = 20) -> FrechetEstimate:
    """The distance of samples from a real set, with its bias and a 95% interval, by the jackknife over blocks.

    The jackknife leaves out one block of samples at a time. A bootstrap would draw samples twice, which makes each of
    its distances too large: its interval mostly lies above the distance itself.

    Args:
      features_ND: of the samples, in an order that does not matter, such as that of independent draws.
      blocks: of equal sizes but for one sample.

    Raises:
      InputError: there are too few samples, even without one block, or `blocks` is less than 2.

    Source: Efron and Stein (1981), The jackknife estimate of variance; Chong and Forsyth (2020), arXiv:1911.07023, for
    the bias.
    """
    count, width = features_ND.shape
    if blocks < 2:
        raise config.InputError(f'blocks={blocks}: the jackknife leaves out one of at least 2 blocks.')
    check_count(count - -(-count // blocks), width, what=f'samples, without one of {blocks} blocks,')
    value = distance(fitted(features_ND), real)
    # Samples i, i + blocks, i + 2 blocks ... so that classes in a fixed order are spread over all blocks.
    owners_N = np.arange(count) % blocks
    others = np.array([distance(fitted(features_ND[owners_N != block]), real) for block in range(blocks)])
    bias = float((blocks - 1) * (others.mean() - value))
    deviation = float(np.sqrt((blocks - 1) / blocks * np.square(others - others.mean()).sum()))
    margin = float(stats.t.ppf(0.975, blocks - 1)) * deviation
    return FrechetEstimate(value, bias, max(value - margin, 0.0), value + margin)
