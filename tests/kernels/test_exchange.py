"""Attention on whole rows of fewer heads, between two exchanges, against the plain one."""

import jax
import pytest
from kernels import cases

from bigmodel_jax.kernels import exchange, splash
from bigmodel_jax.kernels import kernel as kernels
from bigmodel_jax.kernels.context import Query, Scores
from bigmodel_jax.layers import attention
from bigmodel_jax.parallel import sharding

ATOL = 1e-5  # Float32 sums of 64 values of about 1, in another order.
SEQUENCE_AND_TENSOR = sharding.MeshShape(data=2, sequence=2, tensor=2)


@pytest.mark.parametrize('name', ['all', 'soft cap', 'everything'])
def test_an_exchange_changes_nothing(name):
    scores, shape = cases.VARIANTS[name]
    inputs = cases.draw(queries=64, **shape)
    found = cases.on_mesh(exchange.AllToAll(local=attention.Plain()), inputs, scores, mesh=SEQUENCE_AND_TENSOR)
    cases.assert_close(found, cases.plain(inputs, scores), ATOL)


def test_a_fused_kernel_between_the_exchanges():
    kernel = exchange.AllToAll(local=splash.Splash(block=128, interpret=True))
    inputs, scores = cases.draw(queries=256, heads=4, kv_heads=4, packed=True), Scores(causal=True)
    found = cases.on_mesh(kernel, inputs, scores, mesh=SEQUENCE_AND_TENSOR)
    cases.assert_close(found, cases.plain(inputs, scores), 2 * ATOL)


def test_the_compiler_makes_all_to_alls():
    inputs = cases.draw(queries=64)
    place = sharding.MeshShape(data=1, sequence=8).build()
    with sharding.use(place):
        arrays = [
            jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place.sharding((None, 'length', None, None)))
            for x in inputs[:3]
        ]
        kernel = exchange.AllToAll(local=attention.Plain())
        text = jax.jit(lambda *qkv: kernel.attend(Query(*qkv, inputs.context))).lower(*arrays).compile().as_text()
    assert text.count(' all-to-all(') == 4  # Three there, one back.
    assert ' all-gather(' not in text


def test_what_stands_in_its_way():
    with sharding.use(SEQUENCE_AND_TENSOR.build()):
        inputs = cases.draw(queries=64, kv_heads=2)
        case = kernels.case_of(inputs.query(Scores()))
    assert (
        exchange.AllToAll().unsupported_reason(case)
        == '8 heads and 2 key/value heads do not both divide over 4 devices'
    )
    case = case._replace(k=case.q)
    assert exchange.AllToAll().unsupported_reason(case) is None
    assert exchange.AllToAll(local=splash.Splash()).unsupported_reason(case) == 'splash needs a TPU'
    assert 'a length that is split' in exchange.AllToAll().unsupported_reason(
        case._replace(shards={**case.shards, 'length': 1})
    )
