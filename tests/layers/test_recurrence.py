"""The gated linear recurrence against a loop in NumPy and float64; its state, documents and padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import drawing
from bigmodel_jax import config
from bigmodel_jax.kernels.context import Context
from bigmodel_jax.layers import attention, blocks, ffn, recurrence, stacks
from bigmodel_jax.parallel import sharding

B, T, D, H = 2, 9, 8, 2
LAYER = recurrence.GatedRecurrence(heads=H)
X_BTD = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
HERE = np.arange(T)[None]
CONTEXT = Context(HERE, HERE)
# Float32 sums of 8 values of about 1, then products of up to 9 factors in the order of a parallel scan.
ATOL = 2e-5


@functools.cache
def variables():
    return drawing.variables(LAYER.build(), X_BTD, CONTEXT)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def reference(params, x_TD):
    """One row, one step at a time: equations 1 to 4 of the paper, in the dtype of the parameters."""
    p, taps = params, params['taps']
    inputs = [np.zeros(taps.shape[1:])] * (len(taps) - 1)
    h, found = np.zeros(taps.shape[1:]), []
    for x in x_TD:
        inputs.append(np.tensordot(x, p['branch'], 1))
        u = p['taps_bias'] + sum(taps[n] * inputs[-1 - n] for n in range(len(taps)))
        r, i = (
            sigmoid(np.stack([u[head] @ p[name][head] for head in range(H)]) + p[f'{name}_bias'])
            for name in ('recurrence_gate', 'input_gate')
        )
        a = np.exp(-8 * r * np.log1p(np.exp(p['decay_bias'])))
        h = a * h + np.sqrt(1 - a**2) * (i * u)
        found.append(np.tensordot(gelu(np.tensordot(x, p['gate'], 1)) * h, p['out'], 2))
    return np.stack(found)


def float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def test_it_is_the_recurrence_of_the_paper():
    found, state = jax.jit(LAYER.build().apply)(variables(), X_BTD, CONTEXT)
    assert state is None
    expected = [reference(float64(variables())['params'], row) for row in X_BTD.astype(np.float64)]
    np.testing.assert_allclose(found, expected, atol=ATOL)


def test_its_gradients_are_those_of_the_paper():
    """Against central differences of the loop in float64, along a random direction for each parameter."""
    weights_BTD = np.random.default_rng(1).normal(size=X_BTD.shape)
    params = variables()['params']

    def total(params):
        return (LAYER.build().apply({'params': params}, X_BTD, CONTEXT)[0] * weights_BTD).sum()

    grads, exact = float64(jax.jit(jax.grad(total))(params)), float64(params)
    rng = np.random.default_rng(2)
    for name in params:
        direction = rng.normal(size=exact[name].shape)

        def along(size, name=name, direction=direction):
            moved = exact | {name: exact[name] + size * direction}
            return sum((reference(moved, row) * w).sum() for row, w in zip(X_BTD.astype(np.float64), weights_BTD))

        slope = (along(1e-5) - along(-1e-5)) / 2e-5
        # Float32, relative to a sum of up to 64 terms of about 1.
        np.testing.assert_allclose((grads[name] * direction).sum(), slope, rtol=2e-4, atol=2e-3, err_msg=name)


def read(pieces, context=lambda start, stop: Context(HERE[:, start:stop], HERE[:, start:stop])):
    """The outputs of reading a batch in pieces, and the last state."""
    apply, state, found = jax.jit(LAYER.build().apply), LAYER.initial_state(B, T, width=D, dtype='float32'), []
    for start, stop in pieces:
        y_BTD, state = apply(variables(), X_BTD[:, start:stop], context(start, stop), state)
        found.append(y_BTD)
    return np.concatenate(found, axis=1), state


@pytest.mark.parametrize('pieces', [[(0, 4), (4, T)], [(t, t + 1) for t in range(T)]], ids=['halves', 'steps'])
def test_reading_in_pieces_is_reading_at_once(pieces):
    whole, _ = jax.jit(LAYER.build().apply)(variables(), X_BTD, CONTEXT)
    (found, state), (_, expected) = read(pieces), read([(0, T)])
    np.testing.assert_allclose(found, whole, atol=ATOL)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=ATOL), state, expected)


def test_the_future_cannot_change_the_past():
    apply = jax.jit(LAYER.build().apply)
    changed = X_BTD.copy()
    changed[:, 5:] += 1
    found, expected = (apply(variables(), x_BTD, CONTEXT)[0] for x_BTD in (changed, X_BTD))
    np.testing.assert_array_equal(found[:, :5], expected[:, :5])
    assert np.abs(found[:, 5:] - expected[:, 5:]).min(axis=-1).max() > 1e-3


def test_documents_of_a_row_do_not_meet():
    segments_BT = np.array([[1] * 4 + [2] * 5, [1] * 6 + [2] * 3])
    context = Context(HERE, HERE, segments_BT, segments_BT)
    found, _ = jax.jit(LAYER.build().apply)(variables(), X_BTD, context)
    for row, split in ((0, 4), (1, 6)):
        for part in (slice(0, split), slice(split, T)):
            alone = reference(float64(variables())['params'], X_BTD[row, part].astype(np.float64))
            np.testing.assert_allclose(found[row, part], alone, atol=ATOL)


def test_padding_at_the_end_of_a_row_is_not_remembered():
    lengths = np.array([[6], [1]])
    segments_BT = (lengths > HERE).astype(np.int32)
    _, padded = read([(0, T)], lambda start, stop: Context(HERE, HERE, segments_BT, segments_BT))
    for row, length in enumerate(lengths[:, 0]):
        _, state = read([(0, length)])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[row], b[row], atol=ATOL), padded, state)  # noqa: B023


def test_half_the_memory_remains_where_it_should():
    """The initial decay: a^c is uniform in [0.9, 0.999]."""
    drawn = recurrence.Decay().draw(jax.random.key(0), (4_000,), 1, 1)
    decay = np.exp(-8 * np.log1p(np.exp(np.asarray(drawn, np.float64))))
    assert decay.min() >= 0.9 - 1e-4
    assert decay.max() <= 0.999 + 1e-4
    np.testing.assert_allclose(decay.mean(), 0.9495, atol=0.002)  # Of 4,000; its deviation is 0.0005.


MIXED = (
    blocks.Block(mixer=LAYER, ffn=ffn.Gated(hidden=12)),
    blocks.Block(mixer=attention.Attention(heads=4), ffn=ffn.Gated(hidden=12)),
)


def test_a_stack_interleaves_recurrence_and_attention():
    """As in Griffin; each kind of layer has a state of its own form."""
    module = stacks.Stack(remat='full').build(MIXED, 4)
    drawn = drawing.variables(module, X_BTD, CONTEXT)
    apply = jax.jit(module.apply)
    whole, _ = apply(drawn, X_BTD, CONTEXT)
    state, found = stacks.initial_state(MIXED, 4, B, T, width=D, dtype='float32'), []
    for start, stop in ((0, 5), *((t, t + 1) for t in range(5, T))):
        y_BTD, state = apply(drawn, X_BTD[:, start:stop], Context(HERE[:, start:stop], HERE), state)
        found.append(y_BTD)
    np.testing.assert_allclose(np.concatenate(found, axis=1), whole, atol=1e-4)  # Four layers of the above.


def test_the_mesh_changes_nothing():
    def value_and_grad():
        def total(params):
            y_BTD, _ = LAYER.build().apply({'params': params}, X_BTD, CONTEXT)
            return (y_BTD**2).sum(), y_BTD

        return jax.jit(jax.grad(total, has_aux=True))(variables()['params'])

    expected = value_and_grad()
    with sharding.use(sharding.MeshShape(data=2, tensor=2).build()):
        found = value_and_grad()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * max(np.abs(b).max(), 1)), found, expected)


def test_what_cannot_be_is_refused():
    with pytest.raises(config.InputError, match='heads=3 does not divide the model width 8'):
        recurrence.GatedRecurrence(heads=3).check(D, T)
    with pytest.raises(config.InputError, match='from left to right'):
        LAYER.bidirectional()


def test_the_state_does_not_grow_with_the_text():
    sizes = {
        length: [leaf.size for leaf in jax.tree.leaves(LAYER.initial_state(B, length, width=D, dtype='bfloat16'))]
        for length in (16, 4_096)
    }
    assert sizes[16] == sizes[4_096]
    assert LAYER.initial_state(B, 16, width=D, dtype='bfloat16').h_BHK.dtype == jnp.float32
