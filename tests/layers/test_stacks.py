"""How the layers are compiled changes nothing: scan, unrolled, and every rematerialisation, values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import drawing
from bigmodel_jax import config
from bigmodel_jax.kernels import context as contexts
from bigmodel_jax.layers import attention, blocks, ffn, norms, positions, stacks

LAYERS, WIDTH = 2, 16
BLOCK = blocks.Block(
    mixer=attention.Attention(heads=2, rotary=positions.Rotary()),
    ffn=ffn.Mlp(hidden=24, bias=True),
    residual=blocks.PreNorm(dropout=0.2),
)
X_BTD = np.random.default_rng(0).normal(size=(2, 5, WIDTH)).astype(np.float32)
CONTEXT = contexts.Context(np.arange(5)[None], np.arange(5)[None])


@functools.cache
def initial():
    return drawing.variables(stacks.Stack().build((BLOCK,), LAYERS), X_BTD, CONTEXT)['params']


def value_and_grad(stack):
    def total(params, x_BTD):
        rngs = {'dropout': jax.random.key(7)}
        y_BTD, _ = stack.build((BLOCK,), LAYERS).apply({'params': params}, x_BTD, CONTEXT, rngs=rngs)
        return jnp.sin(y_BTD).sum(), y_BTD

    (_, y_BTD), grads = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(initial(), X_BTD)
    return y_BTD, grads


@pytest.fixture(scope='module')
def expected():
    return value_and_grad(stacks.Stack())


@pytest.mark.parametrize(
    ('scan', 'remat'),
    [
        (True, 'full'),
        (True, ('query', 'post_mixer')),
        (False, 'none'),
        # What these keep is counted below in every run.
        *(
            pytest.param(True, policy, marks=pytest.mark.slow)
            for policy in stacks.POLICIES
            if policy not in ('none', 'full')
        ),
        pytest.param(False, 'full', marks=pytest.mark.slow),
    ],
)
def test_compilation_changes_nothing(scan, remat, expected):
    found = value_and_grad(stacks.Stack(scan=scan, remat=remat))
    # Float32: XLA may add in another order. Gradients are of order 1 to 10.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5), found, expected)


def products(remat):
    """The products in a program that makes the gradients of the stack, before the compiler merges any."""

    def total(params):
        return stacks.Stack(remat=remat).build((BLOCK,), LAYERS).apply({'params': params}, X_BTD, CONTEXT)[0].sum()

    return str(jax.make_jaxpr(jax.grad(total))(initial())).count('dot_general[')


def test_policies_save_the_products_that_they_say():
    """A block has six products with weights (without a gate) and two in attention, each with two in its gradient."""
    assert products('none') == 3 * 8
    assert products('full') == 3 * 8 + 7  # All but the last, whose value no gradient needs.
    assert products('dots') == 3 * 8 + 2  # Those of attention have the batch in common.
    assert products('all_dots') == 3 * 8
    assert products('projections') == 3 * 8 + 1  # The scores, for the softmax.


def test_stack_is_one_block_after_another():
    y_BTD, one = X_BTD, jax.jit(BLOCK.build().apply)
    for layer in range(LAYERS):
        params = jax.tree.map(lambda x: x[layer], initial()['layers'])  # noqa: B023
        y_BTD, _ = one({'params': params}, y_BTD, CONTEXT)
    whole, _ = jax.jit(stacks.Stack().build((BLOCK,), LAYERS).apply)({'params': initial()}, X_BTD, CONTEXT)
    np.testing.assert_allclose(whole, y_BTD, rtol=1e-5, atol=1e-5)


def test_layers_start_different():
    module = stacks.Stack().build((BLOCK,), LAYERS)
    query = jax.jit(module.init)(jax.random.key(0), X_BTD, CONTEXT)['params']['layers']['attention']['query'].value
    assert query.shape[0] == LAYERS
    assert np.abs(query[0] - query[1]).max() > 0.01


def after_block(kind, epsilon=1e-5):
    """The stream after a block, and by hand from its sublayers."""
    block = blocks.Block(mixer=attention.Attention(heads=2), ffn=ffn.Mlp(hidden=8), residual=kind)
    variables = drawing.variables(block.build(), X_BTD, CONTEXT)
    p = variables['params']

    def attend(y_BTD):
        return block.mixer.build().apply({'params': p['attention']}, y_BTD, CONTEXT)[0]

    def feed(y_BTD):
        return block.ffn.build().apply({'params': p['ffn']}, y_BTD)

    def norm(name, y_BTD):
        return norms.layer_norm(y_BTD, epsilon=epsilon) * p[name]['scale'] + p[name]['bias']

    if isinstance(kind, blocks.PreNorm):
        y_BTD = X_BTD + attend(norm('attention_norm', X_BTD))
        y_BTD = y_BTD + feed(norm('ffn_norm', y_BTD))
    else:
        y_BTD = norm('attention_norm', X_BTD + attend(X_BTD))
        y_BTD = norm('ffn_norm', y_BTD + feed(y_BTD))
    return block.build().apply(variables, X_BTD, CONTEXT)[0], y_BTD


@pytest.mark.parametrize('kind', [blocks.PreNorm(), blocks.PostNorm()])
def test_where_the_norms_stand(kind):
    found, expected = jax.jit(functools.partial(after_block, kind))()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_window_longer_than_the_data_is_refused():
    long = config.vary(BLOCK, {'mixer.window': 9})
    with pytest.raises(config.InputError, match='window=9 is longer than the data \\(5 tokens\\)'):
        long.check(WIDTH, 5)
