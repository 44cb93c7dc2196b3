"""Encoder-decoder Transformers with cross-attention."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.kernels import context as contexts
from bigmodel_jax.layers import activations, attention, blocks, embeddings, ffn, kv_cache, norms, positions, stacks
from bigmodel_jax.layers.base import weights
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
    encoder: blocks.Block | None = None  # Of an encoder with other heads or another F than the decoder's.
    positions: positions.Positions | None
    norm: norms.Norm | None = norms.LayerNorm()  # After the last block of each side; None with PostNorm.
    embedding: embeddings.Embedding = embeddings.Embedding()
    dtype: model.Dtype = 'float32'
    stack: stacks.Stack = stacks.Stack()

    def build(self, name: str | None = None) -> nn.Module:
        model.check_dtype(self.dtype)
        return Seq2SeqModule(self, name=name)

    def check(self, fields: Mapping[str, batches.Field]) -> None:
        for name in ('source', 'inputs'):
            tokens = model.need(fields, name, 'Seq2Seq')
            model.check_tokens(tokens, vocab=self.vocab)
            decoder.check_length(self.positions, tokens.shape[0])
        if self.block.cross is None and not isinstance(self.block.mixer, attention.Attention):
            raise config.InputError(
                f'model.block.mixer is {type(self.block.mixer).__name__}(), which cannot attend to the encoder; '
                'set model.block.cross, for example to Attention(heads=8, causal=False).'
            )
        self._check_positions()
        for block in (self.encoder_block, self.decoder_block):
            block.check(self.width, fields['inputs'].shape[0])

    def outputs(self, fields: Mapping[str, batches.Field]) -> Mapping[str, model.Output]:
        return {'logits': model.token_logits(fields['inputs'], vocab=self.vocab, dtype=self.dtype)}

    def initial_state(self, rows: int, length: int) -> stacks.State:
        """The state of the decoder before the first token of `rows` sequences of up to `length` tokens."""
        blocks_of = (self.decoder_block,)
        return stacks.initial_state(blocks_of, self.decoder_layers, rows, length, width=self.width, dtype=self.dtype)

    def _check_positions(self) -> None:
        """Raises InputError if relative positions have not the heads of both sides."""
        if not isinstance(self.positions, positions.Relative) or self.encoder is None:
            return
        heads = [getattr(each.mixer, 'heads', None) for each in (self.encoder, self.block)]
        if heads[0] != heads[1]:
            raise config.InputError(
                f'model.encoder has {heads[0]} heads and model.block {heads[1]}; relative positions need equally many.'
            )

    @property
    def encoder_block(self) -> blocks.Block:
        """The block of the encoder, which attends to the whole source."""
        block = self.encoder or self.block
        return dataclasses.replace(block, mixer=block.mixer.bidirectional())

    @property
    def decoder_block(self) -> blocks.Block:
        """The block of the decoder: attends to the encoder's output too, where positions do not compare."""
        if self.block.cross is not None:
            return self.block
        assert isinstance(self.block.mixer, attention.Attention)  # See check().
        cross = dataclasses.replace(self.block.mixer, causal=False, rotary=None, window=None)
        return dataclasses.replace(self.block, cross=cross)


class Seq2SeqModule(nn.Module):
    """Owns one embedding for both sides, and each side's positions, blocks and norm."""

    config: Seq2Seq

    def setup(self) -> None:
        c = self.config
        self.embedding = c.embedding.build(c.vocab, c.width, c.dtype)
        self.encoder_positions = None if c.positions is None else c.positions.bidirectional().build()
        self.decoder_positions = None if c.positions is None else c.positions.build()
        self.encoder = c.stack.build((c.encoder_block,), c.encoder_layers)
        self.decoder = c.stack.build((c.decoder_block,), c.decoder_layers)
        self.encoder_norm = None if c.norm is None else c.norm.build()
        self.decoder_norm = None if c.norm is None else c.norm.build()

    def __call__(self, batch: Mapping[str, jax.Array], state: stacks.State | None = None) -> dict[str, Any]:
        """{'logits': [B, T, V]}, and 'state' if one is given: 'inputs' go on where it ends, and need 'positions'."""
        x_BTD, state = self.features(batch, state)
        outputs = {'logits': self.unembed(x_BTD)}
        return outputs if state is None else {**outputs, 'state': state}

    def encode(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """The encoder's output [B, S, D]."""
        segments_BS = batch.get('source_segments')
        x_BSD, here_BS, bias = decoder.embed(
            self.embedding, self.encoder_positions, batch['source'], batch.get('source_positions')
        )
        order = contexts.PositionOrder.of(batch.get('source_positions'))
        context = contexts.Context(here_BS, here_BS, query_segments(segments_BS), segments_BS, bias, order)
        x_BSD, _ = self.encoder(x_BSD, context)
        return x_BSD if self.encoder_norm is None else self.encoder_norm(x_BSD)

    def features(
        self, batch: Mapping[str, jax.Array], state: stacks.State | None = None
    ) -> tuple[jax.Array, stacks.State | None]:
        """[B, T, D] before the output matrix; and the state of the decoder's layers."""
        memory_BSD = self.encode(batch) if 'memory' not in batch else batch['memory']
        segments_BT, source_segments_BS = batch.get('segments'), batch.get('source_segments')
        slots = kv_cache.slots(state)
        x_BTD, here_BT, bias = decoder.embed(
            self.embedding, self.decoder_positions, batch['inputs'], batch.get('positions'), slots=slots
        )
        there_BS = here_BT if slots is None else jnp.arange(slots)[None]
        order = contexts.PositionOrder.of(batch.get('positions'))
        key_segments_BT = segments_BT if state is None else None  # A cache has none; see decoder.py.
        context = contexts.Context(here_BT, there_BS, query_segments(segments_BT), key_segments_BT, bias, order)
        if source_segments_BS is not None and segments_BT is None:  # One pair in each row, the source padded.
            segments_BT = jnp.ones(batch['inputs'].shape, jnp.int32)
        source_BS = jnp.arange(memory_BSD.shape[1])[None]
        cross = contexts.Context(here_BT, source_BS, query_segments(segments_BT), source_segments_BS)
        x_BTD, state = self.decoder(x_BTD, context._replace(memory=contexts.EncoderOutput(memory_BSD, cross)), state)
        return x_BTD if self.decoder_norm is None else self.decoder_norm(x_BTD), state

    def head(self) -> embeddings.Head:
        """The output layer, for a loss that takes the logits in pieces."""
        return self.embedding.head()

    def unembed(self, x_BTD: jax.Array) -> jax.Array:
        """Logits [B, T, V] of features, float32 or float64."""
        return self.embedding.unembed(x_BTD)


def query_segments(segments_BT: jax.Array | None) -> jax.Array | None:
    """The segments of queries: padding attends to the first document of its row, as where a mask hides keys alone.

    Nobody reads what becomes of padding, but comparisons with reference implementations, which do it so, are simpler.
    """
    return None if segments_BT is None else jnp.maximum(segments_BT, 1)


def transformer(
    *, vocab: int, width: int, layers: int, heads: int, hidden: int, dropout: float, **changes: Any
) -> Seq2Seq:
    """The original Transformer: sinusoids, ReLU, LayerNorm after each sublayer, biases in the feed-forward layers
    alone, one table for both sides and the output.

    Args:
      layers: of each side.
      dropout: on the output of every sublayer and on the sums of embeddings and positions.

    Source: Vaswani et al. (2017), arXiv:1706.03762, sections 3 and 5.4. The initial weights are those of its code,
    Tensor2Tensor.
    """
    init = weights.Xavier()
    block = blocks.Block(
        mixer=attention.Attention(heads=heads, init=init),
        ffn=ffn.Mlp(hidden=hidden, activation=activations.Relu(), bias=True, init=init),
        residual=blocks.PostNorm(dropout=dropout),
    )
    table = embeddings.Embedding(scaled=True, dropout=dropout, init=weights.Normal(stddev=width**-0.5))
    base = Seq2Seq(
        vocab=vocab,
        width=width,
        encoder_layers=layers,
        decoder_layers=layers,
        block=block,
        positions=positions.Sinusoidal(),
        norm=None,
        embedding=table,
    )
    return config.vary(base, changes)


def marian(*, vocab: int, width: int, layers: int, heads: int, hidden: int, length: int, **changes: Any) -> Seq2Seq:
    """Marian's Transformer: as transformer(), with biases in attention and on the logits, all sines before all cosines,
    for inputs of up to `length` tokens.

    Source: Junczys-Dowmunt et al. (2018), arXiv:1804.00344, as transformers' MarianMTModel computes it.
    """
    base = transformer(vocab=vocab, width=width, layers=layers, heads=heads, hidden=hidden, dropout=0.1)
    own = {
        'block.mixer.bias': True,
        'positions': positions.SinusoidTable(length=length),
        'embedding.output_bias': True,
    }
    return config.vary(config.vary(base, own), changes)


def t5(
    *, width: int, layers: int, heads: int, hidden: int, vocab: int = 32_128, head_width: int = 64, **changes: Any
) -> Seq2Seq:
    """T5: relative positions shared by all layers of a side, RMSNorm before each sublayer, scores that are not divided
    by sqrt(K), no bias, one table for both sides and, divided by sqrt(D), the output.

    Source: Raffel et al. (2019), arXiv:1910.10683, section 2.1, and its code.
    """
    rms = norms.RmsNorm(epsilon=1e-6)
    block = blocks.Block(
        mixer=attention.Attention(heads=heads, head_width=head_width, scores=attention.DotProduct(scale=1.0)),
        ffn=ffn.Mlp(hidden=hidden, activation=activations.Relu()),
        residual=blocks.PreNorm(norm=rms),
    )
    base = Seq2Seq(
        vocab=vocab,
        width=width,
        encoder_layers=layers,
        decoder_layers=layers,
        block=block,
        positions=positions.Relative(heads=heads, init=weights.Normal(stddev=width**-0.5)),
        norm=rms,
        embedding=embeddings.Embedding(output_scaled=True, init=weights.Normal(stddev=1.0)),
    )
    return config.vary(base, changes)


def t5_v1_1(*, width: int, layers: int, heads: int, hidden: int, **changes: Any) -> Seq2Seq:
    """T5 version 1.1: a gated feed-forward layer with GELU, and an output matrix of its own.

    Source: the released models; Shazeer (2020), arXiv:2002.05202, for the layer.
    """
    own = {
        'block.ffn': ffn.Gated(hidden=hidden, activation=activations.Gelu(approximate=True)),
        'embedding.tied': False,
        'embedding.output_scaled': False,
        'embedding.output_init': weights.FanIn(),
    }
    sizes = {name: changes.pop(name) for name in ('vocab', 'head_width') if name in changes}
    base = t5(width=width, layers=layers, heads=heads, hidden=hidden, **sizes)
    return config.vary(config.vary(base, own), changes)


# Vaswani et al. (2017), table 3. Section 5.1 says about 37,000 pieces, for English and German.
TRANSFORMER_BASE = transformer(vocab=37_000, width=512, layers=6, heads=8, hidden=2_048, dropout=0.1)
TRANSFORMER_BIG = transformer(vocab=37_000, width=1_024, layers=6, heads=16, hidden=4_096, dropout=0.3)
# Raffel et al. (2019), section 3.7; 32,128 is 32,000 pieces and 100 sentinels, rounded up, as in the released weights.
T5_SMALL = t5(width=512, layers=6, heads=8, hidden=2_048)
T5_BASE = t5(width=768, layers=12, heads=12, hidden=3_072)
T5_LARGE = t5(width=1_024, layers=24, heads=16, hidden=4_096)
T5_3B = t5(width=1_024, layers=24, heads=32, hidden=16_384, head_width=128)
T5_11B = t5(width=1_024, layers=24, heads=128, hidden=65_536, head_width=128)
# Version 1.1: the released configurations.
T5_V1_1_SMALL = t5_v1_1(width=512, layers=8, heads=6, hidden=1_024)
T5_V1_1_BASE = t5_v1_1(width=768, layers=12, heads=12, hidden=2_048)
T5_V1_1_LARGE = t5_v1_1(width=1_024, layers=24, heads=16, hidden=2_816)
T5_V1_1_XL = t5_v1_1(width=2_048, layers=24, heads=32, hidden=5_120)
T5_V1_1_XXL = t5_v1_1(width=4_096, layers=24, heads=64, hidden=10_240)
