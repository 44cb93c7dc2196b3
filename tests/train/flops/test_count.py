"""FLOPs are those of the formulas, at any depth, scanned or not, recomputed or not, on any mesh."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import tiny
from bigmodel_jax import config
from bigmodel_jax.models import resnet, vit
from bigmodel_jax.optim import gradients
from bigmodel_jax.parallel import sharding
from bigmodel_jax.plan.compiled import program
from bigmodel_jax.train.flops import count

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
    # The forward pass and both gradients, as much each: the zeros between spread inputs are no work.
    both = jax.grad(lambda x, kernel: convolution(x, kernel).sum(), argnums=(0, 1))
    assert matmul(both, (2, 8, 8, 4), (3, 3, 4, 6)) == 2 * 3 * (2 * 4 * 4 * 6) * (3 * 3 * 4)
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


def resnet_50_macs():
    """Multiplications of a forward pass at 224 x 224 pixels, by hand from table 1 of He et al.; of the first layer."""
    first = 112**2 * 7 * 7 * 3 * 64
    total, channels = first, 64
    for side, narrow, depth in ((56, 64, 3), (28, 128, 4), (14, 256, 6), (7, 512, 3)):
        before = side if narrow == 64 else 2 * side  # The stride is in the 3 x 3 convolution.
        total += before**2 * channels * narrow + side**2 * (9 * narrow**2 + 4 * narrow**2 + 4 * channels * narrow)
        total += (depth - 1) * side**2 * (4 * narrow**2 + 9 * narrow**2 + 4 * narrow**2)
        channels = 4 * narrow
    return total + 2_048 * 1_000, first


def vit_b16_macs():
    """Of a forward pass over 196 patches and a class token; of the first layer."""
    first = 196 * 768**2
    return first + 12 * (12 * 768**2 * 197 + 2 * 197**2 * 768) + 768 * 1_000, first


@pytest.mark.slow
@pytest.mark.parametrize(('model', 'by_hand'), [(resnet.RESNET_50, resnet_50_macs), (vit.VIT_B16, vit_b16_macs)])
def test_flops_of_image_models_are_those_counted_by_hand(model, by_hand):
    """A step has three times those of the forward pass, without the gradient of the images."""
    images = {'image': jax.ShapeDtypeStruct((2, 224, 224, 3), np.float32)}
    module = model.build()
    variables = nn.meta.unbox(jax.eval_shape(module.init, jax.random.key(0), images))
    params, state = variables.pop('params'), variables

    def total(params, state, batch):
        return module.apply({'params': params, **state}, batch)['logits'].sum()

    found = count.work(jax.jit(jax.grad(total)).trace(params, state, images).jaxpr).matmul
    macs, first = by_hand()
    assert found == 2 * 2 * (3 * macs - first)
