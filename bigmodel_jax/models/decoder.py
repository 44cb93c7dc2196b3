"""Decoder-only language models: the GPT, Llama and Mixtral families are choices of blocks, positions and norms."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.kernels import context as contexts
from bigmodel_jax.layers import activations, attention, blocks, embeddings, ffn, kv_cache, moe, norms, positions, stacks
from bigmodel_jax.layers.base import layer, weights
from bigmodel_jax.models import model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder(model.Model):
    """A language model: reads tokens, predicts at each position the next one.

    Batch: 'inputs' [B, T] int32; optionally 'positions' [B, T] (default 0 .. T-1) and 'segments' [B, T] (packed
    documents, numbered from 1; 0 is padding; default: each row is one document).
    """

    vocab: config.Positive  # V
    width: config.Positive  # D
    layers: config.Positive  # L
    block: layer.Layer  # Mostly a blocks.Block; an LSTM by itself in the models of 2014.
    positions: positions.Positions | None  # None where attention itself has them (rotary).
    norm: norms.Norm | None = norms.LayerNorm()  # After the last block; None with PostNorm.
    embedding: embeddings.Embedding = embeddings.Embedding()
    dtype: model.Dtype = 'float32'
    stack: stacks.Stack = stacks.Stack()
    interleaved: tuple[layer.Layer, ...] = ()  # The layer pattern is `block`, then these, and so on in turn.

    def build(self, name: str | None = None) -> nn.Module:
        model.check_dtype(self.dtype)
        return DecoderModule(self, name=name)

    def check(self, fields: Mapping[str, batches.Field]) -> None:
        tokens = model.need(fields, 'inputs', 'Decoder')
        model.check_tokens(tokens, vocab=self.vocab)
        check_length(self.positions, tokens.shape[0])
        stacks.check(self.pattern, self.layers, width=self.width, length=tokens.shape[0])

    def outputs(self, fields: Mapping[str, batches.Field]) -> Mapping[str, model.Output]:
        return {'logits': model.token_logits(fields['inputs'], vocab=self.vocab, dtype=self.dtype)}

    @property
    def pattern(self) -> tuple[layer.Layer, ...]:
        """The interleaved pattern of layers."""
        return (self.block, *self.interleaved)

    def initial_state(self, rows: int, length: int) -> stacks.State:
        """The state of the layers before the first token of `rows` sequences of up to `length` tokens."""
        return stacks.initial_state(self.pattern, self.layers, rows, length, width=self.width, dtype=self.dtype)


def check_length(known: positions.Positions | None, length: int) -> None:
    """Raises InputError if inputs of `length` tokens are longer than the learned positions."""
    if known is not None and known.length is not None and length > known.length:
        raise config.InputError(
            f'model.positions.length={known.length} is shorter than the data ({length} tokens); use at least {length}.'
        )


class DecoderModule(nn.Module):
    """Owns the embedding, the blocks and the last norm."""

    config: Decoder

    def setup(self) -> None:
        c = self.config
        self.embedding = c.embedding.build(c.vocab, c.width, c.dtype)
        self.positions = None if c.positions is None else c.positions.build()
        self.blocks = c.stack.build(c.pattern, c.layers)
        self.norm = None if c.norm is None else c.norm.build()

    def __call__(self, batch: Mapping[str, jax.Array], state: stacks.State | None = None) -> dict[str, Any]:
        """{'logits': [B, T, V]}, and 'state' if one is given: `batch` goes on where it ends, and needs 'positions'."""
        x_BTD, state = self.features(batch, state)
        outputs = {'logits': self.unembed(x_BTD)}
        return outputs if state is None else {**outputs, 'state': state}

    def features(
        self, batch: Mapping[str, jax.Array], state: stacks.State | None = None
    ) -> tuple[jax.Array, stacks.State | None]:
        """[B, T, D] before the output matrix, so that a loss can take the logits in pieces; and the state.

        With a state 'segments' are 0 where padding, and 1 elsewhere. Of a state with 'pages' see kernels/paged.py.
        """
        slots = kv_cache.slots(state)
        x_BTD, here_BT, bias = embed(
            self.embedding, self.positions, batch['inputs'], batch.get('positions'), slots=slots
        )
        there_BS = here_BT if slots is None else jnp.arange(slots)[None]
        segments_BT = batch.get('segments')
        order = contexts.PositionOrder.of(batch.get('positions'))
        # A cache has no segments: no query attends to a slot of its own future, where the padding of a prompt lies.
        key_segments_BT = segments_BT if state is None else None
        context = contexts.Context(here_BT, there_BS, segments_BT, key_segments_BT, bias, order)
        context = context.with_pages(batch.get('pages'))
        x_BTD, state = self.blocks(x_BTD, context, state)
        return x_BTD if self.norm is None else self.norm(x_BTD), state

    def head(self) -> embeddings.Head:
        """The output layer, for a loss that takes the logits in pieces."""
        return self.embedding.head()

    def unembed(self, x_BTD: jax.Array) -> jax.Array:
        """Logits [B, T, V] of features, float32 or float64."""
        return self.embedding.unembed(x_BTD)


def embed(
    embedding: nn.Module,
    known: nn.Module | None,
    tokens_BT: jax.Array,
    positions_BT: jax.Array | None,
    *,
    slots: int | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """The input of the first layer [B, T, D], the positions [B or 1, T], and the bias of the scores, if any.

    Args:
      embedding, known: modules of the embedding and of the positions.
      slots: slots of the key-value cache; None where the keys are the tokens themselves.
    """
    x_BTD = embedding(tokens_BT)
    here_BT = jnp.arange(tokens_BT.shape[1])[None] if positions_BT is None else positions_BT
    bias = None
    if known is not None:
        x_BTD = known.embed(x_BTD, positions_BT)
        # Slot s of the cache holds position s; slots not yet written are in every query's future.
        bias = known.bias(here_BT, here_BT if slots is None else jnp.arange(slots)[None], x_BTD.dtype)
    return embedding.finish(x_BTD), here_BT, bias


def gpt(*, vocab: int, width: int, layers: int, heads: int, length: int, **changes: Any) -> Decoder:
    """GPT-2 and GPT-3: learned positions, biases, GELU (tanh), LayerNorm before each sublayer, tied output.

    Source: Radford et al. (2019), section 2.3; residual projections start at 0.02 / sqrt(2 x layers).
    """
    init = weights.Normal(stddev=0.02)
    out_init = weights.Normal(stddev=0.02 * (2 * layers) ** -0.5)
    block = blocks.Block(
        mixer=attention.Attention(heads=heads, bias=True, init=init, out_init=out_init),
        ffn=ffn.Mlp(hidden=4 * width, activation=activations.Gelu(), bias=True, init=init, out_init=out_init),
        residual=blocks.PreNorm(norm=norms.LayerNorm()),
    )
    learned = positions.Learned(length=length)
    base = Decoder(vocab=vocab, width=width, layers=layers, block=block, positions=learned)
    return config.vary(base, changes)


def banded(model: Decoder, window: int) -> Decoder:
    """Every second layer has a window of `window` positions (Brown et al., 2020, arXiv:2005.14165, section 2.1)."""
    return config.vary(model, {'interleaved': (config.vary(model.block, {'mixer.window': window}),)})


def llama(
    *, vocab: int, width: int, layers: int, heads: int, kv_heads: int, hidden: int, rope_base: float, **changes: Any
) -> Decoder:
    """Llama 1 to 3: rotary positions, SwiGLU, RMSNorm before each sublayer, no bias, grouped key/value heads, untied
    output.

    Source: Touvron et al. (2023), arXiv:2302.13971, section 2.2.
    """
    rms = norms.RmsNorm(epsilon=1e-5)
    block = blocks.Block(
        mixer=attention.Attention(heads=heads, kv_heads=kv_heads, rotary=positions.Rotary(base=rope_base)),
        ffn=ffn.Gated(hidden=hidden),
        residual=blocks.PreNorm(norm=rms),
    )
    untied = embeddings.Embedding(tied=False)
    base = Decoder(vocab=vocab, width=width, layers=layers, block=block, positions=None, norm=rms, embedding=untied)
    return config.vary(base, changes)


def llama1(*, width: int, layers: int, heads: int, hidden: int) -> Decoder:
    """Llama 1: as many key/value heads as heads, and a smaller epsilon than in its successors."""
    epsilon = {'block.residual.norm.epsilon': 1e-6, 'norm.epsilon': 1e-6}
    sizes = {'width': width, 'layers': layers, 'heads': heads, 'kv_heads': heads, 'hidden': hidden}
    return config.vary(llama(vocab=32_000, rope_base=10_000.0, **sizes), epsilon)


def llama32(*, width: int, layers: int, heads: int, hidden: int) -> Decoder:
    """Llama 3.2: the output matrix is the table, and rotations are slowed down for long inputs.

    Source: the released configurations.
    """
    sizes = {'width': width, 'layers': layers, 'heads': heads, 'hidden': hidden}
    own = {'embedding.tied': True, 'block.mixer.rotary.scaling': positions.Llama3Scaling(factor=32.0)}
    return config.vary(llama(vocab=128_256, kv_heads=8, rope_base=500_000.0, **sizes), own)


def mixtral(
    *, vocab: int, width: int, layers: int, heads: int, kv_heads: int, hidden: int, experts: int, **changes: Any
) -> Decoder:
    """Mixtral: Llama with `experts` in place of each feed-forward layer, of which each token is routed to 2.

    Source: Jiang et al. (2024), arXiv:2401.04088, section 2.
    """
    base = llama(
        vocab=vocab, width=width, layers=layers, heads=heads, kv_heads=kv_heads, hidden=hidden, rope_base=1_000_000.0
    )
    # The released configuration says 0.02, for transformers' loss: 2 at best, and one for all layers, not one for each.
    routed = moe.Routed(experts=experts, hidden=hidden, balance=0.02 * 2 / layers)
    return config.vary(config.vary(base, {'block.ffn': routed}), changes)


# Published sizes. Radford et al. (2019), table 2; the parameter counts are those of the released weights.
GPT2_124M = gpt(vocab=50_257, width=768, layers=12, heads=12, length=1_024)
GPT2_355M = gpt(vocab=50_257, width=1_024, layers=24, heads=16, length=1_024)
GPT2_774M = gpt(vocab=50_257, width=1_280, layers=36, heads=20, length=1_024)
GPT2_1558M = gpt(vocab=50_257, width=1_600, layers=48, heads=25, length=1_024)
# Brown et al. (2020), arXiv:2005.14165, table 2.1; dense attention in every layer, theirs is that of banded().
GPT3_125M = gpt(vocab=50_257, width=768, layers=12, heads=12, length=2_048)
GPT3_350M = gpt(vocab=50_257, width=1_024, layers=24, heads=16, length=2_048)
GPT3_760M = gpt(vocab=50_257, width=1_536, layers=24, heads=16, length=2_048)
GPT3_1300M = gpt(vocab=50_257, width=2_048, layers=24, heads=16, length=2_048)
GPT3_2700M = gpt(vocab=50_257, width=2_560, layers=32, heads=32, length=2_048)
GPT3_6700M = gpt(vocab=50_257, width=4_096, layers=32, heads=32, length=2_048)
GPT3_13B = gpt(vocab=50_257, width=5_120, layers=40, heads=40, length=2_048)
GPT3_175B = gpt(vocab=50_257, width=12_288, layers=96, heads=96, length=2_048)
# Touvron et al. (2023), arXiv:2302.13971, table 2; feed-forward widths and epsilon are those of the released weights.
LLAMA1_7B = llama1(width=4_096, layers=32, heads=32, hidden=11_008)
LLAMA1_13B = llama1(width=5_120, layers=40, heads=40, hidden=13_824)
LLAMA1_33B = llama1(width=6_656, layers=60, heads=52, hidden=17_920)
LLAMA1_65B = llama1(width=8_192, layers=80, heads=64, hidden=22_016)
# Touvron et al. (2023), arXiv:2307.09288; Grattafiori et al. (2024), arXiv:2407.21783, table 3.
LLAMA2_7B = llama(vocab=32_000, width=4_096, layers=32, heads=32, kv_heads=32, hidden=11_008, rope_base=10_000.0)
LLAMA2_13B = llama(vocab=32_000, width=5_120, layers=40, heads=40, kv_heads=40, hidden=13_824, rope_base=10_000.0)
LLAMA2_70B = llama(vocab=32_000, width=8_192, layers=80, heads=64, kv_heads=8, hidden=28_672, rope_base=10_000.0)
LLAMA3_8B = llama(vocab=128_256, width=4_096, layers=32, heads=32, kv_heads=8, hidden=14_336, rope_base=500_000.0)
LLAMA3_70B = llama(vocab=128_256, width=8_192, layers=80, heads=64, kv_heads=8, hidden=28_672, rope_base=500_000.0)
LLAMA3_405B = llama(vocab=128_256, width=16_384, layers=126, heads=128, kv_heads=8, hidden=53_248, rope_base=500_000.0)
LLAMA32_1B = llama32(width=2_048, layers=16, heads=32, hidden=8_192)
LLAMA32_3B = llama32(width=3_072, layers=28, heads=24, hidden=8_192)
# Jiang et al. (2023), arXiv:2310.06825, table 1: each token sees the 4,096 before it, itself among them.
MISTRAL_7B = llama(
    vocab=32_000,
    width=4_096,
    layers=32,
    heads=32,
    kv_heads=8,
    hidden=14_336,
    rope_base=10_000.0,
    **{'block.mixer.window': 4_096},
)
# Jiang et al. (2024), table 1; 13 of its 47 billion parameters see a token.
MIXTRAL_8X7B = mixtral(vocab=32_000, width=4_096, layers=32, heads=32, kv_heads=8, hidden=14_336, experts=8)
