"""Attention against loops in NumPy and float64, with everything that decides which keys are seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import drawing
from bigmodel_jax import config
from bigmodel_jax.kernels import context as contexts
from bigmodel_jax.kernels import paths, splash
from bigmodel_jax.kernels.context import PositionOrder
from bigmodel_jax.layers import attention, kv_cache, positions
from bigmodel_jax.parallel import sharding

B, T, S, H, G, K = 2, 5, 7, 4, 2, 8
RNG = np.random.default_rng(0)
Q_BTHK = RNG.normal(size=(B, T, H, K)).astype(np.float32)
K_BSGK = RNG.normal(size=(B, S, G, K)).astype(np.float32)
V_BSGK = RNG.normal(size=(B, S, G, K)).astype(np.float32)
BIAS_BHTS = RNG.normal(size=(B, H, T, S)).astype(np.float32)


def reference(mask=None, bias=None, soft_cap=None, scale=K**-0.5):
    """One query at a time."""
    y = np.zeros((B, T, H, K))
    for b, t, h in np.ndindex(B, T, H):
        g = h // (H // G)  # Neighbouring heads share.
        scores = K_BSGK[b, :, g].astype(np.float64) @ Q_BTHK[b, t, h] * scale
        if bias is not None:
            scores = scores + bias[b, h, t]
        if soft_cap is not None:
            scores = soft_cap * np.tanh(scores / soft_cap)
        seen = np.ones(S, bool) if mask is None else mask[b, t]
        weights = np.where(seen, np.exp(scores), 0.0)
        y[b, t, h] = weights / weights.sum() @ V_BSGK[b, :, g]
    return y


MASK_BTS = RNG.random((B, T, S)) < 0.6
MASK_BTS[..., 0] = True
ATTEND = jax.jit(attention.dot_product_attention, static_argnames=('soft_cap', 'scale'))


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'mask_BTS': MASK_BTS},
        {'bias_BHTS': BIAS_BHTS},
        {'soft_cap': 0.7},
        {'scale': 1.0},
        {'mask_BTS': MASK_BTS, 'bias_BHTS': BIAS_BHTS, 'soft_cap': 0.7},
    ],
)
def test_attend_is_the_weighted_mean_of_the_paper(options):
    found = ATTEND(Q_BTHK, K_BSGK, V_BSGK, **options)
    expected = reference(**{name.partition('_B')[0]: value for name, value in options.items()})
    np.testing.assert_allclose(found, expected, atol=4e-6)  # Float32 sums of 8 values of about 1.


def test_with_another_scale_first_scores_are_as_large():
    """The queries are drawn so much smaller: for T5, whose scale is 1, by sqrt(K)."""

    def drawn(**changes):
        module = attention.Attention(heads=H, **changes).build()
        here = jnp.arange(T)[None]
        x_BTD = np.zeros((1, T, H * K), np.float32)
        return nn.meta.unbox(module.init(jax.random.key(0), x_BTD, contexts.Context(here, here)))['params']

    usual, t5 = drawn(), drawn(scores=attention.DotProduct(scale=1.0))
    np.testing.assert_allclose(t5['query'], usual['query'] * K**-0.5, rtol=1e-6)
    np.testing.assert_array_equal(t5['key'], usual['key'])


def test_one_bias_for_all_rows_is_broadcast():
    found = ATTEND(Q_BTHK, K_BSGK, V_BSGK, bias_BHTS=BIAS_BHTS[:1])
    expected = reference(bias=np.repeat(BIAS_BHTS[:1], B, axis=0))
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_query_that_sees_nothing_gives_finite_values_and_gradients():
    def total(q_BTHK, k_BSGK, v_BSGK):
        return attention.dot_product_attention(q_BTHK, k_BSGK, v_BSGK, mask_BTS=np.zeros((B, T, S), bool)).sum()

    grads = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(Q_BTHK, K_BSGK, V_BSGK)
    assert all(np.isfinite(grad).all() for grad in grads)


def seen(query, key, *, causal, window, segments):
    """Whether the query at one place sees the key at another."""
    near = window is None or abs(query - key) < window
    together = segments is None or segments[query] == segments[key]
    return (key <= query or not causal) and near and together


@pytest.mark.parametrize('causal', [True, False])
@pytest.mark.parametrize('window', [None, 3])
@pytest.mark.parametrize('segments', [None, [1, 1, 2, 2, 2, 0]])
def test_visible_keys(causal, window, segments):
    here = jnp.arange(6)[None]
    segments_BT = None if segments is None else jnp.array([segments])
    context = contexts.Context(here, here, segments_BT, segments_BT)
    mask_BTS = contexts.visible(context, causal=causal, window=window)
    expected = [[seen(t, s, causal=causal, window=window, segments=segments) for s in range(6)] for t in range(6)]
    if mask_BTS is None:
        assert np.all(expected)
    else:
        np.testing.assert_array_equal(mask_BTS[0], expected)


def test_positions_decide_what_is_past_not_places_in_the_array():
    context = contexts.Context(jnp.array([[5]]), jnp.arange(8)[None])
    np.testing.assert_array_equal(contexts.visible(context, causal=True, window=2)[0, 0], np.isin(range(8), [4, 5]))


def module_and_inputs(**changes):
    layer = attention.Attention(**{'heads': H, 'kv_heads': G, 'rotary': positions.Rotary(), 'bias': True, **changes})
    x_BTD = RNG.normal(size=(B, T, 16)).astype(np.float32)
    context = contexts.Context(np.arange(T)[None], np.arange(T)[None])
    module = layer.build()
    return module, drawing.variables(module, x_BTD, context), x_BTD, context


@pytest.mark.parametrize(
    'changes', [{}, {'window': 2}, {'rotary': None, 'kv_heads': None}, {'scores': attention.DotProduct(soft_cap=5.0)}]
)
def test_the_cache_changes_nothing(changes):
    module, variables, x_BTD, context = module_and_inputs(**changes)
    one = jax.jit(module.apply)
    whole, _ = one(variables, x_BTD, context)
    heads = changes.get('kv_heads', G) or H
    junk = np.full((B, T + 3, heads, 4), 1e3, np.float32)  # Slots of the future must not matter, whatever they hold.
    cache = kv_cache.KeyValueCache(junk, junk)
    for t in range(T):
        step = contexts.Context(np.full((B, 1), t), np.arange(T + 3)[None])
        y_B1D, cache = one(variables, x_BTD[:, t : t + 1], step, state=cache)
        np.testing.assert_allclose(y_B1D[:, 0], whole[:, t], atol=1e-5)


def test_cross_attention_reads_the_memory():
    module, variables, x_BTD, _ = module_and_inputs(causal=False, rotary=None)
    memory_BSD = RNG.normal(size=(B, S, 16)).astype(np.float32)
    context = contexts.Context(np.arange(T)[None], np.arange(S)[None])
    one = jax.jit(module.apply)
    y_BTD, cache = one(variables, x_BTD, context, memory_BSD=memory_BSD)
    swapped, _ = one(variables, x_BTD, context, memory_BSD=memory_BSD[:, ::-1])
    assert y_BTD.shape == x_BTD.shape
    assert cache is None
    np.testing.assert_allclose(y_BTD, swapped, atol=1e-5)  # A set of keys, without positions.


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'heads': 3}, 'heads=3 does not divide the model width 16'),
        ({'heads': 4, 'kv_heads': 3}, 'kv_heads=3 does not divide attention.heads=4'),
        ({'heads': 4, 'head_width': 3, 'rotary': positions.Rotary()}, 'even width, but each has 3'),
    ],
)
def test_impossible_heads_are_refused(changes, message):
    with pytest.raises(config.InputError, match=message):
        attention.Attention(**changes).width_of_head(16)


# ---- on a mesh --------------------------------------------------------------------------------------------------

MESHES = {
    'sequence 4 x tensor 2': sharding.MeshShape(data=1, sequence=4, tensor=2),
    'sequence 2 x data 2 x tensor 2': sharding.MeshShape(data=2, sequence=2, tensor=2),
    'tensor 8': sharding.MeshShape(data=1, tensor=8),
}
WAYS = {
    'sequence 4 x tensor 2': 'ring of 4 (CPU, causal, packed), since 8 heads and 2 key/value heads',
    'sequence 2 x data 2 x tensor 2': 'ring of 2 (CPU, causal, packed), since 8 heads and 2 key/value heads',
    'tensor 8': 'plain, since a CPU has no fused kernel',
}


def packed_layer(**changes):
    """A layer with two key/value heads, and packed rows of 16 tokens."""
    layer = attention.Attention(heads=8, kv_heads=2, rotary=positions.Rotary(), bias=True, **changes).build()
    x_BTD = RNG.normal(size=(B, 16, 16)).astype(np.float32)
    segments_BT = jnp.asarray([[1] * 5 + [2] * 11, [1] * 12 + [2] * 3 + [0]])
    positions_BT = jnp.asarray([[*range(5), *range(11)], [*range(12), *range(3), 0]])
    return layer, x_BTD, contexts.Context(positions_BT, positions_BT, segments_BT, segments_BT)


def loss_and_gradients(layer, variables, x_BTD, context):
    def loss(variables):
        return (layer.apply(variables, x_BTD, context)[0] ** 2).sum()

    return jax.jit(jax.value_and_grad(loss))(variables)


def assert_close(found, expected):
    """Sums of hundreds of products, in float32 and in another order: errors are relative to the largest."""
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(np.abs(expected).max(), 1))


@pytest.mark.parametrize(
    'name',
    [
        pytest.param('sequence 4 x tensor 2', marks=pytest.mark.slow),
        'sequence 2 x data 2 x tensor 2',
        'tensor 8',
    ],
)
def test_the_mesh_changes_nothing(name):
    """Also where there are fewer key/value heads than devices along the tensor axis."""
    layer, x_BTD, context = packed_layer()
    variables = drawing.variables(layer, x_BTD, context)
    expected = loss_and_gradients(layer, variables, x_BTD, context)
    with sharding.use(MESHES[name].build()), paths.noted() as taken:
        found = loss_and_gradients(layer, variables, x_BTD, context)
    assert taken[''].startswith(WAYS[name])
    jax.tree.map(assert_close, found, expected)


@pytest.mark.parametrize('kv_heads', [2, 8])
def test_weights_of_too_few_key_value_heads_are_not_split(kv_heads):
    layer = attention.Attention(heads=8, kv_heads=kv_heads, rotary=positions.Rotary()).build()
    with sharding.use(sharding.MeshShape(data=2, tensor=4).build()) as place:
        here = jnp.arange(4)[None]
        inputs = jnp.zeros((2, 4, 16)), contexts.Context(here, here)
        boxed = jax.eval_shape(layer.init, jax.random.key(0), *inputs)['params']
        for name in ('key', 'value'):
            place.check(name, boxed[name].value.shape, boxed[name].names)
        assert place.spec(boxed['key'].names)[1] == (None if kv_heads == 2 else 'tensor')
        assert place.spec(boxed['query'].names)[1] == 'tensor'


def test_heads_that_do_not_divide_are_refused():
    layer, x_BTD = attention.Attention(heads=6, head_width=4).build(), jnp.zeros((2, 8, 16))
    here = jnp.arange(8)[None]
    with (
        sharding.use(sharding.MeshShape(data=2, tensor=4).build()),
        pytest.raises(config.InputError, match=r"axis 'heads' of 6 does not divide over tensor = 4"),
    ):
        jax.eval_shape(layer.init, jax.random.key(0), x_BTD, contexts.Context(here, here))


def test_decoding_is_plain_whatever_is_forced():
    layer = attention.Attention(heads=4, kernel=splash.Splash()).build()
    cache = kv_cache.KeyValueCache(*[jnp.zeros((1, 8, 4, 4))] * 2)
    context = contexts.Context(jnp.zeros((1, 1), int), jnp.arange(8)[None])
    variables = drawing.variables(layer, jnp.zeros((1, 1, 16)), context, state=cache)
    y_BTD, _ = jax.jit(layer.apply)(variables, jnp.ones((1, 1, 16)), context, state=cache)
    assert np.isfinite(y_BTD).all()
    with pytest.raises(config.InputError, match='splash needs a TPU'):
        layer.apply(variables, jnp.ones((1, 1, 16)), context)


def test_a_forced_kernel_computes_the_layer():
    forced = attention.Attention(heads=2, window=150, kernel=splash.Splash(interpret=True))
    x_BTD, here = RNG.normal(size=(1, 256, 16)).astype(np.float32), jnp.arange(256)[None]
    context = contexts.Context(here, here, order=PositionOrder.of(None))
    variables = drawing.variables(forced.build(), x_BTD, context)
    free = config.vary(forced, {'kernel': None}).build()
    found, expected = (loss_and_gradients(layer, variables, x_BTD, context) for layer in (forced.build(), free))
    jax.tree.map(assert_close, found, expected)
