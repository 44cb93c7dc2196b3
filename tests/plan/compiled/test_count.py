"""FLOPs are those of the formulas, at any depth, scanned or not, recomputed or not, on any mesh."""

import math

import jax
import jax.numpy as jnp
import pytest

import tiny
from bigmodel_jax import config
from bigmodel_jax.optim import gradients
from bigmodel_jax.parallel import sharding
from bigmodel_jax.plan.compiled import count, program

ROWS, T, V, D = 8, tiny.LENGTH, tiny.VOCAB, 16
N = ROWS * T


def counted(**changes) -> count.Work:
    changes = {name.replace('__', '.'): value for name, value in changes.items()}
    experiment = config.vary(tiny.experiment(), changes)
    devices = jax.devices()[: math.prod(experiment.mesh.sizes(8).values())]
    return count.work(program.trace(experiment, devices).program.jaxpr)


def forward(layers: int) -> int:
    """Of the matrix products of a layer 2 x 12 D^2 a token, of attention 4 T D, of the output matrix 2 V D."""
    return N * (layers * (24 * D**2 + 4 * T * D) + 2 * V * D)


@pytest.mark.parametrize('scan', [True, False])
@pytest.mark.parametrize('layers', [1, 3, 7])
def test_a_step_is_three_forward_passes(layers, scan):
    work = counted(model__layers=layers, model__stack__scan=scan)
    assert work.matmul == 3 * forward(layers)  # The formula is exact for this model; the contract allows 2%.
    assert work.repeated == 0
    assert work.matmul < work.total < 1.3 * work.matmul


@pytest.mark.parametrize('scan', [True, False])
def test_what_is_computed_again_is_counted_apart(scan):
    plain = counted(model__layers=3, model__stack__scan=scan)
    again = counted(model__layers=3, model__stack__scan=scan, model__stack__remat='full')
    assert again.matmul - again.repeated == plain.matmul
    # A layer but its last product, whose result nobody asks for twice.
    assert again.repeated == 3 * (N * (24 * D**2 + 4 * T * D) - 2 * N * D * 4 * D)


@pytest.mark.parametrize(
    'change', [{'gradients': gradients.Microbatches(parts=4)}, {'mesh': sharding.MeshShape(data=4, fsdp=2)}]
)
def test_neither_microbatches_nor_the_mesh_change_the_sum(change):
    assert counted(**change).matmul == counted().matmul


def matmul(function, *shapes, dtype=jnp.float32) -> float:
    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    return count.work(jax.jit(function).trace(*arguments).jaxpr).matmul


def test_operations_agree_with_their_formulas():
    def convolution(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

    assert matmul(convolution, (2, 8, 8, 4), (3, 3, 4, 6)) == 2 * (2 * 4 * 4 * 6) * (3 * 3 * 4)
    sizes = jnp.array([3, 5, 4], jnp.int32)
    assert matmul(lambda x, w: jax.lax.ragged_dot(x, w, sizes), (12, 16), (3, 16, 32)) == 2 * 12 * 16 * 32
    branches = [lambda x: x @ x, lambda x: x @ x @ x]
    assert matmul(lambda x: jax.lax.switch(x[0, 0].astype(int), branches, x), (4, 4)) == 2 * 2 * 4**3


def test_nested_scans_multiply():
    def outer(x):
        def body(x, _):
            return jax.lax.scan(lambda x, w: (x @ w, None), x, jnp.ones((5, 4, 4)))[0], None

        return jax.lax.scan(body, x, None, length=3)[0]

    assert matmul(outer, (4, 4)) == 3 * 5 * 2 * 4**3


@pytest.mark.parametrize(
    ('mask', 'share'),
    [
        (lambda splash: splash.FullMask((512, 512)), 1.0),
        # Of 4 x 4 blocks the 10 on and below the diagonal.
        (lambda splash: splash.CausalMask((512, 512)), 10 / 16),
        # Each row of blocks sees its own and the one before.
        (lambda splash: splash.LocalMask((512, 512), window_size=(127, 0), offset=0), 7 / 16),
    ],
)
def test_a_kernel_is_counted_where_its_mask_lets_it_work(mask, share):
    from jax.experimental.pallas.ops.tpu import splash_attention

    sizes = splash_attention.BlockSizes(**dict.fromkeys(('block_q', 'block_kv', 'block_kv_compute'), 128))
    multi_head = splash_attention.MultiHeadMask([mask(splash_attention)] * 2)
    kernel = splash_attention.make_splash_mha(multi_head, block_sizes=sizes, head_shards=1, q_seq_shards=1)
    flops = matmul(kernel, *[(2, 512, 128)] * 3)
    assert flops == pytest.approx(share * 4 * 2 * 512 * 512 * 128, rel=0.02)  # The rest are sums within the blocks.
