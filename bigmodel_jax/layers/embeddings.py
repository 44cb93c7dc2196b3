"""Tokens to vectors, and vectors back to scores of tokens."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from bigmodel_jax import config, sharding
from bigmodel_jax.layers import dropout, weights


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
    """Owns a table [V, D], and an output matrix [D, V] unless tied."""

    config: Embedding
    vocab: int
    width: int
    dtype: jnp.dtype

    def setup(self) -> None:
        c, axes = self.config, {'vocab': self.vocab, 'embed': self.width}
        self.table_VD = weights.weight(self, 'table', axes, init=c.init, inputs=('embed',), dtype=self.dtype)
        if not c.tied:
            axes = {'embed': self.width, 'vocab': self.vocab}
            self.output_DV = weights.weight(self, 'output', axes, init=c.init, inputs=('embed',), dtype=self.dtype)

    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        # Whole along D: rows looked up in parts of D would have to change places to become whole rows of a batch.
        x_BTD = sharding.constrain(self.table_VD, 'vocab', None)[tokens_BT]
        return x_BTD * jnp.asarray(math.sqrt(self.width), self.dtype) if self.config.scaled else x_BTD

    def finish(self, x_BTD: jax.Array) -> jax.Array:
        """The input of the first layer: embeddings with their positions, laid out on the mesh, after dropout."""
        return dropout.drop(self, sharding.constrain(x_BTD, 'batch', 'length', 'embed'), self.config.dropout)

    def unembed(self, x_BTD: jax.Array) -> jax.Array:
        """Logits [B, T, V] float32."""
        if self.config.tied:
            logits_BTV = jnp.einsum('BTD,VD->BTV', x_BTD, self.table_VD, preferred_element_type=jnp.float32)
        else:
            logits_BTV = jnp.einsum('BTD,DV->BTV', x_BTD, self.output_DV, preferred_element_type=jnp.float32)
        return sharding.constrain(logits_BTV, 'batch', 'length', 'vocab')
