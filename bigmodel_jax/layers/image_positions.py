"""Positions of the patches of an image: fixed ones in two dimensions, and learned ones for another resolution."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bigmodel_jax import config
from bigmodel_jax.layers import positions

Grid = tuple[int, int]  # Rows and columns of patches.
EPSILON = 1e-6  # Against a division by 0 where a mask keeps nothing.


def sinusoids(grid: Grid, *, width: int, base: float, inclusive: bool = True) -> np.ndarray:
    """[rows * columns, D] float32, row by row: sines and cosines of the column, then of the row, a quarter each.

    The i-th of n frequencies is base^(-i / (n - 1)), or base^(-i / n) if the last is not to be 1 / base (`inclusive`),
    as in the code of He et al. (2021), arXiv:2111.06377, and of DiT.

    Source: Beyer et al. (2022), arXiv:2205.01580, and its code; after Chen et al. (2021), arXiv:2104.02057.
    """
    rows, columns = (axis.reshape(-1) for axis in np.mgrid[: grid[0], : grid[1]])
    count = width // 4
    frequencies = base ** -(np.arange(count) / max(count - 1 if inclusive else count, 1))
    angles = [place[:, None] * frequencies for place in (columns, rows)]
    return np.concatenate([part(each) for each in angles for part in (np.sin, np.cos)], axis=1).astype(np.float32)


def place_sinusoids(places: jax.Array, *, width: int, base: float) -> jax.Array:
    """[..., D]: interleaved sines and cosines of 2 pi times the row in the first half, of the column in the second.

    Args:
      places: [..., 2], the row and the column as shares of the height and of the width.

    Source: Carion et al. (2020), arXiv:2005.12872, section A.4, and its code.
    """
    half = width // 2
    periods = base ** (2 * (jnp.arange(half) // 2) / half).astype(places.dtype)
    angles = 2 * jnp.pi * places[..., None] / periods
    pairs = jnp.stack([jnp.sin(angles[..., 0::2]), jnp.cos(angles[..., 1::2])], axis=-1)
    return pairs.reshape(*places.shape[:-1], width)


def masked_places(mask_BYX: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """[B, Y, X, 2]: the row and the column of each cell, counted from 1 among those that the mask keeps, as shares.

    Source: the code of Carion et al. (2020), arXiv:2005.12872.
    """
    counts = [jnp.cumsum(mask_BYX, axis=axis, dtype=dtype) for axis in (1, 2)]
    rows_BYX, columns_BYX = counts
    rows_BYX = rows_BYX / (rows_BYX[:, -1:, :] + EPSILON)
    columns_BYX = columns_BYX / (columns_BYX[:, :, -1:] + EPSILON)
    return jnp.stack([rows_BYX, columns_BYX], axis=-1)


def interpolate(table: jax.Array, *, before: Grid, after: Grid, extra: int) -> jax.Array:
    """A learned table [extra + patches, D] for a grid of another size: bilinear between the patches.

    Args:
      extra: positions at the head of the table that are no patches, such as that of the class token; they stay.

    Source: Dosovitskiy et al. (2020), arXiv:2010.11929, section 3.2.
    """
    rest, D = table[extra:].reshape(*before, -1), table.shape[-1]
    found = jax.image.resize(rest, (*after, D), 'bilinear', antialias=False)
    return jnp.concatenate([table[:extra], found.reshape(-1, D)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridSinusoids(positions.Positions):
    """Fixed sinusoids of row and column; see sinusoids(). Positions that are no patches get nothing."""

    rows: config.Positive
    columns: config.Positive
    base: config.AboveOne = 10_000.0
    inclusive: bool = True  # The last frequency is 1 / base.

    def build(self, name: str | None = None) -> nn.Module:
        return GridSinusoidsModule(self, name=name)


class GridSinusoidsModule(positions.PositionsModule):
    """Owns nothing."""

    config: GridSinusoids

    def embed(self, x_BTD: jax.Array, positions_BT: jax.Array | None) -> jax.Array:
        c, D = self.config, x_BTD.shape[-1]
        assert positions_BT is None  # An image has all of its patches, in order.
        if D % 4:
            raise config.InputError(f'GridSinusoids need a width that 4 divides, but the model has {D}.')
        table = jnp.asarray(sinusoids((c.rows, c.columns), width=D, base=c.base, inclusive=c.inclusive), x_BTD.dtype)
        extra = x_BTD.shape[1] - len(table)
        return x_BTD + jnp.pad(table, ((extra, 0), (0, 0)))
