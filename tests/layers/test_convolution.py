"""Convolution, pooling and normalisation of channels against PyTorch in float64; tests/oracles/classics.npz."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.kernels.context import Context
from bigmodel_jax.layers import convolution, norms
from bigmodel_jax.parallel import sharding

ORACLES = pathlib.Path(__file__).parents[1] / 'oracles' / 'classics.npz'
FLOAT64 = {'rtol': 0, 'atol': 1e-12}


@pytest.fixture(scope='module')
def oracles():
    with np.load(ORACLES) as arrays:
        return dict(arrays)


@pytest.fixture(autouse=True)
def _in_float64():
    with jax.enable_x64(True):
        yield


def ours(images):
    return images.transpose(0, 2, 3, 1)


@pytest.mark.parametrize(
    ('name', 'layer'),
    [
        ('plain', convolution.Convolution(channels=6, bias=True)),
        ('strided', convolution.Convolution(channels=6, kernel=(5, 3), stride=2, bias=True)),
        ('grouped', convolution.Convolution(channels=12, stride=2, padding=0, groups=4, bias=True)),
        ('depthwise', convolution.Convolution(channels=8, groups=None, bias=True)),
    ],
)
def test_convolution_is_that_of_pytorch(oracles, name, layer):
    of = {part: oracles[f'convolution/{name}/{part}'] for part in ('weight', 'bias', 'y')}
    params = {'kernel': of['weight'].transpose(2, 3, 1, 0), 'bias': of['bias']}
    x_BYXZ = ours(oracles['convolution/x'])
    found = layer.build().apply({'params': params}, x_BYXZ)
    # PyTorch's strided case pads rows by 2 and columns by 1: half of a kernel of 5 x 3.
    np.testing.assert_allclose(found, ours(of['y']), **FLOAT64)
    assert layer.size(x_BYXZ.shape[1:3]) == found.shape[1:3]


@pytest.mark.parametrize(
    ('name', 'layer'),
    [
        ('max_3_2_1', convolution.MaxPool(padding=1)),
        ('max_3_2_0', convolution.MaxPool()),
        ('mean_2_2', convolution.AveragePool()),
    ],
)
def test_pool_is_that_of_pytorch(oracles, name, layer):
    x_BYXZ = ours(oracles['convolution/x'])
    found = layer.build().apply({}, x_BYXZ)
    np.testing.assert_allclose(found, ours(oracles[f'pool/{name}']), **FLOAT64)
    assert layer.size(x_BYXZ.shape[1:3]) == found.shape[1:3]


def test_local_response_norm_is_that_of_2012_and_not_that_of_pytorch(oracles):
    x_BYXZ = ours(oracles['lrn/x'].astype(np.float64))
    found = convolution.LocalResponseNorm().build().apply({}, x_BYXZ)
    np.testing.assert_allclose(found, ours(oracles['lrn/alexnet2012_n5_a1e-4_b.75_k2']), **FLOAT64)
    pytorch = convolution.LocalResponseNorm(alpha=1e-4 / 5).build().apply({}, x_BYXZ)
    np.testing.assert_allclose(pytorch, ours(oracles['lrn/torch_n5_a1e-4_b.75_k2']), **FLOAT64)
    assert np.abs(found - pytorch).max() > 1e-6
    halves = [convolution.LocalResponseNorm().build().apply({}, half) for half in np.split(x_BYXZ, 2, axis=-1)]
    grouped = convolution.LocalResponseNorm(groups=2).build().apply({}, x_BYXZ)
    np.testing.assert_array_equal(grouped, np.concatenate(halves, axis=-1))


def test_group_norm_is_that_of_pytorch(oracles):
    x_BYXZ = ours(oracles['convolution/x'])
    params = {'scale': np.ones(8), 'bias': np.zeros(8)}
    found = norms.GroupNorm(groups=4).build().apply({'params': params}, x_BYXZ)
    np.testing.assert_allclose(found, ours(oracles['norm/group_4']), **FLOAT64)
    with pytest.raises(config.InputError, match=r'GroupNorm\(groups=3\) does not divide the 8 channels'):
        norms.GroupNorm(groups=3).build().init(jax.random.key(0), x_BYXZ)


def test_batch_norm_is_that_of_pytorch(oracles):
    """Two batches of training, the running statistics after them, and an evaluation."""
    x_BYXZ, module = ours(oracles['convolution/x']), norms.BatchNorm(epsilon=1e-3).build()
    variables = {'params': {'scale': np.ones(8), 'bias': np.zeros(8)}}
    state = {'batch_stats': {'mean': np.zeros(8), 'variance': np.ones(8)}}
    for number, batch in enumerate((x_BYXZ, 2 * x_BYXZ + 1), 1):
        found, state = module.apply({**variables, **state}, batch, mutable=['batch_stats'])
        np.testing.assert_allclose(found, ours(oracles[f'norm/batch_{number}']), **FLOAT64)
    np.testing.assert_allclose(state['batch_stats']['mean'], oracles['norm/mean'], **FLOAT64)
    np.testing.assert_allclose(state['batch_stats']['variance'], oracles['norm/var'], **FLOAT64)
    found = module.apply({**variables, **state}, x_BYXZ)
    np.testing.assert_allclose(found, ours(oracles['norm/evaluated']), **FLOAT64)


def test_examples_without_weight_are_no_part_of_the_statistics(oracles):
    """What stands in a row of padding changes nothing, nan included, and a batch without it gives the same."""
    x_BYXZ, module = ours(oracles['convolution/x']), norms.BatchNorm().build()
    variables = {'params': {'scale': np.ones(8), 'bias': np.zeros(8)}}
    variables['batch_stats'] = {'mean': np.zeros(8), 'variance': np.ones(8)}
    padded = np.concatenate([x_BYXZ, np.full_like(x_BYXZ[:1], np.nan)])
    expected, after = module.apply(variables, x_BYXZ, mutable=['batch_stats'])
    found, also = module.apply(variables, padded, np.array([1.0, 1.0, 0.0]), mutable=['batch_stats'])
    np.testing.assert_allclose(found[:2], expected, **FLOAT64)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **FLOAT64), also, after)

    def total(x):
        found, _ = module.apply(variables, x, np.array([1.0, 1.0, 0.0]), mutable=['batch_stats'])
        return (found[:2] ** 3).sum()

    assert np.isfinite(jax.jit(jax.grad(total))(padded)).all()


def test_what_does_not_fit_is_refused():
    with pytest.raises(config.InputError, match='A convolution of 5 x 5 does not fit into an image of 2 x 9'):
        convolution.Convolution(channels=1, kernel=(5, 5), padding=0).size((2, 9))
    with pytest.raises(config.InputError, match='groups=3 needs numbers of channels that it divides'):
        convolution.Convolution(channels=6, groups=3).build().init(jax.random.key(0), np.zeros((1, 4, 4, 4)))


def test_a_convolution_of_rows_is_the_correlation_of_its_tokens_whatever_padding_follows():
    config_, rng = convolution.RowConvolution(widths=(2, 3)), np.random.default_rng(0)
    lengths, x_BTD = np.array([5, 3, 1]), rng.normal(size=(3, 7, 4))
    segments_BT = (np.arange(7) < lengths[:, None]).astype(np.int32)
    here = np.arange(7)[None]
    params = {
        f'filter{n}{part}': rng.normal(size=shape) for n in (2, 3) for part, shape in (('', (n, 4, 2)), ('_bias', (2,)))
    }
    context = Context(here, here, segments_BT, segments_BT)
    found, _ = config_.build().apply({'params': params}, x_BTD, context)
    for row, length in enumerate(lengths):
        wanted = np.zeros((7, 4))
        for place, n in enumerate((2, 3)):
            kernel, bias = params[f'filter{n}'], params[f'filter{n}_bias']
            padded = np.pad(x_BTD[row, :length], (((n - 1) // 2, n // 2), (0, 0)))
            for t in range(length):
                value = (padded[t : t + n, :, None] * kernel).sum(axis=(0, 1)) + bias
                wanted[t, 2 * place : 2 * place + 2] = np.maximum(value, 0)
        np.testing.assert_allclose(found[row], wanted, **FLOAT64)


def test_a_convolution_of_rows_needs_a_width_that_its_sizes_divide():
    with pytest.raises(config.InputError, match='among its 3 sizes of filters'):
        convolution.RowConvolution().check(64, 10)


def test_windows_side_by_side_are_those_of_a_window_that_moves():
    x_BYXZ = jnp.asarray(np.random.default_rng(0).standard_normal((2, 7, 9, 3)), jnp.float32)

    def moved(x_BYXZ):
        return jax.lax.reduce_window(x_BYXZ, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID')

    found, pull = jax.vjp(lambda x_BYXZ: convolution.max_pool(x_BYXZ, window=2, stride=2), x_BYXZ)
    wanted, other = jax.vjp(moved, x_BYXZ)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(pull(wanted)[0], other(wanted)[0])


def test_adaptive_windows_cover_the_image():
    """Windows of 5 rows in 3 parts are the rows 0 and 1, 1 to 3, and 3 and 4."""
    x_BYXZ = np.random.default_rng(0).standard_normal((2, 5, 4, 3))
    found = convolution.adaptive_average_pool(jnp.asarray(x_BYXZ, jnp.float32), (3, 2))
    rows, columns = ((0, 2), (1, 4), (3, 5)), ((0, 2), (2, 4))
    wanted = [[x_BYXZ[:, a:b, c:d].mean(axis=(1, 2)) for c, d in columns] for a, b in rows]
    np.testing.assert_allclose(found, np.array(wanted).transpose(2, 0, 1, 3), rtol=0, atol=1e-6)  # Float32's rounding.


@pytest.mark.parametrize(
    ('kernel', 'stride', 'padding'),
    [((3, 3), 1, (1, 1)), ((3, 3), 2, (1, 1)), ((1, 1), 2, (0, 0)), ((5, 3), 3, (0, 2))],
)
def test_gradients_on_a_mesh_of_cpus_are_those_that_jax_derives(kernel, stride, padding):
    rng = np.random.default_rng(0)
    x_BYXZ, kernel_YXZF = rng.standard_normal((4, 9, 8, 3)), rng.standard_normal((*kernel, 3, 5))

    def total(x_BYXZ, kernel_YXZF):
        return jnp.sin(convolution.convolve(x_BYXZ, kernel_YXZF, stride=stride, padding=padding)).sum()

    wanted = jax.grad(total, (0, 1))(x_BYXZ, kernel_YXZF)
    with sharding.use(sharding.MeshShape(data=2).build()):
        found = jax.jit(jax.grad(total, (0, 1)))(x_BYXZ, kernel_YXZF)
    for ours, theirs in zip(found, wanted):
        np.testing.assert_allclose(ours, theirs, **FLOAT64)
