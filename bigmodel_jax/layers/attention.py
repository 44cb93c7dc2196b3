"""Attention: which keys a query sees, the weighted sum, and the module that owns the projections."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from bigmodel_jax import config
from bigmodel_jax.layers import dropout, positions, weights

# Finite, not -inf: a row that sees no key (padding) would make softmax return NaN, and NaN gradients spread.
MASKED = -1e9


class Context(NamedTuple):
    """Where queries and keys stand; from it follows which keys a query sees.

    Positions are [B, T] and [B, S], or [1, T] and [1, S] where all rows agree. Segments number the documents of a
    packed row from 1, 0 being padding; None where each row is one document.
    """

    query_positions_BT: jax.Array
    key_positions_BS: jax.Array
    query_segments_BT: jax.Array | None = None
    key_segments_BS: jax.Array | None = None
    bias_BHTS: jax.Array | None = None


class Cache(NamedTuple):
    """Keys and values of the positions read so far; slot s holds position s."""

    k_BSGK: jax.Array
    v_BSGK: jax.Array


def visible(context: Context, *, causal: bool, window: int | None) -> jax.Array | None:
    """[B or 1, T, S] bool: whether query t may see key s; None if every query sees every key.

    Args:
      causal: only keys at the query's position or before.
      window: only keys less than this many positions away (Beltagy et al., 2020, section 3.1).
    """
    distance_BTS = context.query_positions_BT[:, :, None] - context.key_positions_BS[:, None, :]
    parts = []
    if causal:
        parts.append(distance_BTS >= 0)
    if window is not None:
        parts.append(jnp.abs(distance_BTS) < window)
    if context.query_segments_BT is not None and context.key_segments_BS is not None:
        parts.append(context.query_segments_BT[:, :, None] == context.key_segments_BS[:, None, :])
    if not parts:
        return None
    mask_BTS = parts[0]
    for part in parts[1:]:
        mask_BTS = mask_BTS & part
    return mask_BTS


def attend(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    *,
    mask_BTS: jax.Array | None = None,
    bias_BHTS: jax.Array | None = None,
    soft_cap: float | None = None,
    dropout_key: jax.Array | None = None,
    dropout_rate: float = 0.0,
) -> jax.Array:
    """softmax(q k / sqrt(K)) v for each head, [B, T, H, K]; the softmax is taken in float32.

    Args:
      k_BSGK, v_BSGK: each of the G key/value heads serves H / G neighbouring query heads (Ainslie et al., 2023).
      mask_BTS: [B or 1, T, S] bool; a query that sees no key gets the mean of all values, for the caller to ignore.
      bias_BHTS: added to the scores.
      soft_cap: scores are squashed to (-soft_cap, soft_cap) by tanh before the mask (Gemma 2, section 2).
      dropout_key: of the dropout on the attention weights, at `dropout_rate`.

    Source: Vaswani et al. (2017), arXiv:1706.03762, equation 1.
    """
    B, T, H, K = q_BTHK.shape
    S, G = k_BSGK.shape[1:3]
    q_BTGRK = q_BTHK.reshape(B, T, G, H // G, K) * jnp.asarray(K**-0.5, q_BTHK.dtype)
    scores_BGRTS = jnp.einsum('BTGRK,BSGK->BGRTS', q_BTGRK, k_BSGK, preferred_element_type=jnp.float32)
    if bias_BHTS is not None:
        scores_BGRTS = scores_BGRTS + bias_BHTS.reshape(-1, G, H // G, T, S)
    if soft_cap is not None:
        scores_BGRTS = soft_cap * jnp.tanh(scores_BGRTS / soft_cap)
    if mask_BTS is not None:
        scores_BGRTS = jnp.where(mask_BTS[:, None, None], scores_BGRTS, MASKED)
    weights_BGRTS = jax.nn.softmax(scores_BGRTS, axis=-1).astype(v_BSGK.dtype)
    if dropout_key is not None:
        weights_BGRTS = dropout.dropout(weights_BGRTS, dropout_key, rate=dropout_rate)
    y_BTGRK = jnp.einsum('BGRTS,BSGK->BTGRK', weights_BGRTS, v_BSGK)
    return y_BTGRK.reshape(B, T, H, K)


def write(cache: Cache, k_BTGK: jax.Array, v_BTGK: jax.Array, positions_BT: jax.Array) -> Cache:
    """The cache with the keys and values of `positions_BT` stored in their slots."""
    rows_B1 = jnp.arange(k_BTGK.shape[0])[:, None]
    return Cache(
        k_BSGK=cache.k_BSGK.at[rows_B1, positions_BT].set(k_BTGK.astype(cache.k_BSGK.dtype)),
        v_BSGK=cache.v_BSGK.at[rows_B1, positions_BT].set(v_BTGK.astype(cache.v_BSGK.dtype)),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention:
    """Multi-head attention, with grouped key/value heads if `kv_heads` is less than `heads`."""

    heads: config.Positive  # H
    kv_heads: config.Positive | None = None  # G; None: as many as heads.
    head_width: config.Positive | None = None  # K; None: model width / heads.
    causal: bool = True
    rotary: positions.Rotary | None = None
    window: config.Positive | None = None
    soft_cap: config.Rate | None = None
    bias: bool = False
    dropout: config.Probability = 0.0
    init: weights.Initializer = weights.FanIn()
    out_init: weights.Initializer | None = None  # None: like `init`.

    def build(self, name: str | None = None) -> nn.Module:
        return AttentionModule(self, name=name)

    def width_of_head(self, width: int) -> int:
        """K for a model of this width.

        Raises:
          InputError: the heads do not divide the width, or the key/value heads the heads.
        """
        if self.head_width is None and width % self.heads:
            raise config.InputError(
                f'attention.heads={self.heads} does not divide the model width {width}; '
                f'use a divisor of {width}, or set attention.head_width.'
            )
        if self.heads % (self.kv_heads or self.heads):
            raise config.InputError(f'attention.kv_heads={self.kv_heads} does not divide attention.heads={self.heads}.')
        head_width = self.head_width or width // self.heads
        if self.rotary is not None and head_width % 2:
            raise config.InputError(f'Rotary positions need heads of even width, but each has {head_width} channels.')
        return head_width


class AttentionModule(nn.Module):
    """Owns query_DHK, key_DGK, value_DGK and out_HKD, and their biases."""

    config: Attention

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, context: Context, memory_BSD: jax.Array | None = None, cache: Cache | None = None
    ) -> tuple[jax.Array, Cache | None]:
        """Attends from `x_BTD` to itself, or to `memory_BSD`.

        Args:
          memory_BSD: what keys and values are made of in cross-attention.
          cache: earlier keys and values; this call's are stored at the query positions, and all are attended to.

        Returns:
          [B, T, D], and the cache with the new keys and values (None without a cache).
        """
        c, D, dtype = self.config, x_BTD.shape[-1], x_BTD.dtype
        source_BSD = x_BTD if memory_BSD is None else memory_BSD
        q_BTHK = self._project('query', x_BTD, c.heads)
        k_BSGK = self._project('key', source_BSD, c.kv_heads or c.heads)
        v_BSGK = self._project('value', source_BSD, c.kv_heads or c.heads)
        if c.rotary is not None:
            q_BTHK = positions.rotary(q_BTHK, context.query_positions_BT, base=c.rotary.base)
            # Keys of this call stand at the query positions; those in the cache were rotated when they were stored.
            here_BS = context.key_positions_BS if cache is None else context.query_positions_BT
            k_BSGK = positions.rotary(k_BSGK, here_BS, base=c.rotary.base)
        if cache is not None:
            cache = write(cache, k_BSGK, v_BSGK, context.query_positions_BT)
            k_BSGK, v_BSGK = cache.k_BSGK.astype(dtype), cache.v_BSGK.astype(dtype)
        has_dropout = c.dropout > 0 and self.has_rng('dropout')
        y_BTHK = attend(
            q_BTHK,
            k_BSGK,
            v_BSGK,
            mask_BTS=visible(context, causal=c.causal, window=c.window),
            bias_BHTS=context.bias_BHTS,
            soft_cap=c.soft_cap,
            dropout_key=self.make_rng('dropout') if has_dropout else None,
            dropout_rate=c.dropout,
        )
        axes = {'heads': c.heads, 'head': c.width_of_head(D), 'embed': D}
        out_HKD = weights.weight(self, 'out', axes, init=c.out_init or c.init, inputs=('heads', 'head'), dtype=dtype)
        y_BTD = weights.einsum('BTHK,HKD->BTD', y_BTHK, out_HKD)
        if c.bias:
            y_BTD = y_BTD + weights.vector(self, 'out_bias', {'embed': D}, value=0.0, dtype=dtype)
        return y_BTD, cache

    def _project(self, name: str, x_BTD: jax.Array, heads: int) -> jax.Array:
        c, D, dtype = self.config, x_BTD.shape[-1], x_BTD.dtype
        logical = 'heads' if name == 'query' else 'kv_heads'
        axes = {'embed': D, logical: heads, 'head': c.width_of_head(D)}
        matrix_DHK = weights.weight(self, name, axes, init=c.init, inputs=('embed',), dtype=dtype)
        y_BTHK = weights.einsum('BTD,DHK->BTHK', x_BTD, matrix_DHK)
        if c.bias:
            del axes['embed']
            y_BTHK = y_BTHK + weights.vector(self, f'{name}_bias', axes, value=0.0, dtype=dtype)
        return y_BTHK
