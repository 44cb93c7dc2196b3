"""Splash attention, interpreted on the CPU, against the plain one."""

import jax
import jax.numpy as jnp
import pytest
from jax.extend import core
from jax.interpreters import partial_eval
from kernels import cases

from bigmodel_jax.kernels import kernel as kernels
from bigmodel_jax.kernels import splash
from bigmodel_jax.kernels.context import Query, Scores
from bigmodel_jax.parallel import sharding

INTERPRETED = splash.Splash(block=128, interpret=True)
# Float32 sums of 256 values of about 1; the kernel takes its exponentials in another order.
ATOL = 2e-5
VARIANTS = {
    name: (scores._replace(window=scores.window and 20 * scores.window), {'heads': 2, 'kv_heads': 2, **shape})
    for name, (scores, shape) in cases.VARIANTS.items()
    if name not in ('grouped', 'everything')
} | {
    'grouped': (Scores(causal=True), {'heads': 4, 'kv_heads': 2}),
    'one for all': (Scores(causal=True), {'heads': 2, 'kv_heads': 1}),
    'everything': (Scores(causal=True, window=150, soft_cap=2.0), {'heads': 4, 'kv_heads': 2, 'packed': True}),
    'cross': (Scores(), {'heads': 2, 'kv_heads': 2, 'keys': 384}),
}


# 'everything' has each of the other variants' options.
OFTEN = ('bidirectional', 'one for all', 'everything', 'cross')


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=[] if name in OFTEN else [pytest.mark.slow]) for name in VARIANTS]
)
def test_splash_computes_what_the_plain_way_does(name):
    scores, shape = VARIANTS[name]
    inputs = cases.draw(batch=1, queries=256, **shape)
    cases.assert_close(cases.on_mesh(INTERPRETED, inputs, scores), cases.plain(inputs, scores), ATOL)


def test_cross_attention_with_segments():
    inputs = cases.draw(batch=1, queries=128, keys=256, heads=2, kv_heads=2)
    segments = jnp.where(jnp.arange(128)[None] < 50, 1, 2), jnp.where(jnp.arange(256)[None] < 99, 1, 2)
    context = inputs.context._replace(query_segments_BT=segments[0], key_segments_BS=segments[1])
    inputs = inputs._replace(context=context)
    cases.assert_close(cases.on_mesh(INTERPRETED, inputs, Scores()), cases.plain(inputs, Scores()), ATOL)


def test_two_kernels_beyond_the_fused_backward(monkeypatch):
    monkeypatch.setattr(splash, 'FUSED_BACKWARD_TOKENS', 128)
    scores, shape = VARIANTS['everything']
    inputs = cases.draw(batch=1, queries=256, **shape)
    cases.assert_close(cases.on_mesh(INTERPRETED, inputs, scores), cases.plain(inputs, scores), ATOL)


def test_each_device_computes_its_own_rows_and_heads():
    scores, mesh = Scores(causal=True), sharding.MeshShape(data=2, tensor=2)
    inputs = cases.draw(batch=2, queries=128, heads=4, kv_heads=2, packed=True)
    cases.assert_close(cases.on_mesh(INTERPRETED, inputs, scores, mesh=mesh), cases.plain(inputs, scores), ATOL)


def count(jaxpr, primitive):
    """How often a primitive stands in a jaxpr and those inside it."""
    inner = [part for equation in jaxpr.eqns for part in core.jaxprs_in_params(equation.params)]
    here = sum(equation.primitive.name == primitive for equation in jaxpr.eqns)
    return here + sum(count(part, primitive) for part in inner)


POLICIES = [
    (jax.checkpoint_policies.nothing_saveable, 3),
    (jax.checkpoint_policies.save_only_these_names('attention'), 2),
]


@pytest.mark.parametrize(('policy', 'calls'), POLICIES)
def test_the_forward_kernel_runs_once_where_its_result_is_saved(policy, calls):
    inputs = cases.draw(batch=2, queries=128, heads=2, kv_heads=2)

    def loss(q_BTHK, *keys_and_values):
        def layer(x_BTHK, _):
            return INTERPRETED.attend(Query(x_BTHK, *keys_and_values, inputs.context, Scores(causal=True))), None

        return jax.lax.scan(jax.checkpoint(layer, policy=policy, prevent_cse=False), q_BTHK, length=2)[0].sum()

    with sharding.use(sharding.MeshShape(data=2).build()):
        jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(*inputs[:3]).jaxpr
    # What no result needs is dropped when a program is compiled.
    used, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    assert count(used, 'pallas_call') == calls


BLOCKS = [(4096, 512, 512), (384, 512, 384), (640, 512, 128), (768, 512, 384), (4096, 256, 256)]


@pytest.mark.parametrize(('length', 'most', 'block'), BLOCKS)
def test_blocks_divide_the_length(length, most, block):
    assert splash.block_length(length, most) == block


def test_what_stands_in_its_way():
    inputs = cases.draw(queries=256)
    case = kernels.case_of(inputs.query(Scores(causal=True)))._replace(platform='tpu')
    kernel, q = splash.Splash(), case.q
    assert kernel.unsupported_reason(case) is None
    assert kernel.unsupported_reason(case._replace(platform='gpu')) == 'splash needs a TPU'
    assert kernel.unsupported_reason(case._replace(bias=True)) == 'splash has no bias'
    assert 'dropout' in kernel.unsupported_reason(case._replace(scores=Scores(dropout_rate=0.1)))
    odd = case._replace(q=jax.ShapeDtypeStruct((2, 100, 8, 16), q.dtype))
    assert kernel.unsupported_reason(odd) == 'splash needs lengths that are multiples of 128, not 100 and 256'
    assert 'positions are given without segments' in kernel.unsupported_reason(case._replace(contiguous=False))
    assert kernel.unsupported_reason(case._replace(contiguous=False, segments=True)) is None
    assert kernel.unsupported_reason(case._replace(contiguous=False, scores=Scores())) is None
    assert 'length is split' in kernel.unsupported_reason(case._replace(shards={**case.shards, 'length': 2}))
    assert '2 of batch do not divide over 4' in kernel.unsupported_reason(
        case._replace(shards={**case.shards, 'batch': 4})
    )
    assert 'multiples of 128, not 200' in splash.Splash(block=200).unsupported_reason(case)
