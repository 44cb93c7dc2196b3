"""Elman networks, GRUs and LSTMs: both directions and variable lengths against PyTorch, pieces, segments, the mesh."""

import functools

import jax
import numpy as np
import pytest
from models import classics

import drawing
from bigmodel_jax import config
from bigmodel_jax.kernels.context import Context
from bigmodel_jax.layers import blocks, ffn, recurrent, stacks
from bigmodel_jax.parallel import sharding

B, T, D = 2, 8, 6
CELLS = {'RNN': recurrent.Elman(), 'GRU': recurrent.Gru(), 'LSTM': recurrent.Lstm()}
X_BTD = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
HERE = np.arange(T)[None]
CONTEXT = Context(HERE, HERE)


@functools.cache
def variables():
    return drawing.variables(CELLS['LSTM'].build(), X_BTD, CONTEXT)


@pytest.mark.parametrize(
    'kind', ['LSTM', pytest.param('GRU', marks=pytest.mark.slow), pytest.param('RNN', marks=pytest.mark.slow)]
)
def test_both_directions_over_rows_of_different_lengths_are_those_of_pytorch(kind):
    """Two layers, packed there and padded here, with gradients, in float64."""
    found = {}
    with np.load(classics.ORACLES / 'classics.npz') as arrays:
        for name, array in arrays.items():
            if name.startswith(f'packed_{kind}/'):
                found[name.partition('/')[2]] = array
    cell, parts = CELLS[kind], {}
    for prefix in ('weights', 'gradients'):
        w = {name.removeprefix(f'{prefix}/'): each for name, each in found.items() if name.startswith(prefix)}
        of = functools.partial(classics.cell_params, w, cell=cell, gradients=prefix == 'gradients')
        layers = [{'forward': of(suffix=f'l{i}'), 'backward': of(suffix=f'l{i}_reverse')} for i in range(2)]
        parts[prefix] = {'layers': classics.stack(layers)}
    segments_BT = (np.arange(7) < np.array([7, 4, 1])[:, None]).astype(np.int32)
    here = np.arange(7)[None]
    module = stacks.Stack().build((recurrent.Bidirectional(cell=cell),), 2)

    def total(params, x_BTD):
        y_BTD, _ = module.apply({'params': params}, x_BTD, Context(here, here, segments_BT, segments_BT))
        return (y_BTD * found['cotangent']).sum(), y_BTD

    with jax.enable_x64(True):
        compute = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
        (gradients, dx_BTD), y_BTD = compute(parts['weights'], found['x'])
    np.testing.assert_allclose(y_BTD, found['y'], rtol=0, atol=1e-12)
    np.testing.assert_allclose(dx_BTD, found['dx'], rtol=0, atol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-11), gradients, parts['gradients'])


def read(pieces, segments_BT=None):
    """The output and the state after reading some pieces, one after the other."""
    layer, found = CELLS['LSTM'], []
    apply, state = jax.jit(layer.build().apply), layer.initial_state(B, T, width=D, dtype='float32')
    for start, stop in pieces:
        part = None if segments_BT is None else segments_BT[:, start:stop]
        context = Context(HERE[:, start:stop], HERE[:, start:stop], part, part)
        y_BTD, state = apply(variables(), X_BTD[:, start:stop], context, state)
        found.append(y_BTD)
    return np.concatenate(found, axis=1), state


def test_reading_in_pieces_is_reading_at_once():
    whole, _ = jax.jit(CELLS['LSTM'].build().apply)(variables(), X_BTD, CONTEXT)
    (found, state), (_, expected) = read([(0, 4), (4, T)]), read([(0, T)])
    np.testing.assert_array_equal(found, whole)
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_documents_of_a_row_do_not_meet_and_padding_is_not_remembered():
    segments_BT = np.array([[1] * 4 + [2] * 4, [1] * 3 + [2] * 2 + [0] * 3])
    found, state = read([(0, T)], segments_BT)
    plain = jax.jit(CELLS['LSTM'].build().apply)
    for row, (start, stop) in ((0, (0, 4)), (0, (4, 8)), (1, (0, 3)), (1, (3, 5))):
        here = np.arange(stop - start)[None]
        before = CELLS['LSTM'].initial_state(1, T, width=D, dtype='float32')
        alone, after = plain(variables(), X_BTD[row : row + 1, start:stop], Context(here, here), before)
        # A product of one row and one of two rows may be summed in another order.
        np.testing.assert_allclose(found[row, start:stop], alone[0], atol=1e-6)
        if stop in (8, 5):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a[row], b[0], atol=1e-6), state, after)  # noqa: B023
    np.testing.assert_array_equal(found[1, 5:], 0)


@pytest.mark.slow
def test_dropout_changes_what_is_given_and_not_what_is_remembered():
    layer = recurrent.Lstm(dropout=0.5)
    before = layer.initial_state(B, T, width=D, dtype='float32')
    kept, state = layer.build().apply(variables(), X_BTD, CONTEXT, before)
    dropped, also = layer.build().apply(variables(), X_BTD, CONTEXT, before, rngs={'dropout': jax.random.key(0)})
    jax.tree.map(np.testing.assert_array_equal, state, also)
    is_kept = np.asarray(dropped) != 0
    assert 0.3 < is_kept.mean() < 0.7
    np.testing.assert_allclose(np.asarray(dropped)[is_kept], 2 * np.asarray(kept)[is_kept], rtol=1e-6)


@pytest.mark.slow
def test_it_is_a_mixer_of_a_block_too_and_the_mesh_changes_nothing():
    block = blocks.Block(mixer=recurrent.Gru().bidirectional(), ffn=ffn.Mlp(hidden=8))
    block.check(D, T)
    module = block.build()
    params = drawing.variables(module, X_BTD, CONTEXT)['params']

    def value_and_grad():
        def total(params):
            y_BTD, _ = module.apply({'params': params}, X_BTD, CONTEXT)
            return (y_BTD**2).sum(), y_BTD

        return jax.jit(jax.grad(total, has_aux=True))(params)

    expected = value_and_grad()
    with sharding.use(sharding.MeshShape(data=2, tensor=1).build(jax.devices()[:2])):
        found = value_and_grad()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * max(np.abs(b).max(), 1)), found, expected)


def test_what_cannot_be_is_refused():
    both = recurrent.Bidirectional(cell=recurrent.Gru())
    with pytest.raises(config.InputError, match='halves the width of the model, which is 7'):
        both.check(7, T)
    with pytest.raises(config.InputError, match='needs whole rows'):
        both.initial_state(1, T, width=D, dtype='float32')
    assert both.bidirectional() is both


def test_the_forget_gate_starts_open_where_that_is_asked_for():
    drawn = recurrent.ForgetBias(value=2.0).draw(jax.random.key(0), (4, 3), 4, 3)
    np.testing.assert_array_equal(drawn, [[0] * 3, [2] * 3, [0] * 3, [0] * 3])
