"""What attention is asked: where queries and keys stand, which keys a query sees, and what is done to the scores."""

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp


@jax.tree_util.register_static
class Order(enum.Enum):
    """What is known of the positions before anything is computed: part of a program, not of its inputs."""

    UNKNOWN = 'unknown'
    COUNTED = 'counted'  # 0, 1, 2 ... in every row, of queries and keys alike.

    @classmethod
    def of(cls, positions_BT: jax.Array | None) -> 'Order':
        """Of positions as a batch gives them; None stands for counted ones."""
        return cls.COUNTED if positions_BT is None else cls.UNKNOWN


class Context(NamedTuple):
    """Where queries and keys stand; from it follows which keys a query sees.

    Positions are [B, T] and [B, S], or [1, T] and [1, S] where all rows agree. Segments number the documents of a
    packed row from 1, 0 being padding; None where each row is one document. The tokens of a document stand side by side
    and in order, so that within a row distances are those of the places in the array. Without segments only `order`
    says so; a kernel that counts places is not used before it does.
    """

    query_positions_BT: jax.Array
    key_positions_BS: jax.Array
    query_segments_BT: jax.Array | None = None
    key_segments_BS: jax.Array | None = None
    bias_BHTS: jax.Array | None = None
    order: Order = Order.UNKNOWN

    @property
    def segments(self) -> tuple[jax.Array, jax.Array] | None:
        """Those of the queries and of the keys, where there are both."""
        if self.query_segments_BT is None or self.key_segments_BS is None:
            return None
        return self.query_segments_BT, self.key_segments_BS


class Scores(NamedTuple):
    """Which scores count, and what happens to them on their way to weights."""

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
    """What products of queries and keys are multiplied by: `scale`, or 1 / sqrt(K)."""
    return head_width**-0.5 if scale is None else scale


def visible(context: Context, *, causal: bool, window: int | None) -> jax.Array | None:
    """[B or 1, T, S] bool: whether query t may see key s; None if every query sees every key.

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
