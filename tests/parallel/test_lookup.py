"""Looking up tokens in a table that lies on many devices: the rows, and the sums of their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel_jax.parallel import lookup, sharding, torus

VOCAB, WIDTH, ROWS, LENGTH = 96, 16, 8, 6


def inputs(shape=(ROWS, LENGTH)):
    rng = np.random.default_rng(0)
    table, grad = rng.normal(size=(VOCAB, WIDTH)), rng.normal(size=(*shape, WIDTH))
    tokens_BT = rng.integers(VOCAB // 3, size=shape)  # Many of them more than once, some never.
    return jnp.asarray(table, jnp.float32), jnp.asarray(tokens_BT, jnp.int32), jnp.asarray(grad, jnp.float32)


def on(mesh, shape=(ROWS, LENGTH)):
    table_VD, tokens_BT, grad_BTD = inputs(shape)

    def both(table_VD, tokens_BT, grad_BTD):
        x_BTD, back = jax.vjp(lambda table_VD: lookup.lookup(table_VD, tokens_BT), table_VD)
        return x_BTD, back(grad_BTD)[0]

    with sharding.use(sharding.MeshShape(**mesh).build()):
        program = jax.jit(both).lower(table_VD, tokens_BT, grad_BTD).compile()
        x_BTD, of_VD = program(table_VD, tokens_BT, grad_BTD)
    expected_VD = np.zeros((VOCAB, WIDTH))
    np.add.at(expected_VD, np.asarray(tokens_BT), np.asarray(grad_BTD, np.float64))
    np.testing.assert_array_equal(x_BTD, np.asarray(table_VD)[np.asarray(tokens_BT)])
    # Float32 sums of a few numbers of order 1.
    np.testing.assert_allclose(of_VD, expected_VD, atol=2e-6)
    return program.as_text()


MESHES = [
    {'data': 8},
    {'fsdp': 8},
    {'fsdp': 2, 'tensor': 4},
    {'fsdp': 2, 'sequence': 2, 'data': 2},
    {'fsdp': 4, 'expert': 2},
    {'pipeline': 2, 'fsdp': 2, 'tensor': 2},
]


@pytest.mark.parametrize('mesh', MESHES, ids=str)
def test_rows_and_gradients(mesh):
    assert 'all-to-all' not in on(mesh)


@pytest.mark.parametrize('mesh', [{'fsdp': 8}, {'fsdp': 4, 'tensor': 2}, {'fsdp': 4, 'expert': 2}], ids=str)
@pytest.mark.parametrize('rings', [(2, 2, 2), (2, 4), (4, 2)], ids=str)
def test_a_torus_exchanges_what_it_found(monkeypatch, mesh, rings):
    """As on a slice whose axis runs along several dimensions of the torus."""
    fitting = {8: rings, 4: (2, 2), 2: (2,)}
    monkeypatch.setattr(torus, 'rings', lambda line: fitting.get(len(line), (len(line),)))
    assert 'all-to-all' in on(mesh)


def test_a_class_for_each_example(monkeypatch):
    """As in a diffusion model that is told the class; on a torus too."""
    assert 'all-to-all' not in on({'fsdp': 4, 'data': 2}, shape=(ROWS,))
    monkeypatch.setattr(torus, 'rings', lambda line: (2, 2) if len(line) == 4 else (len(line),))
    assert 'all-to-all' in on({'fsdp': 4, 'data': 2}, shape=(ROWS,))


def test_one_device_and_one_token():
    table_VD, tokens_BT, _ = inputs()
    np.testing.assert_array_equal(lookup.lookup(table_VD, tokens_BT[:1, :1])[0, 0], table_VD[tokens_BT[0, 0]])
    with sharding.use(sharding.MeshShape(fsdp=4, tensor=2).build()):
        found = jax.jit(lookup.lookup)(table_VD, tokens_BT[:1, :1])
    np.testing.assert_array_equal(found[0, 0], table_VD[tokens_BT[0, 0]])
