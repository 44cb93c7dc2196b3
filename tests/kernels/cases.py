"""Inputs of attention for tests of the ways to compute it, and what the plain way makes of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax.kernels.context import Context, PositionOrder, Query, Scores
from bigmodel_jax.layers import attention as formula
from bigmodel_jax.parallel import sharding


class Inputs(NamedTuple):
    """Queries, keys, values, where they stand, and a gradient of the result."""

    q_BTHK: np.ndarray
    k_BSGK: np.ndarray
    v_BSGK: np.ndarray
    context: Context
    dy_BTHK: np.ndarray

    def query(self, scores):
        return Query(*self[:4], scores)


def draw(*, batch=2, queries=32, keys=None, heads=8, kv_heads=8, width=16, packed=False, seed=0):
    """Standard normal inputs; `packed` rows hold four documents and padding, whose places differ between rows."""
    rng, keys = np.random.default_rng(seed), keys or queries

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    keys_and_values = [normal(batch, keys, kv_heads, width) for _ in range(2)]
    arrays = normal(batch, queries, heads, width), *keys_and_values
    dy_BTHK = normal(batch, queries, heads, width)
    if not packed:
        context = Context(jnp.arange(queries)[None], jnp.arange(keys)[None], order=PositionOrder.CONTIGUOUS)
        return Inputs(*arrays, context, dy_BTHK)
    query_segments_BT, query_positions_BT = pack(rng, batch, queries)
    segments_BS, positions_BS = (query_segments_BT, query_positions_BT) if keys == queries else pack(rng, batch, keys)
    context = Context(query_positions_BT, positions_BS, query_segments_BT, segments_BS)
    return Inputs(*arrays, context, dy_BTHK)


def pack(rng, batch, length):
    """Segments and positions of `batch` rows."""
    segments_BT = np.zeros((batch, length), np.int32)
    for row in segments_BT:
        ends = np.sort(rng.choice(np.arange(1, length), 4, replace=False))
        for number, (start, end) in enumerate(zip((0, *ends[:3]), ends), 1):
            row[start:end] = number
    starts = np.concatenate([np.ones((batch, 1), bool), np.diff(segments_BT) != 0], axis=1)
    places = np.arange(length)
    positions_BT = places - np.maximum.accumulate(np.where(starts, places, 0), axis=1)
    return jnp.asarray(segments_BT), jnp.asarray(positions_BT, jnp.int32)


def outcome(kernel, inputs, scores):
    """The result of a kernel, and its gradients for q, k and v."""

    def both(inputs):
        y_BTHK, back = jax.vjp(lambda *qkv: kernel.attend(Query(*qkv, inputs.context, scores)), *inputs[:3])
        return y_BTHK, *back(inputs.dy_BTHK)

    return jax.jit(both)(inputs)


def plain(inputs, scores):
    return outcome(formula.Plain(), inputs, scores)


def on_mesh(kernel, inputs, scores, *, mesh=None):
    """What a kernel makes of the inputs on a mesh."""
    place = (mesh or sharding.MeshShape(data=1)).build()
    with sharding.use(place):
        return outcome(kernel, inputs, scores)


def assert_close(found, expected, atol):
    for name, left, right in zip(('y', 'dq', 'dk', 'dv'), found, expected):
        np.testing.assert_allclose(left, right, atol=atol, err_msg=name)


VARIANTS = {
    'all': (Scores(), {}),
    'causal': (Scores(causal=True), {}),
    'window': (Scores(causal=True, window=7), {}),
    'bidirectional': (Scores(window=5), {}),
    'soft cap': (Scores(causal=True, soft_cap=1.5), {}),
    'grouped': (Scores(causal=True), {'kv_heads': 2}),
    'packed': (Scores(causal=True), {'packed': True}),
    'everything': (Scores(causal=True, window=9, soft_cap=2.0), {'packed': True, 'kv_heads': 4}),
}
