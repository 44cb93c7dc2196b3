"""Tokens to vectors, and vectors back to scores of tokens."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from bigmodel_jax import config, precision
from bigmodel_jax.layers.base import dropout, weights
from bigmodel_jax.parallel import lookup, sharding


class Head(NamedTuple):
    """The output layer: logits are the features times the matrix, plus the bias."""

    matrix_VD: jax.Array
    bias_V: jax.Array | None = None
    soft_cap: jax.Array | None = None  # [], of the logits, which are squashed to (-soft_cap, soft_cap) by tanh.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedding:
    """The table of token embeddings, and how the output layer relates to it."""

    tied: bool = True  # The output matrix is the table (Press and Wolf, 2017, arXiv:1608.05859).
    scaled: bool = False  # Embeddings are multiplied by sqrt(D) (Vaswani et al., 2017, section 3.4).
    output_scaled: bool = False  # The output matrix is the weights divided by sqrt(D) (T5 v1.0's code).
    output_multiple: config.PositiveFloat = 1.0  # The output matrix is the weights times this (muP: see mup.py).
    output_soft_cap: config.PositiveFloat | None = None  # Logits are squashed to (-cap, cap) by tanh (Gemma 2).
    output_bias: bool = False  # A learned bias is added to the logits (BERT, Marian).
    padding: config.NonNegative | None = None  # A token whose row learns nothing as an input (PyTorch's padding_idx).
    dropout: config.Probability = 0.0  # On the sum of embeddings and positions.
    init: weights.Initializer = weights.Normal(stddev=0.02)
    output_init: weights.Initializer | None = None  # Of an output matrix of its own; None: like `init`.

    def build(self, vocab: int, width: int, dtype: str, name: str | None = None) -> nn.Module:
        return EmbeddingModule(self, vocab=vocab, width=width, dtype=jnp.dtype(dtype), name=name)


class EmbeddingModule(nn.Module):
    """Owns a table [V, D], an output matrix [V, D] unless tied, and the bias of the output, if any."""

    config: Embedding
    vocab: int
    width: int
    dtype: jnp.dtype

    def setup(self) -> None:
        c, axes = self.config, {'vocab': self.vocab, 'embed': self.width}
        self.table_VD = weights.weight(self, 'table', axes, init=c.init, inputs=('embed',), dtype=self.dtype)
        if not c.tied:
            init = c.output_init or c.init
            self.output_VD = weights.weight(self, 'output', axes, init=init, inputs=('embed',), dtype=self.dtype)
        if c.output_bias:
            axes, dtype = {'vocab': self.vocab}, precision.sums(self.dtype)
            self.output_bias_V = weights.vector(self, 'output_bias', axes, value=0.0, dtype=dtype)

    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        x_BTD = lookup.lookup(self.table_VD, tokens_BT)
        if self.config.padding is not None:
            x_BTD = jnp.where(tokens_BT[..., None] == self.config.padding, jax.lax.stop_gradient(x_BTD), x_BTD)
        return x_BTD * jnp.asarray(math.sqrt(self.width), self.dtype) if self.config.scaled else x_BTD

    def finish(self, x_BTD: jax.Array) -> jax.Array:
        """The input of the first layer: embeddings with their positions, laid out on the mesh, after dropout."""
        return dropout.drop(self, sharding.constrain(x_BTD, 'batch', 'residual_length', 'embed'), self.config.dropout)

    def head(self) -> Head:
        """The output layer."""
        matrix_VD = self.table_VD if self.config.tied else self.output_VD
        if self.config.output_scaled:
            matrix_VD = matrix_VD * jnp.asarray(self.width**-0.5, self.dtype)
        if self.config.output_multiple != 1:
            matrix_VD = matrix_VD * jnp.asarray(self.config.output_multiple, self.dtype)
        cap = self.config.output_soft_cap
        soft_cap = None if cap is None else jnp.asarray(cap, precision.sums(self.dtype))
        return Head(matrix_VD, self.output_bias_V if self.config.output_bias else None, soft_cap)

    def unembed(self, x_BTD: jax.Array) -> jax.Array:
        """Logits [B, T, V], float32 or float64."""
        return unembed(x_BTD, self.head())


def unembed(x_BTD: jax.Array, head: Head) -> jax.Array:
    """Logits [B, T, V] of features, float32 or float64; see precision.py."""
    dtype = precision.sums(x_BTD.dtype)
    logits_BTV = jnp.einsum('BTD,VD->BTV', x_BTD, head.matrix_VD, preferred_element_type=dtype)
    if head.bias_V is not None:
        logits_BTV = logits_BTV + head.bias_V
    if head.soft_cap is not None:
        logits_BTV = head.soft_cap * jnp.tanh(logits_BTV / head.soft_cap)
    return sharding.constrain(logits_BTV, 'batch', 'length', 'vocab')
