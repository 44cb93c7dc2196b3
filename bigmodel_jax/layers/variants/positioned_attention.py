"""Attention to whose queries and keys embeddings of the positions are added in every layer, but not to its values."""

import dataclasses

import jax
from flax import linen as nn

from bigmodel_jax.kernels.context import Context
from bigmodel_jax.layers import attention


@dataclasses.dataclass(frozen=True, kw_only=True)
class PositionedAttention(attention.Attention):
    """Attention whose context has `query_embeddings_BTD` and `key_embeddings_BSD`.

    Source: Carion et al. (2020), arXiv:2005.12872, section A.3.
    """

    def build(self, name: str | None = None) -> nn.Module:
        return PositionedAttentionModule(self, name=name)


class PositionedAttentionModule(attention.AttentionModule):
    """Owns what AttentionModule owns."""

    def projections(self, x_BTD: jax.Array, memory_BSD: jax.Array | None, context: Context) -> list[jax.Array]:
        memory_BSD = x_BTD if memory_BSD is None else memory_BSD
        queries_BTD, keys_BSD = context.query_embeddings_BTD, context.key_embeddings_BSD
        assert queries_BTD is not None
        assert keys_BSD is not None
        return [
            *self._project(x_BTD + queries_BTD.astype(x_BTD.dtype), 'query'),
            *self._project(memory_BSD + keys_BSD.astype(memory_BSD.dtype), 'key'),
            *self._project(memory_BSD, 'value'),
        ]
