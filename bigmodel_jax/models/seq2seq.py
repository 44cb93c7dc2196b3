"""Encoder-decoder Transformers with cross-attention."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.kernels import context as contexts
from bigmodel_jax.layers import attention, blocks, embeddings, norms, positions, stacks
from bigmodel_jax.models import decoder, model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seq2Seq(model.Model):
    """A model that reads one sequence and writes another (Vaswani et al., 2017, arXiv:1706.03762, figure 1).

    Batch: 'source' [B, S] and 'inputs' [B, T] int32; optionally 'source_segments' [B, S] and 'segments' [B, T]
    (documents of a packed row from 1, 0 is padding), 'source_positions' and 'positions'. 'memory' [B, S, D], the
    output of encode(), replaces 'source'.
    """

    vocab: config.Positive  # V, of both sides.
    width: config.Positive  # D
    encoder_layers: config.Positive
    decoder_layers: config.Positive
    block: blocks.Block  # Of the decoder; the encoder's does not mask the future, and cross-attention is like it.
    positions: positions.Positions | None
    norm: norms.Norm | None = norms.LayerNorm()  # After the last block of each side; None with PostNorm.
    embedding: embeddings.Embedding = embeddings.Embedding()
    dtype: Literal['float32', 'bfloat16'] = 'float32'
    stack: stacks.Stack = stacks.Stack()

    def build(self, name: str | None = None) -> nn.Module:
        return Seq2SeqModule(self, name=name)

    def check(self, fields: Mapping[str, batches.Field]) -> None:
        for name in ('source', 'inputs'):
            tokens = model.need(fields, name, 'Seq2Seq')
            model.check_tokens(tokens, vocab=self.vocab)
            decoder.check_length(self.positions, tokens.shape[0])
        stacks.check(self.block, self.width, fields['inputs'].shape[0])

    def empty_cache(self, rows: int, length: int) -> attention.Cache:
        """Keys and values of the decoder for `rows` sequences of up to `length` positions."""
        return stacks.empty_cache(
            self.block, layers=self.decoder_layers, rows=rows, length=length, width=self.width, dtype=self.dtype
        )

    @property
    def encoder_block(self) -> blocks.Block:
        """The block of the encoder: sees both ways."""
        both_ways = dataclasses.replace(self.block.attention, causal=False)
        return dataclasses.replace(self.block, attention=both_ways)

    @property
    def decoder_block(self) -> blocks.Block:
        """The block of the decoder: attends to the encoder's output too, where positions do not compare."""
        cross = self.block.cross or dataclasses.replace(self.block.attention, causal=False, rotary=None, window=None)
        return dataclasses.replace(self.block, cross=cross)


class Seq2SeqModule(nn.Module):
    """Owns one embedding for both sides, and each side's positions, blocks and norm."""

    config: Seq2Seq

    def setup(self) -> None:
        c = self.config
        self.embedding = c.embedding.build(c.vocab, c.width, c.dtype)
        self.encoder_positions = None if c.positions is None else c.positions.both_ways().build()
        self.decoder_positions = None if c.positions is None else c.positions.build()
        self.encoder = c.stack.build(c.encoder_block, c.encoder_layers)
        self.decoder = c.stack.build(c.decoder_block, c.decoder_layers)
        self.encoder_norm = None if c.norm is None else c.norm.build()
        self.decoder_norm = None if c.norm is None else c.norm.build()

    def __call__(self, batch: Mapping[str, jax.Array], cache: attention.Cache | None = None) -> dict[str, Any]:
        """{'logits': [B, T, V] float32}, and 'cache' if one is given. With a cache the batch needs 'positions'."""
        x_BTD, cache = self.features(batch, cache)
        outputs = {'logits': self.unembed(x_BTD)}
        return outputs if cache is None else {**outputs, 'cache': cache}

    def encode(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """The encoder's output [B, S, D]."""
        segments_BS = batch.get('source_segments')
        x_BSD, here_BS, bias = decoder.embed(
            self.embedding, self.encoder_positions, batch['source'], batch.get('source_positions')
        )
        order = contexts.Order.of(batch.get('source_positions'))
        context = attention.Context(here_BS, here_BS, segments_BS, segments_BS, bias, order)
        x_BSD, _ = self.encoder(x_BSD, context)
        return x_BSD if self.encoder_norm is None else self.encoder_norm(x_BSD)

    def features(
        self, batch: Mapping[str, jax.Array], cache: attention.Cache | None = None
    ) -> tuple[jax.Array, attention.Cache | None]:
        """[B, T, D] before the output matrix; and the cache of the decoder's own keys and values."""
        memory_BSD = self.encode(batch) if 'memory' not in batch else batch['memory']
        segments_BT, source_segments_BS = batch.get('segments'), batch.get('source_segments')
        slots = None if cache is None else cache.k_BSGK.shape[2]
        x_BTD, here_BT, bias = decoder.embed(
            self.embedding, self.decoder_positions, batch['inputs'], batch.get('positions'), slots=slots
        )
        there_BS = here_BT if slots is None else jnp.arange(slots)[None]
        order = contexts.Order.of(batch.get('positions'))
        context = attention.Context(here_BT, there_BS, segments_BT, segments_BT, bias, order)
        if source_segments_BS is not None and segments_BT is None:  # One pair in each row, the source padded.
            segments_BT = jnp.ones(batch['inputs'].shape, jnp.int32)
        source_BS = jnp.arange(memory_BSD.shape[1])[None]
        cross = attention.Context(here_BT, source_BS, segments_BT, source_segments_BS)
        x_BTD, cache = self.decoder(x_BTD, context, (memory_BSD, cross), cache)
        return x_BTD if self.decoder_norm is None else self.decoder_norm(x_BTD), cache

    def head(self) -> jax.Array:
        """The output matrix [V, D], for a loss that takes the logits in pieces."""
        return self.embedding.head()

    def unembed(self, x_BTD: jax.Array) -> jax.Array:
        """Logits [B, T, V] float32 of features."""
        return self.embedding.unembed(x_BTD)
