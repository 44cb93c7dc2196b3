"""Which tokens of a row a masked language model has to tell, and what it sees in their place."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import counter_rng


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masking:
    """A share of the tokens is to be told: some stand as [MASK], some as they are, some as another.

    Source: Devlin et al. (2018), section 3.1 and table 8; drawn anew in each pass over the data (Liu et al., 2019,
    arXiv:1907.11692, section 4.1), where the released code wrote ten copies of the data.
    """

    most: config.Positive  # N: of a row at most; the released code has 20 of 128, and 77 of 512.
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
    places: np.ndarray  # [n, N] int32: positions to tell, ascending; 0 where there are fewer.
    targets: np.ndarray  # [n, N] int32: the tokens that stood there.
    weights: np.ndarray  # [n, N] float32: 1 where there is something to tell.


def masked(
    tokens: np.ndarray, special: np.ndarray, real: np.ndarray, *, how: Masking, keys: np.ndarray, ids: tuple[int, int]
) -> Masked:
    """Draws what is to be told in each row.

    Args:
      tokens: [n, T] int32.
      special: [n, T] bool: [CLS], [SEP] and padding, which are never to be told.
      real: [n, T] bool: not padding; the rate is of these.
      keys: [n] uint64: of the random numbers of each row.
      ids: of [MASK], and the size of the vocabulary.
    """
    n, T = tokens.shape
    place = np.arange(T)
    order = np.where(special, 2.0, counter_rng.uniform(keys[:, None], 1, place))
    most = min(how.most, T)
    chosen = np.argsort(order, axis=1, kind='stable')[:, :most]
    wanted = np.clip(np.rint(real.sum(axis=1) * how.rate), 1, how.most)
    count = np.minimum(wanted, (~special).sum(axis=1)).astype(np.int64)
    there = np.arange(most) < count[:, None]
    # Ascending, those that are there first.
    chosen = np.sort(np.where(there, chosen, T), axis=1)
    places = np.where(there, chosen, 0)
    targets = np.where(there, np.take_along_axis(tokens, places, axis=1), 0)
    fate = counter_rng.uniform(keys[:, None], 2, places)
    others = counter_rng.below(ids[1], keys[:, None], 3, places)
    seen = np.where(fate < how.mask, ids[0], np.where(fate < how.mask + how.same, targets, others))
    inputs = tokens.copy()
    rows = np.broadcast_to(np.arange(n)[:, None], places.shape)
    inputs[rows[there], places[there]] = seen[there]
    pad = ((0, 0), (0, how.most - most))
    arrays = (places.astype(np.int32), targets.astype(np.int32), there.astype(np.float32))
    return Masked(inputs, *(np.pad(array, pad) for array in arrays))
