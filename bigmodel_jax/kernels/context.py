"""The inputs of attention: queries, keys and values, their positions, and which keys a query attends to."""

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


@jax.tree_util.register_static
class PositionOrder(enum.Enum):
    """What is known of the positions when the program is traced: static, so it is not an input of the program."""

    UNKNOWN = 'unknown'
    CONTIGUOUS = 'contiguous'  # 0, 1, 2 ... in every row, for queries and keys alike.

    @classmethod
    def of(cls, positions_BT: jax.Array | None) -> 'PositionOrder':
        """The order of the positions in a batch; None stands for contiguous ones."""
        return cls.CONTIGUOUS if positions_BT is None else cls.UNKNOWN


class EncoderOutput(NamedTuple):
    """The output of an encoder, to which cross-attention attends."""

    x_BSD: jax.Array
    context: 'Context'  # The positions and segments of cross-attention: keys are positions of the encoder's input.


class Pages(NamedTuple):
    """Keys and values of earlier positions, in pages of one pool that the rows of a batch share; see kernels/paged.py.

    Position p of row b is slot p % S of page table_BN[b, p // S], of each layer. Pages may be listed that a row has not
    reached yet, and of a row without any positions the table means nothing.
    """

    k_LNSGK: jax.Array  # The pool: N pages of S positions in each layer.
    v_LNSGK: jax.Array
    table_BN: jax.Array  # int32: the pages of each row, in order.
    lengths_B: jax.Array  # int32: how many positions of each row are in its pages.


class Context(NamedTuple):
    """What all layers read beside the residual stream: the positions and segments of queries and keys.

    Positions are [B, T] and [B, S], or [1, T] and [1, S] where all rows agree. Segments number the documents of a
    packed row from 1, and 0 is padding; None where each row is one document. The tokens of a document are adjacent and
    in order, so within a row differences of positions equal differences of array indices. Without segments only `order`
    guarantees this, and kernels that compare array indices are used only where it is guaranteed.
    """

    query_positions_BT: jax.Array
    key_positions_BS: jax.Array
    query_segments_BT: jax.Array | None = None
    key_segments_BS: jax.Array | None = None
    bias_BHTS: jax.Array | None = None
    order: PositionOrder = PositionOrder.UNKNOWN
    memory: EncoderOutput | None = None
    pages: Pages | None = None  # Where a decoder reads on from, with a paged cache.
    # Embeddings of the positions of queries and keys, [B or 1, T, D] and [B or 1, S, D], for attention that adds them
    # in every layer (layers/variants/positioned_attention.py).
    query_embeddings_BTD: jax.Array | None = None
    key_embeddings_BSD: jax.Array | None = None

    def with_pages(self, pages: Any) -> 'Context':
        """The context with the pages of a batch, which are no array but Pages, or None."""
        return self._replace(pages=pages)

    @property
    def segments(self) -> tuple[jax.Array, jax.Array] | None:
        """The segments of the queries and of the keys, where both are given."""
        if self.query_segments_BT is None or self.key_segments_BS is None:
            return None
        return self.query_segments_BT, self.key_segments_BS


class Scores(NamedTuple):
    """Which scores are masked, and how the others become attention weights."""

    causal: bool = False  # Only keys at the query's position or before.
    window: int | None = None  # Only keys less than this many positions away (Beltagy et al., 2020, section 3.1).
    soft_cap: float | None = None  # They are squashed to (-soft_cap, soft_cap) by tanh (Gemma 2, section 2).
    dropout_rate: float = 0.0  # Of the weights.
    dropout_key: jax.Array | None = None  # None where nothing is dropped.
    scale: float | None = None  # Of the product of query and key; None: 1 / sqrt(K).

    def visible_share(self, queries: int, keys: int) -> float:
        """The share of all pairs of query and key that count, as model FLOPs are counted: causal attention is one half.

        Source: Dao (2023), arXiv:2307.08691, section 4.1: causal attention does half of the work.
        """
        width = 1.0 if self.window is None else min(self.window / keys, 1.0)
        one_side = width - width**2 / 2
        return one_side if self.causal else min(2 * one_side, 1.0)

    def scaled(self, q_BTHK: jax.Array) -> jax.Array:
        """The queries times the scale."""
        return q_BTHK * jnp.asarray(scale_of(q_BTHK.shape[-1], self.scale), q_BTHK.dtype)


def scale_of(head_width: int, scale: float | None) -> float:
    """The factor of the products of queries and keys: `scale`, or 1 / sqrt(K)."""
    return head_width**-0.5 if scale is None else scale


class Query(NamedTuple):
    """One call of attention: the input of every kernel."""

    q_BTHK: jax.Array
    k_BSGK: jax.Array
    v_BSGK: jax.Array
    context: Context
    scores: Scores = Scores()
    heads: str = 'heads'  # The logical axis along which the mesh splits the heads of all three.

    @property
    def mask_BTS(self) -> jax.Array | None:
        """Which keys each query attends to; see visible()."""
        return visible(self.context, causal=self.scores.causal, window=self.scores.window)


def visible(context: Context, *, causal: bool, window: int | None) -> jax.Array | None:
    """[B or 1, T, S] bool: whether query t attends to key s; None if every query attends to every key.

    Args:
      causal, window: see Scores.
    """
    distance_BTS = context.query_positions_BT[:, :, None] - context.key_positions_BS[:, None, :]
    parts = []
    if causal:
        parts.append(distance_BTS >= 0)
    if window is not None:
        parts.append(jnp.abs(distance_BTS) < window)
    if context.segments is not None:
        query_segments_BT, key_segments_BS = context.segments
        parts.append(query_segments_BT[:, :, None] == key_segments_BS[:, None, :])
    if not parts:
        return None
    mask_BTS = parts[0]
    for part in parts[1:]:
        mask_BTS = mask_BTS & part
    return mask_BTS
