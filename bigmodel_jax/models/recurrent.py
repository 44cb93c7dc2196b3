"""Models of recurrent layers: language models whose state passes from batch to batch, and classifiers of sequences.

A language model of recurrent layers is a decoder.Decoder with such layers in place of blocks; zaremba() has the
published sizes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.kernels import context as contexts
from bigmodel_jax.layers import embeddings, positions, recurrent, stacks
from bigmodel_jax.layers.base import dropout, layer, weights
from bigmodel_jax.models import classifiers, decoder, model

CARRIED = 'carried'  # The collection of the module that holds the state between batches.


# ---- truncated back-propagation through time --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class CarryingDecoder(decoder.Decoder):
    """A Decoder of recurrent layers whose state after one training batch is its state before the next.

    Batch: also 'starts' [B] int32, 1 where a row does not go on where that of the batch before ended. The state is part
    of that of the run (TrainState.model_state). In evaluation and sampling it starts at 0.

    Source: Mikolov et al. (2010), with truncated back-propagation as of Williams and Peng (1990).
    """

    def build(self, name: str | None = None) -> nn.Module:
        model.check_dtype(self.dtype)
        return CarryingDecoderModule(self, name=name)


class CarryingDecoderModule(decoder.DecoderModule):
    """Keeps the state of the layers in the collection 'carried', which only training changes."""

    config: CarryingDecoder

    def features(
        self, batch: Mapping[str, jax.Array], state: stacks.State | None = None
    ) -> tuple[jax.Array, stacks.State | None]:
        if state is not None or not self.is_mutable_collection(CARRIED):
            return super().features(batch, state)
        rows, length = batch['inputs'].shape
        zeros = self.config.initial_state(rows, length)
        before = self.get_variable(CARRIED, 'state', zeros)
        if jax.tree.map(jnp.shape, before) != jax.tree.map(jnp.shape, zeros):
            raise config.InputError(
                f'The carried state is not of the {rows} rows that are read at a time; '
                'CarryingDecoder needs gradients=WholeBatch().'
            )
        if self.is_initializing():
            self.put_variable(CARRIED, 'state', zeros)
            return super().features(batch)
        if 'starts' not in batch:
            raise config.InputError(
                "CarryingDecoder is trained on batches with 'starts', which says where a row does not go on where the "
                'last batch ended; use contiguous text, data=Contiguous(...), or the model Decoder.'
            )
        starts_B = batch['starts'] == 1
        # The rows are on axis 1, after the layers.
        before = jax.tree.map(
            lambda leaf: jnp.where(starts_B.reshape(1, -1, *[1] * (leaf.ndim - 2)), 0, leaf).astype(leaf.dtype), before
        )
        x_BTD, after = super().features(batch, before)
        self.put_variable(CARRIED, 'state', after)
        return x_BTD, None


def zaremba(*, width: int, dropout: float, limit: float, **changes: Any) -> CarryingDecoder:
    """The language model of Zaremba et al. (2014), arXiv:1409.2329: two LSTM layers, with dropout between the layers.

    Args:
      limit: all parameters are drawn uniformly from [-limit, limit].
    """
    uniform = weights.Uniform(limit=limit)
    base = CarryingDecoder(
        vocab=10_000,
        width=width,
        layers=2,
        block=recurrent.Lstm(dropout=dropout, init=uniform, bias_init=uniform),
        positions=None,
        norm=None,
        embedding=embeddings.Embedding(tied=False, output_bias=True, dropout=dropout, init=uniform),
    )
    return config.vary(base, changes)


# Section 4.1. The small one is the network without regularisation.
ZAREMBA_SMALL = zaremba(width=200, dropout=0.0, limit=0.1)
ZAREMBA_MEDIUM = zaremba(width=650, dropout=0.5, limit=0.05)
ZAREMBA_LARGE = zaremba(width=1_500, dropout=0.65, limit=0.04)


# ---- classification ---------------------------------------------------------------------------------------------


class SequencePooling:
    """Interface: how the vector of a row comes about from those of its tokens."""

    def __call__(self, x_BTD: jax.Array, counts_BT: jax.Array) -> jax.Array:
        """[B, D]; `counts_BT` is False at padding, which only ends a row."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LastToken(SequencePooling):
    """The vector of the last token: what a layer that reads from the left has read of all of them."""

    def __call__(self, x_BTD: jax.Array, counts_BT: jax.Array) -> jax.Array:
        last_B11 = jnp.maximum(counts_BT.sum(axis=1) - 1, 0)[:, None, None]
        return jnp.take_along_axis(x_BTD, last_B11, axis=1)[:, 0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BothEnds(SequencePooling):
    """Of a Bidirectional layer the last token's vector of the first half, and the first token's of the second."""

    def __call__(self, x_BTD: jax.Array, counts_BT: jax.Array) -> jax.Array:
        half = x_BTD.shape[-1] // 2
        return jnp.concatenate([LastToken()(x_BTD, counts_BT)[:, :half], x_BTD[:, 0, half:]], axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanOfTokens(SequencePooling):
    """The mean over the tokens."""

    def __call__(self, x_BTD: jax.Array, counts_BT: jax.Array) -> jax.Array:
        sum_BD = jnp.where(counts_BT[..., None], x_BTD, 0).sum(axis=1)
        return sum_BD / jnp.maximum(counts_BT.sum(axis=1, keepdims=True), 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaxOfTokens(SequencePooling):
    """The largest number of each channel (Kim, 2014, arXiv:1408.5882, section 2)."""

    def __call__(self, x_BTD: jax.Array, counts_BT: jax.Array) -> jax.Array:
        return jnp.where(counts_BT[..., None], x_BTD, jnp.finfo(x_BTD.dtype).min).max(axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceClassifier(model.Model):
    """A class for each row of tokens, by layers of any kind.

    Batch: 'inputs' [B, T] int32, and optionally 'segments' [B, T] (0 where padding, which only ends a row).
    """

    vocab: config.Positive  # V
    width: config.Positive  # D
    layers: config.Positive  # L
    block: layer.Layer
    classes: config.Positive
    positions: positions.Positions | None  # None where the layers know the order.
    pooling: SequencePooling = MeanOfTokens()
    embedding: embeddings.Embedding = embeddings.Embedding()
    dropout: config.Probability = 0.0  # On the vector of a row.
    dtype: model.Dtype = 'float32'
    stack: stacks.Stack = stacks.Stack()

    def build(self, name: str | None = None) -> nn.Module:
        model.check_dtype(self.dtype)
        return SequenceClassifierModule(self, name=name)

    def check(self, fields: Mapping[str, batches.Field]) -> None:
        tokens = model.need(fields, 'inputs', 'SequenceClassifier')
        model.check_tokens(tokens, vocab=self.vocab)
        decoder.check_length(self.positions, tokens.shape[0])
        stacks.check((self.block,), self.layers, width=self.width, length=tokens.shape[0])
        classifiers.check_labels(fields, self.classes)

    def outputs(self, fields: Mapping[str, batches.Field]) -> Mapping[str, model.Output]:
        return classifiers.logits(self.classes, self.dtype)


class SequenceClassifierModule(nn.Module):
    """Owns the embedding, the positions, the layers and the matrix of the classes."""

    config: SequenceClassifier

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """{'logits': [B, V]}."""
        c, segments_BT = self.config, batch.get('segments')
        embedding = c.embedding.build(c.vocab, c.width, c.dtype, 'embedding')
        known = None if c.positions is None else c.positions.build('positions')
        x_BTD, here_BT, bias = decoder.embed(embedding, known, batch['inputs'], None)
        context = contexts.Context(here_BT, here_BT, segments_BT, segments_BT, bias, contexts.PositionOrder.CONTIGUOUS)
        x_BTD, _ = c.stack.build((c.block,), c.layers, 'blocks')(x_BTD, context)
        counts_BT = jnp.ones(x_BTD.shape[:2], bool) if segments_BT is None else segments_BT != 0
        x_BD = dropout.drop(self, c.pooling(x_BTD, counts_BT), c.dropout)
        return {'logits': classifiers.ClassesModule(c.classes, name='classes')(x_BD)}
