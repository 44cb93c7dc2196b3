"""The interface of attention kernels, and what decides whether a kernel supports a call."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax

from bigmodel_jax.kernels.context import PositionOrder, Query, Scores
from bigmodel_jax.parallel import sharding

# Logical axes whose sharding decides how attention is computed.
AXES = ('batch', 'length', 'heads', 'kv_heads', 'all_heads')


class Case(NamedTuple):
    """What is known of a call of attention when the program is traced."""

    platform: str | None  # 'cpu', 'gpu' or 'tpu'; None outside of a mesh.
    shards: Mapping[str, int]  # Into how many parts each of AXES is split.
    q: jax.ShapeDtypeStruct  # [B, T, H, K]
    k: jax.ShapeDtypeStruct  # [B, S, G, K]
    scores: Scores = Scores()
    segments: bool = False
    bias: bool = False
    contiguous: bool = False  # See PositionOrder.

    @property
    def positions_are_indices(self) -> bool:
        """Whether a kernel may compare the array indices of query and key instead of their positions."""
        if not self.scores.causal and self.scores.window is None:
            return True
        return (self.segments or self.contiguous) and self.q.shape[1] == self.k.shape[1]

    def with_whole_rows(self) -> 'Case':
        """The same after the all-to-all that exchanges positions for heads."""
        cuts = {'length': 1, 'heads': self.shards['all_heads'], 'kv_heads': self.shards['all_heads']}
        return self._replace(shards={**self.shards, **cuts})


def case_of(query: Query) -> Case:
    """The case of a call on the mesh in use."""
    place, q_BTHK, k_BSGK = sharding.current(), query.q_BTHK, query.k_BSGK
    return Case(
        platform=None if place is None else place.platform,
        shards={axis: sharding.shards(axis) for axis in AXES},
        q=jax.ShapeDtypeStruct(q_BTHK.shape, q_BTHK.dtype),
        k=jax.ShapeDtypeStruct(k_BSGK.shape, k_BSGK.dtype),
        scores=query.scores,
        segments=query.context.segments is not None,
        bias=query.context.bias_BHTS is not None,
        contiguous=query.context.order is PositionOrder.CONTIGUOUS,
    )


VISIBLE = 'visible_pairs_'  # The prefix of a scope's name; the rest is the share of the scores that are not masked.


def visible_share(case: Case) -> contextlib.AbstractContextManager[None]:
    """A scope whose name says which share of the scores is not masked, for the count of FLOPs.

    A program for every length, such as an exported one, has no such share and needs none.
    """
    if not isinstance(case.q.shape[1], int) or not isinstance(case.k.shape[1], int):
        return contextlib.nullcontext()
    share = case.scores.visible_share(case.q.shape[1], case.k.shape[1])
    return jax.named_scope(f'{VISIBLE}{share:.9f}')


class Kernel:
    """Interface of the configs of attention kernels."""

    def unsupported_reason(self, case: Case) -> str | None:
        """Why the kernel does not support this case, as a clause that follows 'since'; None if it does."""
        raise NotImplementedError

    def label(self, case: Case) -> str:
        """The name of the kernel in messages."""
        return type(self).__name__.lower()

    def attend(self, query: Query) -> jax.Array:
        """The weighted sum of the values, [B, T, H, K], as layers.attention.dot_product_attention() defines it."""
        raise NotImplementedError


def not_fused(name: str, case: Case) -> Iterator[str]:
    """What no fused kernel supports."""
    if case.bias:
        yield f'{name} has no bias'
    if case.scores.dropout_rate > 0:
        yield f'{name} has no dropout'
    if case.q.dtype.name == 'float64':
        yield f'{name} computes in float32 at best'


def uneven(case: Case) -> Iterator[str]:
    """What no kernel supports that runs on each device's own part: dimensions that do not divide."""
    for axis, size in (('batch', case.q.shape[0]), ('heads', case.q.shape[2]), ('kv_heads', case.k.shape[2])):
        if size % case.shards[axis]:
            yield f'{size} of {axis} do not divide over {case.shards[axis]} devices'


def rows(x_BT: jax.Array | None, length: str | None) -> sharding.LogicalAxes | None:
    """The logical axes of positions or segments, which may be one row for all."""
    return None if x_BT is None else (None if x_BT.shape[0] == 1 else 'batch', length)
