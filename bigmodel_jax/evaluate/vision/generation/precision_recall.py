"""Precision and recall of generated images: how many look real, and how many of the real ones could be generated.

Source: Kynkaanniemi et al. (2019), arXiv:1904.06991, algorithm 1.
"""

from typing import NamedTuple

import numpy as np

from bigmodel_jax import config

ROWS = 512  # Whose distances to all others are held in memory at a time.


class PrecisionRecall(NamedTuple):
    """Both are shares between 0 and 1.

    Attributes:
      precision: of the generated samples that lie among the real ones.
      recall: of the real ones that lie among the generated.
    """

    precision: float
    recall: float


def precision_recall(made_ND: np.ndarray, real_ND: np.ndarray, *, neighbours: int = 3) -> PrecisionRecall:
    """Precision and recall of features of generated samples and of real ones.

    A point lies among a set where it is not farther from some point of the set than that point's n-th nearest
    neighbour within the set.

    Args:
      neighbours: n; the more, the larger are both.

    Raises:
      InputError: a set has no n-th neighbours.
    """
    fewest = min(len(made_ND), len(real_ND))
    if not 1 <= neighbours < fewest:
        raise config.InputError(
            f'neighbours={neighbours}: each of {fewest:,} samples has 1 to {fewest - 1:,} neighbours; use fewer, or '
            'more samples.'
        )
    made_ND, real_ND = made_ND.astype(np.float64), real_ND.astype(np.float64)
    return PrecisionRecall(
        precision=float(among(made_ND, real_ND, neighbours=neighbours).mean()),
        recall=float(among(real_ND, made_ND, neighbours=neighbours).mean()),
    )


def among(points_ND: np.ndarray, of_MD: np.ndarray, *, neighbours: int) -> np.ndarray:
    """[N] bool: whether each point lies among the set [M, D]."""
    radii_M = np.concatenate([_nearest(squares, neighbours) for squares in _squares(of_MD, of_MD)])
    return np.concatenate([(squares <= radii_M).any(axis=1) for squares in _squares(points_ND, of_MD)])


def _nearest(squares: np.ndarray, neighbours: int) -> np.ndarray:
    """The squared distance of the n-th neighbour of each row; the nearest of all is the point itself."""
    return np.partition(squares, neighbours, axis=1)[:, neighbours]


def _squares(points_ND: np.ndarray, of_MD: np.ndarray) -> list[np.ndarray] | map:
    """The squared distances of some points at a time to all of a set."""
    lengths_M = np.square(of_MD).sum(axis=1)

    def one(start: int) -> np.ndarray:
        rows = points_ND[start : start + ROWS]
        found = np.square(rows).sum(axis=1)[:, None] + lengths_M - 2 * rows @ of_MD.T
        return np.maximum(found, 0.0)

    return map(one, range(0, len(points_ND), ROWS))
