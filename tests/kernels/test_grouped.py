"""The grouped product against one product for each group in float64, forward and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel_jax.kernels import grouped
from bigmodel_jax.parallel import sharding

RNG = np.random.default_rng(0)
# Rows of each group: empty ones, one row, ends within and at the edge of a tile; the last leave rows without a group.
SIZES = [(256, 0, 100, 28), (0, 0, 384, 0), (1, 127, 128, 128), (50, 0, 77, 3), (0, 0, 0, 0)]
ROWS, INPUTS, OUTPUTS = 384, 128, 256


def drawn(dtype=np.float32):
    x_ND = RNG.normal(size=(ROWS, INPUTS)).astype(dtype)
    w_EDF = RNG.normal(size=(4, INPUTS, OUTPUTS)).astype(dtype) / INPUTS**0.5
    return x_ND, w_EDF, RNG.normal(size=(ROWS, OUTPUTS)).astype(dtype)


def reference(x_ND, w_EDF, grad_NF, sizes):
    """The product of the rows that have a group, and the gradients of its product with `grad_NF`."""
    x_ND, w_EDF, grad_NF = (np.asarray(each, np.float64) for each in (x_ND, w_EDF, grad_NF))
    group_N = np.repeat(np.arange(4), sizes)
    y_NF = np.stack([x @ w_EDF[e] for x, e in zip(x_ND, group_N)]) if sum(sizes) else np.zeros((0, OUTPUTS))
    x_grad_ND = np.stack([w_EDF[e] @ g for g, e in zip(grad_NF, group_N)]) if sum(sizes) else np.zeros((0, INPUTS))
    w_grad_EDF = np.zeros_like(w_EDF)
    for x, g, e in zip(x_ND, grad_NF, group_N):
        w_grad_EDF[e] += np.outer(x, g)
    return y_NF, x_grad_ND, w_grad_EDF


@pytest.mark.parametrize('sizes', SIZES, ids=str)
@pytest.mark.parametrize(
    'product', [grouped.grouped_matmul, functools.partial(grouped.megablox, interpret=True)], ids=['plain', 'megablox']
)
def test_each_group_meets_its_matrix(product, sizes):
    x_ND, w_EDF, grad_NF = drawn()
    y_NF, pull = jax.vjp(lambda x_ND, w_EDF: product(x_ND, w_EDF, jnp.array(sizes, jnp.int32)), x_ND, w_EDF)
    # Only the rows that have a group are defined; the others must not change the gradient of the matrices.
    found = (y_NF[: sum(sizes)], *pull(jnp.asarray(grad_NF)))
    found = (found[0], found[1][: sum(sizes)], found[2])
    for ours, theirs in zip(found, reference(x_ND, w_EDF, grad_NF, sizes)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)  # Sums of up to 384 float32 products.


def test_bfloat16_is_summed_in_float32():
    x_ND, w_EDF, grad_NF = drawn(jnp.bfloat16)
    y_NF = grouped.megablox(x_ND, w_EDF, jnp.array(SIZES[0], jnp.int32), interpret=True)
    assert y_NF.dtype == jnp.bfloat16
    expected = reference(x_ND, w_EDF, grad_NF, SIZES[0])[0]
    np.testing.assert_allclose(np.asarray(y_NF, np.float64), expected, rtol=2**-8, atol=1e-3)  # One rounding.


def test_tiles_divide_the_sizes_and_fit_into_fast_memory():
    for itemsize in (2, 4):
        for shape in ((32_768, 4_096, 14_336), (32_768, 4_096, 1_792), (1_152, 128, 384)):
            rows, inputs, outputs = tile = grouped._tiles(itemsize)(*shape)
            assert all(size % part == 0 for size, part in zip(shape, tile))
            held = 2 * itemsize * (rows * inputs + inputs * outputs + rows * outputs)
            assert held + 4 * max(rows * outputs, inputs * outputs) <= 12 * 2**20


def test_sizes_that_the_kernel_cannot_take():
    assert grouped.fits(256, 128, 384)
    assert not grouped.fits(250, 128, 384)
    assert not grouped.fits(256, 128, 96)


def test_a_cpu_takes_the_plain_product_on_any_mesh():
    x_ND, w_EDF, _ = drawn()
    sizes_E = jnp.array(SIZES[0], jnp.int32)
    with sharding.use(sharding.MeshShape(data=2).build()):
        traced = jax.make_jaxpr(grouped.grouped_matmul)(x_ND, w_EDF, sizes_E)
    assert 'ragged_dot' in str(traced)
    assert 'pallas_call' not in str(traced)
