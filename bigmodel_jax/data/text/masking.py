"""Which tokens of a row a masked language model predicts, and what its input has in their place."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import counter_rng


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masking:
    """A share of the tokens is predicted: in the input they are [MASK], or unchanged, or a random token.

    Source: Devlin et al. (2018), section 3.1 and table 8; drawn again in each epoch (Liu et al., 2019,
    arXiv:1907.11692, section 4.1), where the released code wrote ten copies of the data.
    """

    max_predictions: config.Positive  # N, of a row; the released code has 20 of 128 tokens, and 77 of 512.
    rate: config.PositiveFraction = 0.15  # Of the tokens of a row.
    mask: config.Fraction = 0.8  # Of those, as [MASK];
    same: config.Fraction = 0.1  # as they are;
    random: config.Fraction = 0.1  # as any token of the vocabulary.

    def __post_init__(self) -> None:
        if not math.isclose(self.mask + self.same + self.random, 1.0):
            raise config.InputError(f'masking: mask={self.mask}, same={self.same}, random={self.random} must sum to 1.')


class Masked(NamedTuple):
    """Some rows, masked."""

    inputs: np.ndarray  # [n, T] int32.
    positions: np.ndarray  # [n, N] int32: of the tokens that are predicted, ascending; 0 where there are fewer.
    targets: np.ndarray  # [n, N] int32: the original tokens at these positions.
    weights: np.ndarray  # [n, N] float32: 1, and 0 where there are fewer.


def masked(
    tokens: np.ndarray, special: np.ndarray, real: np.ndarray, *, how: Masking, keys: np.ndarray, ids: tuple[int, int]
) -> Masked:
    """Draws which tokens of each row are predicted, and what the input has in their place.

    Args:
      tokens: [n, T] int32.
      special: [n, T] bool: [CLS], [SEP] and padding, which are never predicted.
      real: [n, T] bool: not padding; the rate is of these.
      keys: [n] uint64: of the random numbers of each row.
      ids: of [MASK], and the size of the vocabulary.
    """
    n, T = tokens.shape
    order = np.where(special, 2.0, counter_rng.uniform(keys[:, None], 1, np.arange(T)))
    available = min(how.max_predictions, T)
    chosen = np.argsort(order, axis=1, kind='stable')[:, :available]
    wanted = np.clip(np.rint(real.sum(axis=1) * how.rate), 1, how.max_predictions)
    count = np.minimum(wanted, (~special).sum(axis=1)).astype(np.int64)
    is_real = np.arange(available) < count[:, None]
    # Ascending, with the padding last.
    chosen = np.sort(np.where(is_real, chosen, T), axis=1)
    positions = np.where(is_real, chosen, 0)
    targets = np.where(is_real, np.take_along_axis(tokens, positions, axis=1), 0)
    fate = counter_rng.uniform(keys[:, None], 2, positions)
    others = counter_rng.integers(ids[1], keys[:, None], 3, positions)
    seen = np.where(fate < how.mask, ids[0], np.where(fate < how.mask + how.same, targets, others))
    inputs = tokens.copy()
    rows = np.broadcast_to(np.arange(n)[:, None], positions.shape)
    inputs[rows[is_real], positions[is_real]] = seen[is_real]
    pad = ((0, 0), (0, how.max_predictions - available))
    arrays = (positions.astype(np.int32), targets.astype(np.int32), is_real.astype(np.float32))
    return Masked(inputs, *(np.pad(array, pad) for array in arrays))
