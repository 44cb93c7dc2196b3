"""Attention on paper: softmax(q k / sqrt(K)) v, and what computes it as it is written there, without a kernel."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import ad_checkpoint

from bigmodel_jax import precision
from bigmodel_jax.kernels import kernel as kernels
from bigmodel_jax.kernels.context import Context, Scores, scale_of, visible
from bigmodel_jax.layers import dropout

# Finite, not -inf: a row that sees no key (padding) would make softmax return NaN, and NaN gradients spread.
MASKED = -1e9


def attend(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    *,
    mask_BTS: jax.Array | None = None,
    bias_BHTS: jax.Array | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    dropout_key: jax.Array | None = None,
    dropout_rate: float = 0.0,
) -> jax.Array:
    """softmax(q k / sqrt(K)) v for each head, [B, T, H, K].

    Args:
      k_BSGK, v_BSGK: each of the G key/value heads serves H / G neighbouring query heads (Ainslie et al., 2023).
      mask_BTS, bias_BHTS, scale, soft_cap: see weigh().
      dropout_key: of the dropout on the attention weights, at `dropout_rate`.

    Source: Vaswani et al. (2017), arXiv:1706.03762, equation 1.
    """
    weights_BGRTS = weigh(
        q_BTHK, k_BSGK, mask_BTS=mask_BTS, bias_BHTS=bias_BHTS, scale=scale, soft_cap=soft_cap
    ).astype(v_BSGK.dtype)
    if dropout_key is not None:
        weights_BGRTS = dropout.dropout(weights_BGRTS, dropout_key, rate=dropout_rate)
    y_BTGRK = jnp.einsum('BGRTS,BSGK->BTGRK', weights_BGRTS, v_BSGK)
    return y_BTGRK.reshape(q_BTHK.shape)


def weigh(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    *,
    mask_BTS: jax.Array | None = None,
    bias_BHTS: jax.Array | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
) -> jax.Array:
    """The weight of each key for each query, [B, G, R, T, S]: softmax(q k / sqrt(K)), taken in float32 or float64.

    Args:
      mask_BTS: [B or 1, T, S] bool; a query that sees no key weighs all alike, for the caller to ignore.
      bias_BHTS: added to the scores.
      scale: of the scores, instead of 1 / sqrt(K).
      soft_cap: scores are squashed to (-soft_cap, soft_cap) by tanh before the mask (Gemma 2, section 2).
    """
    B, T, H, K = q_BTHK.shape
    S, G = k_BSGK.shape[1:3]
    q_BTGRK = q_BTHK.reshape(B, T, G, H // G, K) * jnp.asarray(scale_of(K, scale), q_BTHK.dtype)
    scores_BGRTS = jnp.einsum('BTGRK,BSGK->BGRTS', q_BTGRK, k_BSGK, preferred_element_type=precision.sums(q_BTHK.dtype))
    if bias_BHTS is not None:
        scores_BGRTS = scores_BGRTS + bias_BHTS.reshape(-1, G, H // G, T, S)
    if soft_cap is not None:
        scores_BGRTS = soft_cap * jnp.tanh(scores_BGRTS / soft_cap)
    if mask_BTS is not None:
        scores_BGRTS = jnp.where(mask_BTS[:, None, None], scores_BGRTS, MASKED)
    return jax.nn.softmax(scores_BGRTS, axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plain(kernels.Kernel):
    """attend(), split by the compiler: for everything, everywhere."""

    def obstacle(self, case: kernels.Case) -> str | None:
        return None

    def attend(
        self,
        q_BTHK: jax.Array,
        k_BSGK: jax.Array,
        v_BSGK: jax.Array,
        context: Context,
        *,
        scores: Scores,
        heads: str = 'heads',
    ) -> jax.Array:
        asked = _asked(context, scores)
        y_BTHK = attend(
            q_BTHK, k_BSGK, v_BSGK, **asked, dropout_key=scores.dropout_key, dropout_rate=scores.dropout_rate
        )
        return ad_checkpoint.checkpoint_name(y_BTHK, 'attention')


def shown(q_BTHK: jax.Array, k_BSGK: jax.Array, context: Context, scores: Scores) -> jax.Array:
    """The weights [B, H, T, S] that attention gives to the keys, before dropout."""
    weights_BGRTS = weigh(q_BTHK, k_BSGK, **_asked(context, scores))
    B, _, _, T, S = weights_BGRTS.shape
    return weights_BGRTS.reshape(B, -1, T, S)


def _asked(context: Context, scores: Scores) -> dict[str, Any]:
    """The arguments of weigh() for a context."""
    return {
        'mask_BTS': visible(context, causal=scores.causal, window=scores.window),
        'bias_BHTS': context.bias_BHTS,
        'scale': scores.scale,
        'soft_cap': scores.soft_cap,
    }
