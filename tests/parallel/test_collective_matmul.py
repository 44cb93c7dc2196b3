"""The ring of devices gives the products that one device gives, and their gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.parallel import collective_matmul, sharding

ROWS, LENGTH, WIDTH, HEADS, HEAD = 4, 48, 16, 12, 8


def inputs():
    rng = np.random.default_rng(0)
    shapes = [(ROWS, LENGTH, WIDTH), (WIDTH, HEADS, HEAD), (WIDTH, HEADS), (HEADS, HEAD, WIDTH)]
    return [jnp.asarray(0.3 * rng.normal(size=shape), jnp.float32) for shape in shapes]


def layer(x_BTD, into_DHK, gate_DH, out_HKD):
    """Something of attention's form: two products out of the stream, one into it; and a number of it all."""
    y_BTHK, gate_BTH = collective_matmul.allgather_matmul(
        x_BTD, ('BTD,DHK->BTHK', 'BTD,DH->BTH'), (into_DHK, gate_DH), cuts=('heads', 'heads')
    )
    z_BTD = collective_matmul.matmul_reducescatter(
        'BTHK,HKD->BTD', jnp.tanh(y_BTHK) * gate_BTH[..., None], out_HKD, cut='heads'
    )
    return jnp.sin(z_BTD).sum(), z_BTD


def with_gradients():
    return jax.jit(jax.value_and_grad(layer, argnums=(0, 1, 2, 3), has_aux=True))


@pytest.mark.parametrize(
    'mesh',
    [{'tensor': 2}, {'tensor': 3}, {'tensor': 4, 'fsdp': 2}, {'tensor': 2, 'sequence': 2, 'data': 2}, {'tensor': 6}],
    ids=str,
)
def test_ring_is_the_plain_product(monkeypatch, mesh):
    monkeypatch.setattr(collective_matmul, 'WORTH', 0)
    (_, alone), gradients = with_gradients()(*inputs())
    size = int(np.prod(list(mesh.values())))
    place = sharding.MeshShape(**mesh).build(jax.devices()[:size])
    with sharding.use(place):
        program = with_gradients().lower(*inputs()).compile()
        (_, found), of = program(*inputs())
    assert 'collective-permute' in program.as_text()
    # Sums of up to 192 float32 products in another order; values are about 1, gradients about 10.
    np.testing.assert_allclose(found, alone, atol=1e-5)
    for one, other in zip(of, gradients):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_the_order_of_a_tpu_changes_no_number(monkeypatch):
    """Nor is there an order on any other platform, whose programs are as they were."""
    monkeypatch.setattr(collective_matmul, 'WORTH', 0)
    (_, alone), gradients = with_gradients()(*inputs())
    place = sharding.MeshShape(tensor=2).build(jax.devices()[:2])
    ordered = {}
    for platform in ('', 'tpu'):
        with sharding.use(dataclasses.replace(place, abstract_platform=platform)):
            program = with_gradients().lower(*inputs())
            ordered[platform] = program.as_text().count('optimization_barrier')
            (_, found), of = program.compile()(*inputs())
        np.testing.assert_allclose(found, alone, atol=1e-5)
        for one, other in zip(of, gradients):
            np.testing.assert_allclose(one, other, atol=1e-4)
    assert not ordered['']
    assert ordered['tpu']


def test_small_pieces_are_gathered_at_once():
    with sharding.use(sharding.MeshShape(tensor=4).build(jax.devices()[:4])):
        program = with_gradients().lower(*inputs()).compile().as_text()
    assert 'collective-permute' not in program


def test_a_length_that_does_not_divide_is_multiplied_whole(monkeypatch):
    monkeypatch.setattr(collective_matmul, 'WORTH', 0)
    x_BTD, *matrices = inputs()
    (_, alone), _ = with_gradients()(x_BTD[:, :1], *matrices)
    mesh = config.vary(sharding.MeshShape(), {'tensor': 4, 'data': 1})
    with sharding.use(mesh.build(jax.devices()[:4])):
        (_, found), _ = with_gradients()(x_BTD[:, :1], *matrices)
    np.testing.assert_allclose(found, alone, atol=1e-5)
