"""Tokens to vectors, and vectors back to scores of tokens."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from bigmodel_jax import config, sharding
from bigmodel_jax.layers import dropout, lookup, weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedding:
    """The table of token embeddings, and how the output layer relates to it."""

    tied: bool = True  # The output matrix is the table (Press and Wolf, 2017, arXiv:1608.05859).
    scaled: bool = False  # Embeddings are multiplied by sqrt(D) (Vaswani et al., 2017, section 3.4).
    dropout: config.Probability = 0.0  # On the sum of embeddings and positions.
    init: weights.Initializer = weights.Normal(stddev=0.02)

    def build(self, vocab: int, width: int, dtype: str, name: str | None = None) -> nn.Module:
        return EmbeddingModule(self, vocab=vocab, width=width, dtype=jnp.dtype(dtype), name=name)


class EmbeddingModule(nn.Module):
    """Owns a table [V, D], and an output matrix [V, D] unless tied."""

    config: Embedding
    vocab: int
    width: int
    dtype: jnp.dtype

    def setup(self) -> None:
        c, axes = self.config, {'vocab': self.vocab, 'embed': self.width}
        self.table_VD = weights.weight(self, 'table', axes, init=c.init, inputs=('embed',), dtype=self.dtype)
        if not c.tied:
            self.output_VD = weights.weight(self, 'output', axes, init=c.init, inputs=('embed',), dtype=self.dtype)

    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        x_BTD = lookup.lookup(self.table_VD, tokens_BT)
        return x_BTD * jnp.asarray(math.sqrt(self.width), self.dtype) if self.config.scaled else x_BTD

    def finish(self, x_BTD: jax.Array) -> jax.Array:
        """The input of the first layer: embeddings with their positions, laid out on the mesh, after dropout."""
        return dropout.drop(self, sharding.constrain(x_BTD, 'batch', 'stream', 'embed'), self.config.dropout)

    def head(self) -> jax.Array:
        """The output matrix [V, D]."""
        return self.table_VD if self.config.tied else self.output_VD

    def unembed(self, x_BTD: jax.Array) -> jax.Array:
        """Logits [B, T, V] float32."""
        return unembed(x_BTD, self.head())


def unembed(x_BTD: jax.Array, head_VD: jax.Array) -> jax.Array:
    """Logits [B, T, V] float32 of features and an output matrix."""
    logits_BTV = jnp.einsum('BTD,VD->BTV', x_BTD, head_VD, preferred_element_type=jnp.float32)
    return sharding.constrain(logits_BTV, 'batch', 'length', 'vocab')
