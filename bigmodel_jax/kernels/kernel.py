"""The interface of the ways to compute attention, and all that decides whether one of them can."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax

from bigmodel_jax.kernels.context import Context, Order, Scores
from bigmodel_jax.parallel import sharding

# Logical axes whose cuts decide how attention is computed.
AXES = ('batch', 'length', 'heads', 'kv_heads', 'all_heads')


class Case(NamedTuple):
    """One attention: what is computed, and on what."""

    platform: str | None  # 'cpu', 'gpu' or 'tpu'; None outside of a mesh.
    shards: Mapping[str, int]  # Into how many parts each of AXES is cut.
    q: jax.ShapeDtypeStruct  # [B, T, H, K]
    k: jax.ShapeDtypeStruct  # [B, S, G, K]
    scores: Scores = Scores()
    segments: bool = False
    bias: bool = False
    counted: bool = False  # See Order.

    @property
    def places_tell(self) -> bool:
        """Whether the places of query and key in the array say as much as their positions."""
        if not self.scores.causal and self.scores.window is None:
            return True
        return (self.segments or self.counted) and self.q.shape[1] == self.k.shape[1]

    def without_cuts_of_length(self) -> 'Case':
        """The same after an exchange of positions for heads."""
        cuts = {'length': 1, 'heads': self.shards['all_heads'], 'kv_heads': self.shards['all_heads']}
        return self._replace(shards={**self.shards, **cuts})


def case_of(q_BTHK: jax.Array, k_BSGK: jax.Array, context: Context, scores: Scores) -> Case:
    """The case of these arrays on the mesh in use."""
    place = sharding.current()
    return Case(
        platform=None if place is None else place.platform,
        shards={axis: sharding.shards(axis) for axis in AXES},
        q=jax.ShapeDtypeStruct(q_BTHK.shape, q_BTHK.dtype),
        k=jax.ShapeDtypeStruct(k_BSGK.shape, k_BSGK.dtype),
        scores=scores,
        segments=context.segments is not None,
        bias=context.bias_BHTS is not None,
        counted=context.order is Order.COUNTED,
    )


VISIBLE = 'visible_pairs_'  # Begins the name of a scope, which ends in the share of the scores that count.


def counted_share(case: Case) -> contextlib.AbstractContextManager[None]:
    """A scope whose name tells whoever counts FLOPs which share of the scores the mask leaves."""
    share = case.scores.visible_share(case.q.shape[1], case.k.shape[1])
    return jax.named_scope(f'{VISIBLE}{share:.9f}')


class Kernel:
    """Interface of the configs that stand for a way to compute attention."""

    def obstacle(self, case: Case) -> str | None:
        """Why it cannot compute this case, as a clause that goes after 'since'; None if it can."""
        raise NotImplementedError

    def label(self, case: Case) -> str:
        """What it is called in a sentence."""
        return type(self).__name__.lower()

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
        """The weighted sum of the values, [B, T, H, K], as layers.plain.attend() defines it.

        Args:
          heads: the logical axis that cuts the heads of all three.
        """
        raise NotImplementedError


def not_fused(name: str, case: Case) -> Iterator[str]:
    """Obstacles that all fused kernels share: the scores never leave the chip."""
    if case.bias:
        yield f'{name} has no bias'
    if case.scores.dropout_rate > 0:
        yield f'{name} has no dropout'
    if case.q.dtype.name == 'float64':
        yield f'{name} computes in float32 at best'


def uneven(case: Case) -> Iterator[str]:
    """Obstacles of what runs on each device's own part: the parts must be equal."""
    for axis, size in (('batch', case.q.shape[0]), ('heads', case.q.shape[2]), ('kv_heads', case.k.shape[2])):
        if size % case.shards[axis]:
            yield f'{size} of {axis} do not divide over {case.shards[axis]} devices'


def rows(x_BT: jax.Array | None, length: str | None) -> sharding.LogicalAxes | None:
    """The logical axes of positions or segments, which may be one row for all."""
    return None if x_BT is None else (None if x_BT.shape[0] == 1 else 'batch', length)
