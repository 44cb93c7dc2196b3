"""Ring attention over sequences that are split over devices: keys and values travel around the ring, queries do not.

Each device holds the scores of one block of queries and keys at a time, and saves for the backward pass nothing but its
own part of the result; a second round makes the gradients of keys and values, which travel with them.

Source: Liu et al. (2023), arXiv:2310.01889; the online softmax is that of Milakov and Gimelshein (2018),
arXiv:1805.02867.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import ad_checkpoint

from bigmodel_jax import config
from bigmodel_jax.kernels import context as contexts
from bigmodel_jax.kernels.context import Context, Query
from bigmodel_jax.kernels.kernel import Case, Kernel, not_fused, rows, uneven
from bigmodel_jax.parallel import per_device, sharding

# Of a score that does not count, and the start of a maximum: finite, so that differences of two are 0 and not NaN.
MASKED = -1e9


class Queries(NamedTuple):
    """This device's queries; t is its part of the row, g its part of the key/value heads."""

    q_btgRK: jax.Array  # Times the scale, 1 / sqrt(K) by default.
    positions_bt: jax.Array
    segments_bt: jax.Array | None


class Keys(NamedTuple):
    """The keys and values that travel around the ring."""

    k_bsgK: jax.Array
    v_bsgK: jax.Array
    positions_bs: jax.Array
    segments_bs: jax.Array | None


class OnlineSoftmax(NamedTuple):
    """Of the keys that have passed, in float32."""

    top_bgRt: jax.Array  # The largest score.
    total_bgRt: jax.Array  # Of exp(score - top).
    y_bgRtK: jax.Array  # The values, weighted by exp(score - top).


class Residuals(NamedTuple):
    """The residuals of the forward pass for the backward pass."""

    y_btgRK: jax.Array
    log_total_bgRt: jax.Array  # The logarithm of the sum of exp(score).


class Options(NamedTuple):
    """Static. `names` are the mesh axes of the ring, of `size` devices."""

    causal: bool
    window: int | None
    soft_cap: float | None
    names: tuple[str, ...]
    size: int
    block: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ring(Kernel):
    """Ring attention. Scores of up to `block` queries and keys are in memory at a time."""

    block: config.Positive = 1_024

    def unsupported_reason(self, case: Case) -> str | None:
        return next(self._reasons(case), None)

    def _reasons(self, case: Case) -> Iterator[str]:
        yield from not_fused('ring attention', case)
        parts = case.shards['length']
        for length in (case.q.shape[1], case.k.shape[1]):
            if length % parts:
                yield f'{length} positions do not divide over {parts} devices'
        yield from uneven(case)

    def label(self, case: Case) -> str:
        return f'ring of {case.shards["length"]}'

    def attend(self, query: Query) -> jax.Array:
        place = sharding.current()
        names = () if place is None else place.names('length')
        size = sharding.shards('length')
        scores = query.scores
        options = Options(scores.causal, scores.window, scores.soft_cap, names, size, self.block)

        q_BTHK, k_BSGK, v_BSGK, context = query[:4]
        B, T, H, K = q_BTHK.shape
        G = k_BSGK.shape[2]
        q_BTGRK = scores.scaled(q_BTHK).reshape(B, T, G, H // G, K)
        query_segments_BT, key_segments_BS = context.segments or (None, None)
        axes: sharding.LogicalAxes = ('batch', 'length', query.heads, None)
        query_axes = ((*axes, None), rows(context.query_positions_BT, 'length'), rows(query_segments_BT, 'length'))
        key_axes = (axes, axes, rows(context.key_positions_BS, 'length'), rows(key_segments_BS, 'length'))

        def local(*arrays: jax.Array) -> jax.Array:
            return _ring(options, Queries(*arrays[:3]), Keys(*arrays[3:]))

        run = per_device.shard_map(local, inputs=query_axes + key_axes, outputs=query_axes[0])
        queries = (q_BTGRK, context.query_positions_BT, query_segments_BT)
        y_BTGRK = run(*queries, k_BSGK, v_BSGK, context.key_positions_BS, key_segments_BS)
        return y_BTGRK.reshape(B, T, H, K)


# ---- one round and another --------------------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ring(options: Options, queries: Queries, keys: Keys) -> jax.Array:
    return _forward(options, queries, keys)[0]


def _forward(options: Options, queries: Queries, keys: Keys) -> tuple[jax.Array, tuple[Queries, Keys, Residuals]]:
    """The weighted sum, [b, t, g, R, K], and the residuals for the backward pass."""
    b, t, g, R, K = queries.q_btgRK.shape
    parts = _blocks(queries, options.block)
    sums = OnlineSoftmax(
        top_bgRt=jnp.full((b, g, R, t), MASKED, jnp.float32),
        total_bgRt=jnp.zeros((b, g, R, t), jnp.float32),
        y_bgRtK=jnp.zeros((b, g, R, t, K), jnp.float32),
    )
    count = parts.q_btgRK.shape[0]
    sums = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(b, g, R, count, t // count, *x.shape[4:]), 3, 0), sums)

    def visit(sums: OnlineSoftmax, keys: Keys) -> OnlineSoftmax:
        def one(part: tuple[Queries, OnlineSoftmax]) -> OnlineSoftmax:
            return jax.lax.scan(lambda so_far, here: (_add(options, so_far, part[0], here), None), part[1], keys)[0]

        return jax.lax.map(one, (parts, sums))

    def turn(both: tuple[Keys, OnlineSoftmax], _: None) -> tuple[tuple[Keys, OnlineSoftmax], None]:
        keys, sums = both
        following = _shift(options, keys)  # Before the computation, so that the two overlap.
        return (following, visit(sums, keys)), None

    start = (_blocks(keys, options.block), sums)
    (last, sums), _ = jax.lax.scan(turn, start, length=options.size - 1)
    sums = visit(sums, last)
    sums = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 3).reshape(b, g, R, t, *x.shape[5:]), sums)
    seen_bgRt = jnp.maximum(sums.total_bgRt, jnp.finfo(jnp.float32).tiny)  # A query that sees no key gets 0.
    y_btgRK = jnp.moveaxis(sums.y_bgRtK / seen_bgRt[..., None], 3, 1).astype(queries.q_btgRK.dtype)
    residuals = Residuals(y_btgRK, sums.top_bgRt + jnp.log(seen_bgRt))
    # Named, so that a policy of rematerialisation that saves it need not go around the ring again.
    residuals = jax.tree.map(lambda x: ad_checkpoint.checkpoint_name(x, 'attention'), residuals)
    return residuals.y_btgRK, (queries, keys, residuals)


class Received(NamedTuple):
    """A block of queries with the gradient of its output."""

    queries: Queries
    dy_btgRK: jax.Array
    log_total_btgR: jax.Array
    delta_btgR: jax.Array  # The sum over K of y * dy: the mean of the weights' gradients.


def _backward(options: Options, saved: tuple[Queries, Keys, Residuals], dy_btgRK: jax.Array) -> tuple[Queries, Keys]:
    queries, keys, residuals = saved
    delta_btgR = jnp.sum(residuals.y_btgRK.astype(jnp.float32) * dy_btgRK.astype(jnp.float32), axis=-1)
    received = Received(queries, dy_btgRK, jnp.moveaxis(residuals.log_total_bgRt, 3, 1), delta_btgR)
    parts, blocks = _blocks(received, options.block), _blocks(keys, options.block)
    dq = jnp.zeros(parts.queries.q_btgRK.shape, jnp.float32)
    dkv = tuple(jnp.zeros(x.shape, jnp.float32) for x in (blocks.k_bsgK, blocks.v_bsgK))

    def visit(keys: Keys, dkv: Any, dq: jax.Array) -> Any:
        def one(dkv: Any, part: tuple[Received, jax.Array]) -> Any:
            def meet(dq: jax.Array, here: tuple[Keys, Any]) -> Any:
                return _gradients(options, part[0], here[0], (dq, *here[1]))

            dq, dkv = jax.lax.scan(meet, part[1], (keys, dkv))
            return dkv, dq

        return jax.lax.scan(one, dkv, (parts, dq))

    def turn(state: Any, _: None) -> Any:
        keys, dkv, dq = state
        following = _shift(options, keys)
        dkv, dq = visit(keys, dkv, dq)
        return (following, _shift(options, dkv), dq), None

    (last, dkv, dq), _ = jax.lax.scan(turn, (blocks, dkv, dq), length=options.size - 1)
    dkv, dq = visit(last, dkv, dq)
    dk, dv = (_whole(x, like) for x, like in zip(_shift(options, dkv), (keys.k_bsgK, keys.v_bsgK)))  # Home.
    return Queries(_whole(dq, queries.q_btgRK), None, None), Keys(dk, dv, None, None)  # type: ignore[arg-type]


_ring.defvjp(_forward, _backward)


# ---- one block of queries and one of keys -----------------------------------------------------------------------


def _add(options: Options, sums: OnlineSoftmax, queries: Queries, keys: Keys) -> OnlineSoftmax:
    """The sums with a block of keys added, unless all of its scores are masked."""
    mask_bts = _visible(options, queries, keys)

    def add() -> OnlineSoftmax:
        scores_bgRts = _scores(options, queries, keys)[0]
        if mask_bts is not None:
            scores_bgRts = jnp.where(mask_bts[:, None, None], scores_bgRts, MASKED)
        top_bgRt = jnp.maximum(sums.top_bgRt, scores_bgRts.max(axis=-1))
        weights_bgRts = jnp.exp(scores_bgRts - top_bgRt[..., None])
        if mask_bts is not None:  # Where all is masked the top is masked too, and their difference 0.
            weights_bgRts = jnp.where(mask_bts[:, None, None], weights_bgRts, 0.0)
        shrink_bgRt = jnp.exp(sums.top_bgRt - top_bgRt)
        added_bgRtK = jnp.einsum(
            'bgRts,bsgK->bgRtK',
            weights_bgRts.astype(keys.v_bsgK.dtype),
            keys.v_bsgK,
            preferred_element_type=jnp.float32,
        )
        return OnlineSoftmax(
            top_bgRt=top_bgRt,
            total_bgRt=sums.total_bgRt * shrink_bgRt + weights_bgRts.sum(axis=-1),
            y_bgRtK=sums.y_bgRtK * shrink_bgRt[..., None] + added_bgRtK,
        )

    return add() if mask_bts is None else jax.lax.cond(mask_bts.any(), add, lambda: sums)


def _gradients(options: Options, received: Received, keys: Keys, so_far: tuple[jax.Array, ...]) -> Any:
    """The gradients of queries, keys and values, with the contributions of one pair of blocks added."""
    queries, dtype = received.queries, keys.k_bsgK.dtype
    mask_bts = _visible(options, queries, keys)

    def add() -> Any:
        dq_btgRK, dk_bsgK, dv_bsgK = so_far
        scores_bgRts, slope_bgRts = _scores(options, queries, keys)
        weights_bgRts = jnp.exp(scores_bgRts - jnp.moveaxis(received.log_total_btgR, 1, 3)[..., None])
        if mask_bts is not None:
            weights_bgRts = jnp.where(mask_bts[:, None, None], weights_bgRts, 0.0)
        product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
        dweights_bgRts = product('btgRK,bsgK->bgRts', received.dy_btgRK, keys.v_bsgK)
        delta_bgRt = jnp.moveaxis(received.delta_btgR, 1, 3)
        ds_bgRts = (weights_bgRts * (dweights_bgRts - delta_bgRt[..., None]) * slope_bgRts).astype(dtype)
        dq_btgRK = dq_btgRK + product('bgRts,bsgK->btgRK', ds_bgRts, keys.k_bsgK)
        dk_bsgK = dk_bsgK + product('bgRts,btgRK->bsgK', ds_bgRts, queries.q_btgRK)
        dv_bsgK = dv_bsgK + product('bgRts,btgRK->bsgK', weights_bgRts.astype(dtype), received.dy_btgRK)
        return dq_btgRK, (dk_bsgK, dv_bsgK)

    def keep() -> Any:
        return so_far[0], so_far[1:]

    return add() if mask_bts is None else jax.lax.cond(mask_bts.any(), add, keep)


def _scores(options: Options, queries: Queries, keys: Keys) -> tuple[jax.Array, jax.Array | float]:
    """[b, g, R, t, s] float32, and the derivative of the soft cap there."""
    scores_bgRts = jnp.einsum('btgRK,bsgK->bgRts', queries.q_btgRK, keys.k_bsgK, preferred_element_type=jnp.float32)
    if options.soft_cap is None:
        return scores_bgRts, 1.0
    squashed_bgRts = jnp.tanh(scores_bgRts / options.soft_cap)
    return options.soft_cap * squashed_bgRts, 1.0 - squashed_bgRts**2


def _visible(options: Options, queries: Queries, keys: Keys) -> jax.Array | None:
    context = Context(queries.positions_bt, keys.positions_bs, queries.segments_bt, keys.segments_bs)
    return contexts.visible(context, causal=options.causal, window=options.window)


# ---- blocks and devices -----------------------------------------------------------------------------------------


def _blocks(tree: Any, most: int) -> Any:
    """Arrays [b, t, ...] as [blocks, b, block, ...], equal and not longer than `most` where t allows it."""

    def cut(x: jax.Array) -> jax.Array:
        block = block_length(x.shape[1], most)
        return jnp.moveaxis(x.reshape(x.shape[0], -1, block, *x.shape[2:]), 1, 0)

    return jax.tree.map(cut, tree)


def block_length(length: int, most: int) -> int:
    """The longest divisor of `length` up to `most`; all of it where there is none worth a step of its own."""
    longest = next(size for size in range(min(most, length), 0, -1) if length % size == 0)
    return longest if 8 * longest >= min(most, length) else length


def _whole(x: jax.Array, like: jax.Array) -> jax.Array:
    """The opposite of _blocks() for one array, with the shape and dtype of `like`."""
    return jnp.moveaxis(x, 0, 1).reshape(like.shape).astype(like.dtype)


def _shift(options: Options, tree: Any) -> Any:
    """The arrays of the previous device in the ring."""
    if options.size == 1:
        return tree
    following = [(index, (index + 1) % options.size) for index in range(options.size)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, options.names, following), tree)
