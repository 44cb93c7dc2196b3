"""What is asked of cuDNN, computed by JAX instead, against the plain way. cuDNN itself needs a GPU."""

import jax
import jax.numpy as jnp
import pytest
from kernels import cases

from bigmodel_jax.kernels import cudnn
from bigmodel_jax.kernels import kernel as kernels
from bigmodel_jax.kernels.context import PositionOrder, Scores
from bigmodel_jax.parallel import sharding

BY_XLA = cudnn.Cudnn(implementation='xla')
ATOL = 1e-5  # Float32 sums of 32 values of about 1, in another order.
VARIANTS = {
    'all': (Scores(), {}),
    'causal': (Scores(causal=True), {'kv_heads': 2}),
    'window': (Scores(causal=True, window=7), {}),
    'packed': (Scores(causal=True, window=9), {'packed': True}),
    'cross': (Scores(), {'keys': 48}),
}


@pytest.mark.parametrize('name', VARIANTS)
def test_the_arguments_say_what_is_meant(name):
    scores, shape = VARIANTS[name]
    inputs = cases.draw(**shape)
    cases.assert_close(cases.on_mesh(BY_XLA, inputs, scores), cases.plain(inputs, scores), ATOL)


def test_positions_in_any_order_become_a_mask():
    inputs = cases.draw()
    backwards = jnp.arange(32)[None, ::-1]
    context = inputs.context._replace(
        query_positions_BT=backwards, key_positions_BS=backwards, order=PositionOrder.UNKNOWN
    )
    inputs, scores = inputs._replace(context=context), Scores(causal=True, window=4)
    cases.assert_close(cases.on_mesh(BY_XLA, inputs, scores), cases.plain(inputs, scores), ATOL)


def test_each_device_computes_its_own_rows_and_heads():
    scores, mesh = Scores(causal=True), sharding.MeshShape(data=2, tensor=2)
    inputs = cases.draw(packed=True, kv_heads=2)
    cases.assert_close(cases.on_mesh(BY_XLA, inputs, scores, mesh=mesh), cases.plain(inputs, scores), ATOL)


def test_what_stands_in_its_way():
    inputs = cases.draw()
    kernel = cudnn.Cudnn()
    half = jax.ShapeDtypeStruct((2, 32, 8, 16), jnp.bfloat16)
    case = kernels.case_of(inputs.query(Scores(causal=True)))._replace(platform='gpu', q=half)
    assert kernel.unsupported_reason(case) is None
    assert kernel.unsupported_reason(case._replace(platform='tpu')) == 'cudnn needs an NVIDIA GPU'
    full = jax.ShapeDtypeStruct(half.shape, jnp.float32)
    assert kernel.unsupported_reason(case._replace(q=full)) == 'cudnn computes in bfloat16 or float16, not float32'
    assert kernel.unsupported_reason(case._replace(bias=True)) == 'cudnn has no bias'
    assert kernel.unsupported_reason(case._replace(scores=Scores(soft_cap=5.0))) == 'cudnn has no soft cap'
    assert 'for causal attention only' in kernel.unsupported_reason(case._replace(scores=Scores(window=5)))
    wide = jax.ShapeDtypeStruct((2, 32, 8, 256), jnp.bfloat16)
    assert 'up to 128, not 256' in kernel.unsupported_reason(case._replace(q=wide))
    odd = jax.ShapeDtypeStruct((2, 33, 8, 16), jnp.bfloat16)
    assert 'not 33 and 32' in kernel.unsupported_reason(case._replace(q=odd, segments=True))
    assert kernel.unsupported_reason(case._replace(q=odd, k=odd)) is None
