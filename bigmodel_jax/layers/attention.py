"""Multi-head attention: softmax(q k^T / sqrt(K)) v, and the module that owns the projections.

kernels/context.py defines which keys a query attends to; kernels/paths.py chooses a fused kernel where there is one.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import ad_checkpoint

from bigmodel_jax import config, precision
from bigmodel_jax.kernels import kernel as kernels
from bigmodel_jax.kernels import paged, paths
from bigmodel_jax.kernels.context import Context, Query, Scores, scale_of
from bigmodel_jax.layers import kv_cache, norms, positions
from bigmodel_jax.layers.base import dropout, intermediates, layer, weights
from bigmodel_jax.parallel import collective_matmul, sharding

# Finite, not -inf: a row that attends to no key (padding) would make softmax return NaN, and NaN gradients spread.
MASKED = -1e9


# ---- mathematics ------------------------------------------------------------------------------------------------


def dot_product_attention(
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
    """softmax(q k^T / sqrt(K)) v for each head, [B, T, H, K].

    Args:
      k_BSGK, v_BSGK: each of the G key/value heads serves H / G neighbouring query heads (Ainslie et al., 2023).
      mask_BTS, bias_BHTS, scale, soft_cap: see attention_weights().
      dropout_key: of the dropout on the attention weights, at `dropout_rate`.

    Source: Vaswani et al. (2017), arXiv:1706.03762, equation 1.
    """
    weights_BGRTS = attention_weights(
        q_BTHK, k_BSGK, mask_BTS=mask_BTS, bias_BHTS=bias_BHTS, scale=scale, soft_cap=soft_cap
    ).astype(v_BSGK.dtype)
    if dropout_key is not None:
        weights_BGRTS = dropout.dropout(weights_BGRTS, dropout_key, rate=dropout_rate)
    y_BTGRK = jnp.einsum('BGRTS,BSGK->BTGRK', weights_BGRTS, v_BSGK)
    return y_BTGRK.reshape(q_BTHK.shape)


def attention_weights(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    *,
    mask_BTS: jax.Array | None = None,
    bias_BHTS: jax.Array | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(K)), the weight of each key for each query, [B, G, R, T, S] in float32 or float64.

    Args:
      mask_BTS: [B or 1, T, S] bool; a query that attends to no key gets equal weights, for the caller to ignore.
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
    """dot_product_attention() without a fused kernel: for every case on every platform."""

    def unsupported_reason(self, case: kernels.Case) -> str | None:
        return None

    def attend(self, query: Query) -> jax.Array:
        scores = query.scores
        options = {'dropout_key': scores.dropout_key, 'dropout_rate': scores.dropout_rate, **_weights_options(query)}
        return ad_checkpoint.checkpoint_name(dot_product_attention(*query[:3], **options), 'attention')


def _weights_options(query: Query) -> dict[str, Any]:
    """The keyword arguments of attention_weights() for a query."""
    scores, bias_BHTS = query.scores, query.context.bias_BHTS
    return {'mask_BTS': query.mask_BTS, 'bias_BHTS': bias_BHTS, 'scale': scores.scale, 'soft_cap': scores.soft_cap}


# ---- config -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class DotProduct:
    """The score of a query and a key: their product, times `scale`."""

    scale: config.PositiveFloat | None = None  # None: 1 / sqrt(K). T5 has 1; see Attention.query_init().
    # Scores are squashed to (-soft_cap, soft_cap) by tanh (Gemma 2, section 2).
    soft_cap: config.PositiveFloat | None = None
    norm: ClassVar[norms.RmsNorm | None] = None  # Of queries and keys; see variants/.

    def scale_for(self, head_width: int) -> float | None:
        """The scale for heads of width K; None for 1 / sqrt(K)."""
        return self.scale


@dataclasses.dataclass(frozen=True, kw_only=True)
class InverseWidth(DotProduct):
    """The product of a query and a key times sqrt(base_head_width) / K: 1 / K, as in muP, but for a constant.

    At base_head_width it is 1 / sqrt(K) to the bit. Source: Yang et al. (2022), arXiv:2203.03466, definition 4.1.
    """

    base_head_width: config.Positive

    def __post_init__(self) -> None:
        if self.scale is not None:
            raise config.InputError(
                f'{config.format_value(self)}: the scale follows from base_head_width; leave it out.'
            )

    def scale_for(self, head_width: int) -> float | None:
        if head_width == self.base_head_width:
            return None
        return math.sqrt(self.base_head_width) / head_width


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention(layer.Mixer):
    """Multi-head attention, with grouped key/value heads if `kv_heads` is less than `heads`."""

    heads: config.Positive  # H
    kv_heads: config.Positive | None = None  # G; None: as many as heads.
    head_width: config.Positive | None = None  # K; None: model width / heads.
    causal: bool = True
    rotary: positions.Rotary | None = None
    window: config.Positive | None = None
    scores: DotProduct = DotProduct()
    bias: bool = False
    dropout: config.Probability = 0.0
    init: weights.Initializer = weights.FanIn()
    out_init: weights.Initializer | None = None  # None: like `init`.
    kernel: kernels.Kernel | None = None  # None: the best supported one; see kernels/paths.py. Decoding is plain.

    label = 'attention'

    @property
    def out_bias(self) -> bool:
        """Whether the output projection has a bias."""
        return self.bias

    def build(self, name: str | None = None) -> nn.Module:
        return AttentionModule(self, name=name)

    def initial_state(self, rows: int, length: int, *, width: int, dtype: str) -> kv_cache.KeyValueCache:
        if self.rotary is not None:
            self.rotary.check_cache(length)
        shape = (rows, length, self.kv_heads or self.heads, self.width_of_head(width))
        return kv_cache.KeyValueCache.empty(shape, dtype)

    def check(self, width: int, length: int) -> None:
        self.width_of_head(width)
        if self.window is not None and self.window > length:
            raise config.InputError(
                f'attention.window={self.window} is longer than the data ({length} tokens); '
                'leave it out, or use longer data.'
            )

    def bidirectional(self) -> 'Attention':
        return dataclasses.replace(self, causal=False)

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
        if self.rotary is not None:
            self.rotary.check(head_width)
        if self.scores.scale == 0:
            raise config.InputError('attention.scores.scale=0 makes all scores alike; leave it out for 1 / sqrt(K).')
        return head_width

    def query_init(self, width: int) -> weights.Initializer:
        """The initializer of the query matrix: initial scores are as large as with a scale of 1 / sqrt(K)."""
        if self.scores.scale is None:
            return self.init
        head_width = self.width_of_head(width)
        return weights.Times(init=self.init, factor=scale_of(head_width, None) / self.scores.scale)


# ---- module -----------------------------------------------------------------------------------------------------


class AttentionModule(nn.Module):
    """Owns query_DHK, key_DGK, value_DGK and out_HKD, and their biases."""

    config: Attention

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        context: Context,
        state: kv_cache.KeyValueCache | None = None,
        *,
        memory_BSD: jax.Array | None = None,
    ) -> tuple[jax.Array, kv_cache.KeyValueCache | None]:
        """Attends from `x_BTD` to itself, or to `memory_BSD` (cross-attention).

        Args:
          state: earlier keys and values; this call's are stored at the query positions, and all are attended to.

        Returns:
          [B, T, D], and the state with the new keys and values.
        """
        c, D, dtype = self.config, x_BTD.shape[-1], x_BTD.dtype
        q_BTHK, k_BSGK, v_BSGK = self.projections(x_BTD, memory_BSD, context)
        if c.scores.norm is not None:
            q_BTHK = c.scores.norm.build('query_norm', axis='head')(q_BTHK)
            k_BSGK = c.scores.norm.build('key_norm', axis='head')(k_BSGK)
        if c.rotary is not None:
            q_BTHK = c.rotary.rotate(q_BTHK, context.query_positions_BT)
            # Keys of this call have the query positions; those in the cache were rotated when they were stored.
            k_BSGK = c.rotary.rotate(k_BSGK, context.key_positions_BS if state is None else context.query_positions_BT)
        query = Query(q_BTHK, k_BSGK, v_BSGK, context, self._scores(D))
        if state is None:
            y_BTHK = paths.attend(query, plain=Plain(), forced=c.kernel, layer='/'.join(self.path))
        elif context.pages is not None:
            y_BTHK, state = paged.attend(query, layer=state), kv_cache.KeyValueCache(k_BSGK, v_BSGK)
        else:
            state = state.updated(k_BSGK, v_BSGK, context.query_positions_BT)
            query = query._replace(k_BSGK=state.k_BSGK.astype(dtype), v_BSGK=state.v_BSGK.astype(dtype))
            y_BTHK = Plain().attend(query)
        if intermediates.requested(self, intermediates.ATTENTION_WEIGHTS):  # A fused kernel has none in memory.
            weights_BGRTS = attention_weights(*query[:2], **_weights_options(query))
            weights_BHTS = weights_BGRTS.reshape(-1, c.heads, *weights_BGRTS.shape[3:])
            intermediates.sow(self, intermediates.ATTENTION_WEIGHTS, 'weights', weights_BHTS)
        axes = {'heads': c.heads, 'head': c.width_of_head(D), 'embed': D}
        out_HKD = weights.matrix(self, 'out', axes, init=c.out_init or c.init, inputs=('heads', 'head'), dtype=dtype)
        y_BTD = collective_matmul.matmul_reducescatter('BTHK,HKD->BTD', y_BTHK, out_HKD, cut='heads')
        if c.out_bias:
            y_BTD = y_BTD + weights.vector(self, 'out_bias', {'embed': D}, value=0.0, dtype=dtype)
        return y_BTD, state

    def _scores(self, width: int) -> Scores:
        c = self.config
        scores = Scores(c.causal, c.window, c.scores.soft_cap, scale=c.scores.scale_for(c.width_of_head(width)))
        if c.dropout == 0 or not self.has_rng('dropout'):
            return scores
        return scores._replace(dropout_rate=c.dropout, dropout_key=self.make_rng('dropout'))

    def projections(self, x_BTD: jax.Array, memory_BSD: jax.Array | None, context: Context) -> list[jax.Array]:
        """Queries, keys and values."""
        if memory_BSD is None:
            return self._project(x_BTD, 'query', 'key', 'value')
        return self._project(x_BTD, 'query') + self._project(memory_BSD, 'key', 'value')

    def _project(self, x_BTD: jax.Array, *names: str) -> list[jax.Array]:
        """Queries, keys or values [B, T, H or G, K] of an input."""
        c, D, dtype = self.config, x_BTD.shape[-1], x_BTD.dtype
        head_axes = [self._heads(name) for name in names]
        matrices = []
        for name, heads in zip(names, head_axes):
            axes = {'embed': D, **heads, 'head': c.width_of_head(D)}
            init = c.query_init(D) if name == 'query' else c.init
            matrices.append(weights.matrix(self, name, axes, init=init, inputs=('embed',), dtype=dtype))
        subscripts = ('BTD,DHK->BTHK',) * len(names)
        cuts = tuple(next(iter(heads)) for heads in head_axes)
        found = list(collective_matmul.allgather_matmul(x_BTD, subscripts, tuple(matrices), cuts=cuts))
        if c.bias:
            for i, (name, heads) in enumerate(zip(names, head_axes)):
                axes = {**heads, 'head': c.width_of_head(D)}
                found[i] = found[i] + weights.vector(self, f'{name}_bias', axes, value=0.0, dtype=dtype)
        return found

    def _heads(self, name: str) -> dict[str, int]:
        """The logical axis of the heads of a projection, and how many there are."""
        heads = self.config.heads if name == 'query' else self.config.kv_heads or self.config.heads
        axis = 'heads' if name == 'query' else 'kv_heads'
        if axis == 'kv_heads' and heads % sharding.shards(axis):
            axis = 'shared_kv_heads'  # No rule splits them; see paths.repeat_heads().
        place = sharding.current()
        if place is not None:  # Otherwise the first constraint would fail, with a less helpful message.
            place.check(f'attention.{axis}', (heads,), (axis,))
        return {axis: heads}
