"""Positions of patches: fixed ones, and learned ones for another resolution."""

import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.layers import image_positions


def test_sinusoids_are_of_the_column_and_of_the_row():
    found = image_positions.sinusoids((2, 3), width=8, base=10_000.0)
    for number, (row, column) in enumerate(np.ndindex(2, 3)):
        # Two frequencies: 1 and 1 / base.
        angles = [column, column / 10_000, row, row / 10_000]
        expected = np.concatenate([np.sin(angles[:2]), np.cos(angles[:2]), np.sin(angles[2:]), np.cos(angles[2:])])
        np.testing.assert_allclose(found[number], expected, atol=1e-7)
    module = image_positions.GridSinusoids(rows=2, columns=3).build()
    added = module.apply({}, jnp.zeros((1, 7, 8)), None, method='embed')
    np.testing.assert_array_equal(added[0], np.concatenate([np.zeros((1, 8)), found]))
    with pytest.raises(config.InputError, match='a width that 4 divides'):
        module.apply({}, jnp.zeros((1, 7, 6)), None, method='embed')


def test_interpolation_keeps_a_plane_and_the_class_token():
    """A table that is linear in row and column stays so, but for the edges, beyond which nothing is known."""
    rows, columns = np.mgrid[:4, :6].astype(np.float32)
    table = np.concatenate([[[7.0, 7.0]], np.stack([rows, columns], axis=-1).reshape(-1, 2)])
    found = np.asarray(image_positions.interpolate(table, before=(4, 6), after=(8, 12), extra=1))
    np.testing.assert_array_equal(found[0], [7, 7])
    grid = found[1:].reshape(8, 12, 2)[1:-1, 1:-1]
    y, x = np.mgrid[1:7, 1:11]
    np.testing.assert_allclose(grid, np.stack([(y + 0.5) / 2 - 0.5, (x + 0.5) / 2 - 0.5], axis=-1), atol=1e-6)
    same = image_positions.interpolate(table, before=(4, 6), after=(4, 6), extra=1)
    np.testing.assert_allclose(same, table, atol=1e-6)
