"""Attention around a ring of devices against the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernels import cases

from bigmodel_jax.kernels import kernel as kernels
from bigmodel_jax.kernels import ring
from bigmodel_jax.kernels.context import PositionOrder, Query, Scores
from bigmodel_jax.layers import attention
from bigmodel_jax.parallel import sharding

# Float32 sums of 32 to 64 values of about 1, in another order.
ATOL = 1e-5
BLOCKS = ring.Ring(block=4)  # Several on each device.
MESHES = [
    sharding.MeshShape(data=1, sequence=8),
    sharding.MeshShape(data=1, sequence=4, tensor=2),
    sharding.MeshShape(data=2, sequence=2, tensor=2),
]


# The other variants compute on one mesh.
@pytest.mark.parametrize(
    ('mesh', 'name'),
    [
        pytest.param(mesh, name, marks=[] if number == 2 or name == 'everything' else [pytest.mark.slow])
        for number, mesh in enumerate(MESHES)
        for name in cases.VARIANTS
    ],
)
def test_a_ring_computes_what_one_device_does(name, mesh):
    scores, shape = cases.VARIANTS[name]
    inputs = cases.draw(queries=64, **shape)
    found = cases.on_mesh(BLOCKS, inputs, scores, mesh=mesh)
    cases.assert_close(found, cases.plain(inputs, scores), ATOL)


def test_cross_attention_around_a_ring():
    inputs = cases.draw(queries=16, keys=40, packed=False)
    found = cases.on_mesh(BLOCKS, inputs, Scores(), mesh=MESHES[0])
    cases.assert_close(found, cases.plain(inputs, Scores()), ATOL)


def test_without_a_mesh_it_is_attention_in_blocks():
    scores, shape = cases.VARIANTS['everything']
    inputs = cases.draw(**shape)
    found = cases.outcome(BLOCKS, inputs, scores)
    cases.assert_close(found, cases.plain(inputs, scores), ATOL)


def test_positions_may_come_in_any_order():
    inputs = cases.draw(queries=64)
    places = jnp.asarray(np.random.default_rng(1).permutation(64)[None])
    context = inputs.context._replace(query_positions_BT=places, key_positions_BS=places, order=PositionOrder.UNKNOWN)
    inputs, scores = inputs._replace(context=context), Scores(causal=True, window=20)
    cases.assert_close(cases.on_mesh(BLOCKS, inputs, scores, mesh=MESHES[0]), cases.plain(inputs, scores), ATOL)


def test_a_query_that_sees_no_key_gets_zero_and_disturbs_nothing():
    inputs = cases.draw(queries=64, batch=1)
    segments_BT = jnp.where(jnp.arange(64)[None] < 10, 1, 2)
    context = inputs.context._replace(query_segments_BT=segments_BT, key_segments_BS=jnp.full((1, 64), 2))
    inputs = inputs._replace(context=context)
    y_BTHK, *grads = cases.on_mesh(BLOCKS, inputs, Scores(), mesh=MESHES[0])
    ignored = inputs._replace(dy_BTHK=np.where(np.arange(64)[None, :, None, None] < 10, 0, inputs.dy_BTHK))
    expected = cases.plain(ignored, Scores())
    np.testing.assert_array_equal(y_BTHK[:, :10], 0)
    cases.assert_close((y_BTHK[:, 10:], *grads), (expected[0][:, 10:], *expected[1:]), ATOL)


def test_inside_of_a_checkpointed_scan_of_mapped_stages():
    """As a pipeline of layers has it: vmap over stages, scan over layers, each computed again."""
    inputs = cases.draw(queries=16, kv_heads=2)
    stages = [jnp.stack([x, 0.5 * x]) for x in inputs[:3]]

    def gradients(kernel, **options):
        query = inputs.query(Scores(causal=True))

        def stack(q_BTHK, k_BSGK, v_BSGK):
            def one(x_BTHK, _):
                return x_BTHK + kernel.attend(query._replace(q_BTHK=x_BTHK, k_BSGK=k_BSGK, v_BSGK=v_BSGK)), None

            layer = jax.checkpoint(one)
            return jax.lax.scan(layer, q_BTHK, length=2)[0]

        def loss(*arrays):
            return (jax.vmap(stack, **options)(*arrays) ** 2).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*stages)

    expected = gradients(attention.Plain())
    with sharding.use(sharding.MeshShape(data=1, pipeline=2, sequence=4).build()):
        found = gradients(BLOCKS, spmd_axis_name='pipeline')
    for left, right in zip(found, expected):
        np.testing.assert_allclose(left, right, atol=5e-5)  # Gradients of up to 40, through two layers.


@pytest.mark.slow
def test_memory_of_a_device_falls_with_their_number():
    """Of a training step of attention: nothing that is saved or made has the length of the row."""
    inputs = cases.draw(batch=1, queries=8_192, heads=2, kv_heads=2, width=64)

    def temporary_bytes(devices):
        place = sharding.MeshShape(data=1, sequence=devices).build()
        with sharding.use(place):
            sharded = place.sharding((None, 'length', None, None))
            arrays = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharded) for x in inputs[:3]]

            def loss(q_BTHK, k_BSGK, v_BSGK):
                query = Query(q_BTHK, k_BSGK, v_BSGK, inputs.context, Scores(causal=True))
                return (ring.Ring(block=128).attend(query) ** 2).sum()

            step = jax.jit(jax.grad(loss, argnums=(0, 1, 2)), out_shardings=(sharded,) * 3)
            return step.lower(*arrays).compile().memory_analysis().temp_size_in_bytes

    two, four, eight = map(temporary_bytes, (2, 4, 8))
    assert two > four > eight
    assert eight < 0.5 * two  # A quarter, and what does not depend on the length: one block of scores.


def test_what_stands_in_its_way():
    with sharding.use(MESHES[0].build()):
        inputs = cases.draw(queries=64)
        case = kernels.case_of(inputs.query(Scores()))
    assert ring.Ring().unsupported_reason(case) is None
    assert ring.Ring().unsupported_reason(case._replace(bias=True)) == 'ring attention has no bias'
    assert 'dropout' in ring.Ring().unsupported_reason(case._replace(scores=Scores(dropout_rate=0.1)))
    short = case._replace(k=jax.ShapeDtypeStruct((2, 60, 8, 16), jnp.float32))
    assert ring.Ring().unsupported_reason(short) == '60 positions do not divide over 8 devices'
