"""Attention to keys and values in pages, one page after the other: plain JAX, for every platform.

A decoder whose batch has 'pages' (contexts.Pages) has for a state the numbers of its layers in them; in its place come
back the keys and values of this call alone, which the caller writes to the pages for all layers at once.

The result of a row does not depend on the other rows: not on what is in their pages, nor on how many pages they have,
since a page that a row has not reached changes nothing of its running sums, bit for bit.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bigmodel_jax import precision
from bigmodel_jax.kernels.context import Pages, Query


class _Sums(NamedTuple):
    """A softmax that has seen some of the keys (Milakov and Gimelshein, 2018, arXiv:1805.02867, algorithm 3)."""

    largest_BGRT: jax.Array  # Score so far.
    weight_BGRT: jax.Array  # Sum of exp(score - largest).
    y_BGRTK: jax.Array  # Sum of exp(score - largest) times value.


def attend(query: Query, *, layer: Any) -> jax.Array:
    """softmax(q k^T) v over the earlier positions in the pages and the positions of this call, [B, T, H, K].

    Args:
      query: its keys and values are those of this call; the earlier ones lie in the pages of its context. Attention is
        causal, without segments or a bias.
      layer: [] int32, the number of this layer in the pages.
    """
    context, scores, pages = query.context, query.scores, query.context.pages
    assert pages is not None
    assert scores.causal
    assert context.bias_BHTS is None
    B, T, H, K = query.q_BTHK.shape
    G, S = query.k_BSGK.shape[2], pages.k_LNSGK.shape[2]
    q_BTGRK = scores.scaled(query.q_BTHK).reshape(B, T, G, H // G, K)
    assert query.mask_BTS is not None
    own_BGRTS = _scored(q_BTGRK, query.k_BSGK, query.mask_BTS, soft_cap=scores.soft_cap)
    largest_BGRT = own_BGRTS.max(axis=-1)  # Finite, for a position attends to itself at least.
    own_BGRTS = jnp.exp(own_BGRTS - largest_BGRT[..., None])
    sums = _Sums(largest_BGRT, own_BGRTS.sum(axis=-1), _weighted(own_BGRTS, query.v_BSGK, q_BTGRK.dtype))

    def read(number: jax.Array, sums: _Sums) -> _Sums:
        k_BSGK, v_BSGK = _page(pages, layer, number)
        positions_S = number * S + jnp.arange(S)
        stored_BS = positions_S < pages.lengths_B[:, None]
        visible_BTS = stored_BS[:, None] & jnp.ones((1, T, 1), bool)
        if scores.window is not None:
            visible_BTS &= context.query_positions_BT[:, :, None] - positions_S < scores.window
        s_BGRTS = _scored(q_BTGRK, k_BSGK, visible_BTS, soft_cap=scores.soft_cap)
        # What lies in a slot that was not written for this row may be anything, even nan, and 0 times nan is nan.
        return _added(sums, s_BGRTS, jnp.where(stored_BS[:, :, None, None], v_BSGK, 0), q_BTGRK.dtype)

    used = (pages.lengths_B.max() + S - 1) // S
    sums = jax.lax.fori_loop(0, used, read, sums)
    y_BGRTK = (sums.y_BGRTK / sums.weight_BGRT[..., None]).astype(q_BTGRK.dtype)
    return jnp.moveaxis(y_BGRTK, 3, 1).reshape(B, T, H, K)


def _scored(q_BTGRK: jax.Array, k_BSGK: jax.Array, visible_BTS: jax.Array, *, soft_cap: float | None) -> jax.Array:
    """The scores of keys, -inf where one is not visible."""
    dtype = q_BTGRK.dtype
    s_BGRTS = jnp.einsum(
        'BTGRK,BSGK->BGRTS', q_BTGRK, k_BSGK.astype(dtype), preferred_element_type=precision.sums(dtype)
    )
    if soft_cap is not None:
        s_BGRTS = soft_cap * jnp.tanh(s_BGRTS / soft_cap)
    return jnp.where(visible_BTS[:, None, None], s_BGRTS, -jnp.inf)


def _weighted(weights_BGRTS: jax.Array, v_BSGK: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The sum of values times weights, both in `dtype` where they are multiplied."""
    values, weights = v_BSGK.astype(dtype), weights_BGRTS.astype(dtype)
    return jnp.einsum('BGRTS,BSGK->BGRTK', weights, values, preferred_element_type=precision.sums(dtype))


def _added(sums: _Sums, s_BGRTS: jax.Array, v_BSGK: jax.Array, dtype: jnp.dtype) -> _Sums:
    """The sums with the keys of scores `s_BGRTS`, of which a row may see none."""
    largest_BGRT = jnp.maximum(sums.largest_BGRT, s_BGRTS.max(axis=-1))
    weights_BGRTS = jnp.exp(s_BGRTS - largest_BGRT[..., None])
    # 1 and not exp(0), so that a page without a visible key leaves the sums as they are on every platform.
    is_same = largest_BGRT == sums.largest_BGRT
    kept_BGRT = jnp.where(is_same, 1.0, jnp.exp(sums.largest_BGRT - largest_BGRT))
    return _Sums(
        largest_BGRT,
        sums.weight_BGRT * kept_BGRT + weights_BGRTS.sum(axis=-1),
        sums.y_BGRTK * kept_BGRT[..., None] + _weighted(weights_BGRTS, v_BSGK, dtype),
    )


def _page(pages: Pages, layer: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The keys and values [B, S, G, K] of the page of that number of each row."""
    ids_B = jax.lax.dynamic_index_in_dim(pages.table_BN, number, axis=1, keepdims=False)

    def taken(pool_LNSGK: jax.Array) -> jax.Array:
        # One slice for each row: on a CPU a gather of whole pages computes the address of every element.
        size = (1, 1, *pool_LNSGK.shape[2:])
        slices = [jax.lax.dynamic_slice(pool_LNSGK, (layer, page, 0, 0, 0), size)[0, 0] for page in ids_B]
        return jnp.stack(slices)

    return taken(pages.k_LNSGK), taken(pages.v_LNSGK)
