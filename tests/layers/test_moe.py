"""Routed experts against a loop over tokens in float64, against dense experts, and on every kind of mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import drawing
from bigmodel_jax import config
from bigmodel_jax.layers import moe
from bigmodel_jax.parallel import sharding

EXPERTS, HIDDEN, WIDTH = 8, 16, 16
RNG = np.random.default_rng(0)
X_BTD = RNG.normal(size=(8, 16, WIDTH)).astype(np.float32)
TARGET_BTD = RNG.normal(size=X_BTD.shape).astype(np.float32)
ROUTED = moe.Routed(experts=EXPERTS, hidden=HIDDEN, z_loss=0.001)


def built(routed=ROUTED):
    module = routed.build()
    return module, drawing.variables(module, X_BTD)['params']


def looped(p, x_BTD, top_k):
    """The layer's output, one token and one expert after the other."""
    p = {name: np.asarray(value, np.float64) for name, value in p.items()}
    y_BTD = np.zeros(x_BTD.shape)
    for place in np.ndindex(x_BTD.shape[:2]):
        x_D = x_BTD[place].astype(np.float64)
        logits_E = x_D @ p['router']
        chosen = np.argsort(-logits_E)[:top_k]
        weights = np.exp(logits_E[chosen]) / np.exp(logits_E[chosen]).sum()
        for e, weight in zip(chosen, weights):
            gate_F = x_D @ p['gate'][e]
            y_BTD[place] += weight * (gate_F / (1 + np.exp(-gate_F)) * (x_D @ p['up'][e])) @ p['down'][e]
    return y_BTD


@pytest.mark.parametrize('top_k', [1, 2, 8])
def test_equals_a_loop_over_tokens(top_k):
    """Every token is there, whatever its experts: none is dropped."""
    module, params = built(config.vary(ROUTED, {'top_k': top_k}))
    y_BTD = jax.jit(module.apply)({'params': params}, X_BTD)
    np.testing.assert_allclose(y_BTD, looped(params, X_BTD, top_k), atol=1e-5)


def test_no_token_is_dropped_when_all_choose_one_expert():
    module, params = built(config.vary(ROUTED, {'top_k': 1}))
    x_BTD = np.abs(X_BTD)
    params['router'] = params['router'].at[:, 3].set(10.0)
    y_BTD = jax.jit(module.apply)({'params': params}, x_BTD)
    np.testing.assert_allclose(y_BTD, looped(params, x_BTD, 1), atol=1e-5)


@pytest.mark.parametrize(('first', 'experts'), [(0, 8), (2, 3), (6, 2)])
def test_copies_lie_in_the_order_of_a_stable_sort(monkeypatch, first, experts):
    """For all experts and for a device's own; where the numbers are too large to be packed, too."""
    chosen_NC = np.argsort(RNG.normal(size=(50, 8)), axis=1)[:, :2].astype(np.int32)
    of = chosen_NC.reshape(-1) - first
    mine = (of >= 0) & (of < experts)
    expected = np.argsort(np.where(mine, of, experts), kind='stable')[: 50 * min(2, experts)]
    for largest in (2**31 - 1, 100):
        monkeypatch.setattr(moe, 'LARGEST', largest)
        found = moe.sort(jnp.asarray(chosen_NC), first, experts)
        np.testing.assert_array_equal(found.choice_N, expected)
        np.testing.assert_array_equal(found.sizes_E, np.bincount(of[mine], minlength=experts))
        copy = np.asarray(found.copy_NC).reshape(-1)
        np.testing.assert_array_equal(expected[copy[mine]], np.flatnonzero(mine))
        assert (copy[~mine] == len(expected)).all()


def dense(p, x_BTD):
    """All experts for all tokens, those not chosen with weight 0; nothing is sorted."""
    logits_BTE = x_BTD @ p['router']
    chosen_BTE = logits_BTE >= jnp.sort(logits_BTE, axis=-1)[..., -2:-1]
    weights_BTE = jax.nn.softmax(jnp.where(chosen_BTE, logits_BTE, -jnp.inf), axis=-1)
    hidden_BTEF = jax.nn.silu(jnp.einsum('BTD,EDF->BTEF', x_BTD, p['gate']))
    hidden_BTEF = hidden_BTEF * jnp.einsum('BTD,EDF->BTEF', x_BTD, p['up'])
    return jnp.einsum('BTEF,EFD,BTE->BTD', hidden_BTEF, p['down'], weights_BTE)


def gradients(function, params):
    return jax.jit(jax.grad(lambda p, x: (function(p, x) * TARGET_BTD).sum(), argnums=(0, 1)))(params, X_BTD)


def test_gradients_are_those_of_dense_experts():
    module, params = built()
    found = gradients(lambda p, x_BTD: module.apply({'params': p}, x_BTD), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, gradients(dense, params))


# ---- meshes -------------------------------------------------------------------------------------------------------

MESHES = [
    {'expert': 8},
    {'expert': 2, 'fsdp': 2, 'tensor': 2},
    {'fsdp': 2, 'sequence': 4},
]
# Axes that those above have in mixtures.
MORE_MESHES = [
    {'tensor': 8},
    {'fsdp': 8},
    {'expert': 2, 'sequence': 2, 'tensor': 2},
    {'expert': 4, 'data': 2},
]


def outcome(x_BTD=X_BTD, mesh=None, platform=''):
    """Output, what is sown, and gradients of both; `platform` is the one that the order of operations is made for."""
    module, params = built()

    def total(params, x_BTD):
        y_BTD, sown = module.apply({'params': params}, x_BTD, mutable=['losses'])
        losses = sown['losses']
        return (y_BTD * TARGET_BTD[:, : x_BTD.shape[1]]).mean() + sum(losses.values()), (y_BTD, losses)

    step = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    if mesh is None:
        return step(params, x_BTD)
    with sharding.use(dataclasses.replace(sharding.MeshShape(**mesh).build(), abstract_platform=platform)):
        return step(params, x_BTD)


@pytest.fixture(scope='module')
def alone():
    return outcome()


def assert_same(found, expected):
    # Float32 sums in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


@pytest.mark.parametrize(
    'mesh', [*MESHES, *[pytest.param(mesh, marks=pytest.mark.slow) for mesh in MORE_MESHES]], ids=str
)
def test_eight_devices_give_what_one_gives(alone, mesh):
    assert_same(outcome(mesh=mesh), alone)


def test_the_order_of_a_tpu_changes_no_number(alone):
    assert_same(outcome(mesh={'expert': 2, 'fsdp': 4}, platform='tpu'), alone)


def test_tokens_that_do_not_divide_over_the_devices():
    """As in decoding, one token at a time: every device then computes all of them."""
    x_BTD = X_BTD[:, :1]
    assert_same(outcome(x_BTD, {'expert': 2, 'sequence': 2, 'tensor': 2}), outcome(x_BTD))


def test_each_device_holds_its_experts_alone():
    place = sharding.MeshShape(data=1, expert=4, tensor=2).build()
    boxed = jax.eval_shape(ROUTED.build().init, jax.random.key(0), X_BTD)['params']
    specs = nn.get_partition_spec(boxed)
    for name in ('gate', 'up', 'down'):
        sharded = place.sharding(tuple(specs[name]))
        assert np.prod(sharded.shard_shape(boxed[name].value.shape)) == boxed[name].value.size // 8
        assert sharded.shard_shape(boxed[name].value.shape)[0] == EXPERTS // 4


def test_remat_keeps_gate_and_up_inside_the_experts():
    """Policies see the names through the map over devices: with both kept, two products fewer are computed again."""
    module, params = built()

    def products(policy, mesh):
        kept = jax.checkpoint(lambda p: (module.apply({'params': p}, X_BTD) ** 2).sum(), policy=policy)
        with sharding.use(sharding.MeshShape(**mesh).build()):
            return str(jax.make_jaxpr(jax.grad(kept))(params)).count('ragged_dot_general[')

    policies = jax.checkpoint_policies
    for mesh in ({'data': 1}, {'expert': 2, 'fsdp': 4}):
        everything = products(policies.nothing_saveable, mesh)
        assert products(policies.save_only_these_names('gate', 'up'), mesh) == everything - 2


# ---- what is asked of the objective -------------------------------------------------------------------------------


def test_imbalance_is_the_published_formula():
    logits_BTE = jnp.asarray(RNG.normal(size=(3, 5, 4)), jnp.float32)
    chosen_BTC, _ = moe.route(logits_BTE, 1)
    logits = np.asarray(logits_BTE, np.float64).reshape(15, 4)
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    f = [(logits.argmax(axis=-1) == e).mean() for e in range(4)]
    np.testing.assert_allclose(
        moe.load_balancing_loss(logits_BTE, chosen_BTC), 4 * (f * p.mean(axis=0)).sum(), rtol=1e-6
    )


@pytest.mark.parametrize('top_k', [1, 2, 3])
def test_imbalance_is_one_for_a_uniform_router_and_e_for_one_that_always_says_the_same(top_k):
    chosen_BTC = jnp.asarray(RNG.integers(0, 4, (2, 8, top_k)))
    np.testing.assert_allclose(moe.load_balancing_loss(jnp.zeros((2, 8, 4)), chosen_BTC), 1.0, rtol=1e-6)
    certain_BTE = 100.0 * jax.nn.one_hot(jnp.zeros((2, 8), jnp.int32), 4)
    np.testing.assert_allclose(moe.load_balancing_loss(certain_BTE, jnp.zeros((2, 8, 1), jnp.int32)), 4.0, rtol=1e-6)


def sown(routed):
    module, params = built(routed)
    params['router'] = jnp.zeros_like(params['router'])
    apply = jax.jit(functools.partial(module.apply, mutable=['losses']))
    return apply({'params': params}, X_BTD)[1].get('losses', {})


def test_losses_are_weighted():
    losses = sown(moe.Routed(experts=EXPERTS, hidden=HIDDEN, balance=0.25, z_loss=0.5))
    np.testing.assert_allclose(losses['balance'], 0.25, rtol=1e-6)
    np.testing.assert_allclose(losses['router_z'], 0.5 * np.log(EXPERTS) ** 2, rtol=1e-6)
    assert not sown(moe.Routed(experts=EXPERTS, hidden=HIDDEN, balance=0.0))


def test_losses_are_no_part_of_the_variables():
    assert set(ROUTED.build().init(jax.random.key(0), X_BTD)) == {'params'}


def test_more_choices_than_experts_are_refused():
    with pytest.raises(config.InputError, match=r'top_k=3 is more than ffn\.experts=2'):
        moe.Routed(experts=2, hidden=4, top_k=3).build()
