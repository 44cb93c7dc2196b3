"""Attention: the module that owns the projections.

The weighted sum stands in plain.py, which keys a query sees in kernels/context.py; kernels/paths.py chooses what
computes the sum.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import ad_checkpoint

from bigmodel_jax import config
from bigmodel_jax.kernels import kernel as kernels
from bigmodel_jax.kernels import paths
from bigmodel_jax.kernels.context import Context, Scores, scale_of
from bigmodel_jax.layers import intermediates, plain, positions, weights
from bigmodel_jax.parallel import collective_matmul, sharding


class Cache(NamedTuple):
    """Keys and values of the positions read so far; slot s holds position s."""

    k_BSGK: jax.Array
    v_BSGK: jax.Array


def split_heads(k_BSGK: jax.Array, heads: int) -> jax.Array:
    """Keys or values whose heads divide over the mesh axes of 'kv_heads': each is repeated where there are too few.

    Every device of the tensor axis then holds those that its query heads look at, one at least. The weights that make
    them are not split (Pope et al., 2022, arXiv:2211.05102, section 3.3).

    Args:
      heads: of the queries, which must divide.
    """
    G, parts = k_BSGK.shape[2], sharding.shards('kv_heads')
    if G % parts == 0 or heads % math.lcm(G, parts):
        return k_BSGK
    return jnp.repeat(k_BSGK, math.lcm(G, parts) // G, axis=2)


def _place(x_BTHK: jax.Array, heads: str) -> jax.Array:
    """Queries, keys or values with their length and heads split; a length that does not divide stays whole."""
    length = 'length' if x_BTHK.shape[1] % sharding.shards('length') == 0 else None
    return sharding.constrain(x_BTHK, 'batch', length, heads, None)


def write(cache: Cache, k_BTGK: jax.Array, v_BTGK: jax.Array, positions_BT: jax.Array) -> Cache:
    """The cache with the keys and values of `positions_BT` stored in their slots."""
    rows_B1 = jnp.arange(k_BTGK.shape[0])[:, None]
    return Cache(
        k_BSGK=cache.k_BSGK.at[rows_B1, positions_BT].set(k_BTGK.astype(cache.k_BSGK.dtype)),
        v_BSGK=cache.v_BSGK.at[rows_B1, positions_BT].set(v_BTGK.astype(cache.v_BSGK.dtype)),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DotProduct:
    """The score of a query and a key: their product, times `scale`."""

    scale: config.PositiveFloat | None = None  # None: 1 / sqrt(K). T5 has 1; see Attention.query_init().
    soft_cap: config.PositiveFloat | None = (
        None  # Scores are squashed to (-soft_cap, soft_cap) by tanh (Gemma 2, section 2).
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
    scores: DotProduct = DotProduct()
    bias: bool = False
    dropout: config.Probability = 0.0
    init: weights.Initializer = weights.FanIn()
    out_init: weights.Initializer | None = None  # None: like `init`.
    kernel: kernels.Kernel | None = None  # None: the best that can; see kernels/paths.py. Decoding is always plain.

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
        if self.scores.scale == 0:
            raise config.InputError('attention.scores.scale=0 makes all scores alike; leave it out for 1 / sqrt(K).')
        return head_width

    def query_init(self, width: int) -> weights.Initializer:
        """What draws the matrix of the queries: first scores are as large as with a scale of 1 / sqrt(K)."""
        if self.scores.scale is None:
            return self.init
        head_width = self.width_of_head(width)
        return weights.Times(init=self.init, factor=scale_of(head_width, None) / self.scores.scale)


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
        if memory_BSD is None:
            q_BTHK, k_BSGK, v_BSGK = self._project(x_BTD, 'query', 'key', 'value')
        else:
            (q_BTHK,), (k_BSGK, v_BSGK) = self._project(x_BTD, 'query'), self._project(memory_BSD, 'key', 'value')
        if c.rotary is not None:
            rotate = functools.partial(positions.rotary, base=c.rotary.base, scaling=c.rotary.scaling)
            q_BTHK = rotate(q_BTHK, context.query_positions_BT)
            # Keys of this call stand at the query positions; those in the cache were rotated when they were stored.
            here_BS = context.key_positions_BS if cache is None else context.query_positions_BT
            k_BSGK = rotate(k_BSGK, here_BS)
        scores = self._scores()
        if cache is None:
            y_BTHK = self._attend(q_BTHK, k_BSGK, v_BSGK, context=context, scores=scores)
        else:
            cache = write(cache, k_BSGK, v_BSGK, context.query_positions_BT)
            k_BSGK, v_BSGK = cache.k_BSGK.astype(dtype), cache.v_BSGK.astype(dtype)
            y_BTHK = plain.Plain().attend(q_BTHK, k_BSGK, v_BSGK, context, scores=scores)
        if intermediates.asked(self, intermediates.MAPS):  # Whatever computes the sum may never have had the weights.
            intermediates.show(self, intermediates.MAPS, 'weights', plain.shown(q_BTHK, k_BSGK, context, scores))
        axes = {'heads': c.heads, 'head': c.width_of_head(D), 'embed': D}
        out_HKD = weights.weight(self, 'out', axes, init=c.out_init or c.init, inputs=('heads', 'head'), dtype=dtype)
        y_BTD = collective_matmul.into_stream('BTHK,HKD->BTD', y_BTHK, out_HKD, cut='heads')
        if c.bias:
            y_BTD = y_BTD + weights.vector(self, 'out_bias', {'embed': D}, value=0.0, dtype=dtype)
        return y_BTD, cache

    def _scores(self) -> Scores:
        c = self.config
        scores = Scores(c.causal, c.window, c.scores.soft_cap, scale=c.scores.scale)
        if c.dropout == 0 or not self.has_rng('dropout'):
            return scores
        return scores._replace(dropout_rate=c.dropout, dropout_key=self.make_rng('dropout'))

    def _attend(
        self, q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, *, context: Context, scores: Scores
    ) -> jax.Array:
        """The weighted sum of the values, by what suits the mesh in use."""
        k_BSGK, v_BSGK = (split_heads(x, q_BTHK.shape[2]) for x in (k_BSGK, v_BSGK))
        q_BTHK = ad_checkpoint.checkpoint_name(_place(q_BTHK, 'heads'), 'query')
        k_BSGK = ad_checkpoint.checkpoint_name(_place(k_BSGK, 'kv_heads'), 'key')
        v_BSGK = ad_checkpoint.checkpoint_name(_place(v_BSGK, 'kv_heads'), 'value')
        case = kernels.case_of(q_BTHK, k_BSGK, context, scores)
        path = paths.choose(case, plain.Plain(), self.config.kernel)
        paths.note('/'.join(self.path), path)
        with kernels.counted_share(case):  # The name alone; it computes nothing.
            return path.kernel.attend(q_BTHK, k_BSGK, v_BSGK, context, scores=scores)

    def _project(self, x_BTD: jax.Array, *names: str) -> list[jax.Array]:
        """Queries, keys or values [B, T, H or G, K] of an input."""
        c, D, dtype = self.config, x_BTD.shape[-1], x_BTD.dtype
        cuts = tuple(self._cut(name) for name in names)
        matrices = []
        for name, (cut, heads) in zip(names, cuts):
            axes = {'embed': D, cut: heads, 'head': c.width_of_head(D)}
            init = c.query_init(D) if name == 'query' else c.init
            matrices.append(weights.weight(self, name, axes, init=init, inputs=('embed',), dtype=dtype))
        subscripts = ('BTD,DHK->BTHK',) * len(names)
        found = list(
            collective_matmul.out_of_stream(x_BTD, subscripts, tuple(matrices), cuts=tuple(cut for cut, _ in cuts))
        )
        for i, (name, (cut, heads)) in enumerate(zip(names, cuts)):
            if c.bias:
                axes = {cut: heads, 'head': c.width_of_head(D)}
                found[i] = found[i] + weights.vector(self, f'{name}_bias', axes, value=0.0, dtype=dtype)
        return found

    def _cut(self, name: str) -> tuple[str, int]:
        """The logical axis of the heads of a projection, and how many there are."""
        heads = self.config.heads if name == 'query' else self.config.kv_heads or self.config.heads
        logical = 'heads' if name == 'query' else 'kv_heads'
        if logical == 'kv_heads' and heads % sharding.shards(logical):
            logical = 'shared_kv_heads'  # No rule splits them; see split_heads().
        place = sharding.current()
        if place is not None:  # Else the first constraint would fail, in other words.
            place.check(f'attention.{logical}', (heads,), (logical,))
        return logical, heads
