"""Mixtral: one layer of transformers' implementation, training on meshes of experts, and sizes beyond one machine.

oracles/mixtral_layer.npz holds the first layer of a MixtralForCausalLM of transformers 5.23.0: its weights under their
names there, the stream [2, 10, 32] before and after it in float64, the router's logits of both layers [20, 4] and the
loss for balancing them, which was weighted by 1.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from bigmodel_jax import config
from bigmodel_jax.kernels import context as contexts
from bigmodel_jax.layers import moe
from bigmodel_jax.models import decoder
from bigmodel_jax.optim import gradients
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import preparation
from bigmodel_jax.train import step as steps

ORACLES = pathlib.Path(__file__).parents[1] / 'oracles' / 'mixtral_layer.npz'
WIDTH, HIDDEN, HEADS, KV_HEADS, HEAD_WIDTH, EXPERTS = 32, 24, 4, 2, 8, 4


@pytest.fixture(scope='module')
def oracle():
    with np.load(ORACLES) as oracles:
        return dict(oracles)


def layer_params(oracle):
    def projection(name, heads):
        return oracle[f'self_attn.{name}_proj.weight'].T.reshape(WIDTH, heads, HEAD_WIDTH)

    gate_up_EFD = oracle['mlp.experts.gate_up_proj']
    return {
        'attention': {
            'query': projection('q', HEADS),
            'key': projection('k', KV_HEADS),
            'value': projection('v', KV_HEADS),
            'out': oracle['self_attn.o_proj.weight'].T.reshape(HEADS, HEAD_WIDTH, WIDTH),
        },
        'attention_norm': {'scale': oracle['input_layernorm.weight']},
        'ffn_norm': {'scale': oracle['post_attention_layernorm.weight']},
        'ffn': {
            'router': oracle['mlp.gate.weight'].T,
            'gate': gate_up_EFD[:, :HIDDEN].swapaxes(1, 2),
            'up': gate_up_EFD[:, HIDDEN:].swapaxes(1, 2),
            'down': oracle['mlp.experts.down_proj'].swapaxes(1, 2),
        },
    }


def test_a_layer_is_that_of_transformers(oracle):
    model = decoder.mixtral(
        vocab=97, width=WIDTH, layers=2, heads=HEADS, kv_heads=KV_HEADS, hidden=HIDDEN, experts=EXPERTS
    )
    here_BT = jnp.arange(10)[None]
    x_BTD = jnp.asarray(oracle['before'], jnp.float32)
    context = contexts.Context(here_BT, here_BT)
    y_BTD, _ = jax.jit(model.block.build().apply)({'params': layer_params(oracle)}, x_BTD, context)
    # Float32 in a stream of up to 3; a token with another expert or weight is off by more than 1e-2.
    np.testing.assert_allclose(y_BTD, oracle['after'], atol=1e-5)


def test_imbalance_is_that_of_transformers(oracle):
    """Theirs is one for the choices of all layers, and lets the used parts sum to the number of choices."""
    logits_BTE = jnp.asarray(np.stack([oracle['router_logits_0'], oracle['router_logits_1']]), jnp.float32)
    chosen_BTC, _ = moe.route(logits_BTE, 2)
    np.testing.assert_allclose(2 * moe.load_balancing_loss(logits_BTE, chosen_BTC), oracle['aux_loss'], rtol=1e-6)


def test_weight_of_the_imbalance_is_the_released_one():
    """With routers that say nothing, transformers' 0.02 x 2 is what all 32 layers add together."""
    np.testing.assert_allclose(decoder.MIXTRAL_8X7B.block.ffn.balance * decoder.MIXTRAL_8X7B.layers, 0.04)


# ---- training -----------------------------------------------------------------------------------------------------

STEPS = 20


def experiment(**changes):
    model = decoder.mixtral(
        vocab=tiny.VOCAB, width=16, layers=2, heads=4, kv_heads=2, hidden=16, experts=8, **{'block.ffn.balance': 0.05}
    )
    return config.vary(tiny.experiment(), {'model': model, **changes})


def metrics(experiment):
    """Metric -> its mean in each of STEPS steps."""
    run = preparation.build(experiment)
    with sharding.use(run.place):
        state, found = run.spec.init(), []
        assert state.model_state == {}
        step = steps.compile_step(experiment, run.spec, run.place)
        for number in range(STEPS):
            batch = run.place.put_batch(run.data.training(number), run.data.rows)
            state, traced = step(state, batch)
            found.append(traced.metrics)
    found = jax.device_get(found)
    return {name: np.array([each[name].total / each[name].count for each in found]) for name in found[0]}


@pytest.fixture(scope='module')
def alone():
    return metrics(experiment())


@pytest.mark.parametrize(
    'changes',
    [
        pytest.param({'mesh': sharding.MeshShape(data=1, expert=8)}, marks=pytest.mark.slow),
        pytest.param(
            {'mesh': sharding.MeshShape(data=1, expert=2, fsdp=2, tensor=2), 'model.stack.remat': 'full'},
            marks=pytest.mark.slow,
        ),
    ],
    ids=['expert', 'expert-fsdp-tensor'],
)
def test_eight_devices_train_as_one(alone, changes):
    found = metrics(experiment(**changes))
    # Float32 sums in another order, amplified over 20 updates.
    for name in ('nll', 'balance', 'loss'):
        np.testing.assert_allclose(found[name], alone[name], atol=1e-5)
    np.testing.assert_allclose(found['loss'], found['nll'] + found['balance'], atol=1e-5)
    assert found['nll'][-1] < found['nll'][0] - 0.2  # It learned, so that equality means something.


@pytest.mark.parametrize(
    ('z_loss', 'changes'),
    [
        pytest.param(
            0.01, {'mesh': sharding.MeshShape(data=1, expert=2, sequence=2, pipeline=2)}, marks=pytest.mark.slow
        ),
        pytest.param(
            0.0,
            {'mesh': sharding.MeshShape(data=1, expert=4, tensor=2), 'gradients': gradients.Microbatches(parts=2)},
            marks=pytest.mark.slow,
        ),
    ],
    ids=['pipeline', 'microbatches'],
)
def test_microbatches_train_as_one(z_loss, changes):
    """What routers are asked for is measured for each microbatch, so that it is not what the batch would be asked for:
    the imbalance is a product of two means, and microbatches with more tokens that count weigh more."""
    without = {'model.block.ffn.balance': 0.0, 'model.block.ffn.z_loss': z_loss}
    found, whole = (metrics(experiment(**without, **more)) for more in (changes, {}))
    np.testing.assert_allclose(found['nll'], whole['nll'], atol=1e-5)
