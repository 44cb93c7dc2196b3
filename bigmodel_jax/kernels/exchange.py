"""Attention over sequences that are split over devices: during attention each device holds whole rows of some heads.

Source: Jacobs et al. (2023), arXiv:2309.14509 (DeepSpeed Ulysses). The compiler makes the all-to-alls out of two
constraints.
"""

import dataclasses

import jax

from bigmodel_jax.kernels.context import Query
from bigmodel_jax.kernels.kernel import Case, Kernel
from bigmodel_jax.parallel import sharding


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllToAll(Kernel):
    """Exchanges positions for heads, computes by `local`, and exchanges back."""

    local: Kernel | None = None  # None: what would be chosen for whole rows.

    def unsupported_reason(self, case: Case) -> str | None:
        parts, heads, kv_heads = case.shards['all_heads'], case.q.shape[2], case.k.shape[2]
        if case.shards['length'] == 1:
            return 'an all-to-all needs a length that is split'
        if heads % parts or kv_heads % parts:
            return f'{heads} heads and {kv_heads} key/value heads do not both divide over {parts} devices'
        return None if self.local is None else self.local.unsupported_reason(case.with_whole_rows())

    def label(self, case: Case) -> str:
        local = '' if self.local is None else f' and {self.local.label(case.with_whole_rows())}'
        return f'all-to-all over {case.shards["length"]}{local}'

    def attend(self, query: Query) -> jax.Array:
        assert self.local is not None  # choose() has filled it in.
        q_BTHK, k_BSGK, v_BSGK = (sharding.constrain(x, 'batch', None, 'all_heads', None) for x in query[:3])
        whole = query._replace(q_BTHK=q_BTHK, k_BSGK=k_BSGK, v_BSGK=v_BSGK, heads='all_heads')
        y_BTHK = self.local.attend(whole)
        y_BTHK = sharding.constrain(y_BTHK, 'batch', None, 'all_heads', None)
        return sharding.constrain(y_BTHK, 'batch', 'length', query.heads, None)
