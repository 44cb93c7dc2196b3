"""BERT: a bidirectional encoder, pretrained to predict masked tokens and whether one sentence follows another.

Source: Devlin et al. (2018), arXiv:1810.04805; what the paper leaves open (the norm after the embeddings, the dense
layer before the output matrix, epsilon) is as in its released code.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bigmodel_jax import config, precision
from bigmodel_jax.data import batches
from bigmodel_jax.kernels import context as contexts
from bigmodel_jax.layers import activations, attention, blocks, embeddings, ffn, norms, positions, stacks
from bigmodel_jax.layers.base import dropout, weights
from bigmodel_jax.models import classifiers, model
from bigmodel_jax.parallel import lookup, sharding

NORM = norms.LayerNorm(epsilon=1e-12)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bert(model.Model):
    """The encoder with its two heads of pretraining.

    Batch: 'inputs' [B, T] int32, the first token of each row being [CLS]; optionally 'types' [B, T] int32 (0 in the
    first sentence, 1 in the second; default 0), 'segments' [B, T] (0 where padding; default: none is), 'positions'
    [B, T] (default 0 .. T-1), and 'masked_positions' [B, N] int32, the positions to predict (default: all).
    """

    vocab: config.Positive  # V
    width: config.Positive  # D
    layers: config.Positive  # L
    block: blocks.Block
    length: config.Positive = 512  # Positions that are learned: the longest input.
    types: config.Positive = 2  # Token types: the first sentence and the second.
    norm: norms.Norm = NORM  # Of the sum of the embeddings, and before the output matrix.
    activation: activations.Activation = activations.Gelu(approximate=False)  # Before the output matrix.
    dropout: config.Probability = 0.1  # On the sum of the embeddings.
    init: weights.Initializer = weights.Normal(stddev=0.02)  # Of all but the blocks, which have their own.
    dtype: model.Dtype = 'float32'  # Of the computation; weights are stored in float32.
    stack: stacks.Stack = stacks.Stack()

    def build(self, name: str | None = None) -> nn.Module:
        model.check_dtype(self.dtype)
        return BertModule(self, name=name)

    def check(self, fields: Mapping[str, batches.Field]) -> None:
        tokens = model.need(fields, 'inputs', 'Bert')
        model.check_tokens(tokens, vocab=self.vocab)
        length = tokens.shape[0]
        if length > self.length:
            raise config.InputError(
                f'model.length={self.length} is shorter than the data ({length} tokens); use at least {length}.'
            )
        kinds = fields['types'].upper_bound if 'types' in fields else None
        if kinds is not None and kinds > self.types:
            raise config.InputError(
                f'model.types={self.types}, but the data has {kinds} token types; use at least {kinds}.'
            )
        self.block.check(self.width, length)

    def outputs(self, fields: Mapping[str, batches.Field]) -> Mapping[str, model.Output]:
        predicted = fields.get('masked_positions', fields['inputs'])
        logits = model.token_logits(predicted, vocab=self.vocab, dtype=self.dtype)
        return {'mlm_logits': logits, 'nsp_logits': model.Output((2,), ('classes',), logits.dtype)}


class InputModule(nn.Module):
    """Owns the tables of tokens, positions and types, and the norm of their sum."""

    config: Bert

    def setup(self) -> None:
        c = self.config
        self.tokens = embeddings.Embedding(init=c.init, dropout=c.dropout).build(c.vocab, c.width, c.dtype)
        self.positions = positions.Learned(length=c.length, init=c.init).build()
        axes = {'types': c.types, 'embed': c.width}
        self.types = weights.weight(self, 'types', axes, init=c.init, inputs=('types',), dtype=jnp.dtype(c.dtype))
        self.norm = c.norm.build()

    def __call__(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """The input of the first layer, [B, T, D]."""
        tokens_BT = batch['inputs']
        types_BT = batch['types'] if 'types' in batch else jnp.zeros_like(tokens_BT)
        x_BTD = self.positions.embed(self.tokens(tokens_BT), batch.get('positions'))
        return self.tokens.finish(self.norm(x_BTD + lookup.lookup(self.types, types_BT)))

    def head(self) -> embeddings.Head:
        """The output matrix [V, D]: the table of tokens."""
        return self.tokens.head()


class PoolerModule(nn.Module):
    """Owns a matrix and its bias: one vector for a row, from its first token."""

    config: Bert

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """[B, D]."""
        x_BD = x_BTD[:, 0]
        return jnp.tanh(dense(self, x_BD, self.config, outputs=('pooled', self.config.width)))


class TransformModule(nn.Module):
    """Owns the transformation before the output matrix, a matrix and a norm, and the bias of the logits."""

    config: Bert

    @nn.compact
    def __call__(self, x_BTD: jax.Array, head: embeddings.Head) -> jax.Array:
        """Logits [B, T, V], float32 or float64."""
        c = self.config
        x_BTD = c.activation(dense(self, x_BTD, c, outputs=('transformed', c.width)))
        dtype = precision.sums(x_BTD.dtype)
        bias_V = weights.vector(self, 'output_bias', {'vocab': c.vocab}, value=0.0, dtype=dtype)
        return embeddings.unembed(c.norm.build('norm')(x_BTD), head._replace(bias_V=bias_V))


class OutputModule(nn.Module):
    """Owns a matrix and its bias: a score for each of a few classes."""

    config: Bert
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] to [..., V], V being the classes."""
        return dense(self, x, self.config, outputs=('classes', self.classes))


def dense(module: nn.Module, x: jax.Array, of: Bert, *, outputs: tuple[str, int]) -> jax.Array:
    """x weight + bias for an `x` [..., D]; `module` owns the two.

    Args:
      outputs: the logical axis of the result, and its size.
    """
    axes = {'embed': x.shape[-1], outputs[0]: outputs[1]}
    weight_DF = weights.weight(module, 'weight', axes, init=of.init, inputs=('embed',), dtype=x.dtype)
    return jnp.einsum('...D,DF->...F', x, weight_DF) + weights.vector(
        module, 'bias', {outputs[0]: outputs[1]}, value=0.0, dtype=x.dtype
    )


class EncoderModule(nn.Module):
    """Owns the embeddings, the blocks and the pooler, which fine-tuning reuses. Subclasses own the heads."""

    config: Bert

    def setup(self) -> None:
        c = self.config
        self.embedding = InputModule(c)
        self.blocks = c.stack.build((c.block,), c.layers)
        self.pooler = PoolerModule(c)

    def features(self, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """[B, T, D] after the last block, and a vector for each row [B, D]."""
        x_BTD = self.encode(batch)
        return x_BTD, self.pooler(x_BTD)

    def encode(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """[B, T, D] after the last block."""
        x_BTD = self.embedding(batch)
        known_BT, segments_BT = batch.get('positions'), batch.get('segments')
        here_BT = jnp.arange(x_BTD.shape[1])[None] if known_BT is None else known_BT
        # Padding attends to the first sentence, as in the released code, which masks padding as a key alone.
        query_segments_BT = None if segments_BT is None else jnp.maximum(segments_BT, 1)
        order = contexts.PositionOrder.of(known_BT)
        x_BTD, _ = self.blocks(x_BTD, contexts.Context(here_BT, here_BT, query_segments_BT, segments_BT, order=order))
        return x_BTD


class BertModule(EncoderModule):
    """Owns the heads of pretraining too."""

    def setup(self) -> None:
        super().setup()
        self.masked = TransformModule(self.config)
        self.next_sentence = OutputModule(self.config, classes=2)

    def __call__(self, batch: Mapping[str, jax.Array]) -> dict[str, Any]:
        """{'mlm_logits': [B, T or N, V], 'nsp_logits': [B, 2]}; class 0: the second sentence follows."""
        x_BTD, pooled_BD = self.features(batch)
        if 'masked_positions' in batch:
            x_BTD = sharding.constrain(gather_positions(x_BTD, batch['masked_positions']), 'batch', None, 'embed')
        logits_BTV = self.masked(x_BTD, self.embedding.head())
        nsp_BV = self.next_sentence(pooled_BD)
        return {'mlm_logits': logits_BTV, 'nsp_logits': nsp_BV.astype(logits_BTV.dtype)}


def gather_positions(x_BTD: jax.Array, positions_BN: jax.Array) -> jax.Array:
    """The vectors [B, N, D] at these positions of each row.

    A product with ones and zeros, whose gradient is no scatter: N is a seventh of T, and D many times both.
    """
    T = x_BTD.shape[1]
    chosen_BNT = jax.nn.one_hot(positions_BN, T, dtype=x_BTD.dtype)
    return jnp.einsum('BNT,BTD->BND', chosen_BNT, x_BTD)


# ---- fine-tuning --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier(model.Model):
    """A class for each row, or with one class a number (section 4.1). Reads Bert's batches without 'masked_positions'.

    The encoder's parameters have the paths that they have in Bert, so that a run may start from one of pretraining.
    """

    encoder: Bert
    classes: config.Positive  # 1: 'values' [B], a regression; otherwise 'logits' [B, classes].
    dropout: config.Probability = 0.1  # On the vector of a row.

    @property
    def dtype(self) -> model.Dtype:
        """Of the computation."""
        return self.encoder.dtype

    def build(self, name: str | None = None) -> nn.Module:
        return ClassifierModule(self.encoder, head=self, name=name)

    def check(self, fields: Mapping[str, batches.Field]) -> None:
        self.encoder.check(fields)
        known = fields['labels'].upper_bound if 'labels' in fields else None
        if known is not None and known != self.classes:
            raise config.InputError(f'model.classes={self.classes}, but the data has {known} labels.')

    def outputs(self, fields: Mapping[str, batches.Field]) -> Mapping[str, model.Output]:
        dtype = sums_of(self.encoder)
        if self.classes == 1:
            return {'values': model.Output((), (), dtype)}
        return {'logits': model.Output((self.classes,), ('classes',), dtype)}


class ClassifierModule(EncoderModule):
    """Owns the matrix of the classes too."""

    head: Classifier

    def setup(self) -> None:
        super().setup()
        self.classifier = OutputModule(self.config, classes=self.head.classes)

    def __call__(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """{'logits': [B, V] float32}, V being the classes; {'values': [B] float32} of one."""
        _, pooled_BD = self.features(batch)
        scores_BV = precision.raised(self.classifier(dropout.drop(self, pooled_BD, self.head.dropout)))
        return {'values': scores_BV[:, 0]} if self.head.classes == 1 else {'logits': scores_BV}


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionAnswering(model.Model):
    """Where in a row an answer begins and ends (section 4.2)."""

    encoder: Bert

    @property
    def dtype(self) -> model.Dtype:
        """Of the computation."""
        return self.encoder.dtype

    def build(self, name: str | None = None) -> nn.Module:
        return QuestionAnsweringModule(self.encoder, name=name)

    def check(self, fields: Mapping[str, batches.Field]) -> None:
        self.encoder.check(fields)

    def outputs(self, fields: Mapping[str, batches.Field]) -> Mapping[str, model.Output]:
        scores = model.Output(fields['inputs'].shape, ('length',), sums_of(self.encoder))
        return {'start_logits': scores, 'end_logits': scores}


class QuestionAnsweringModule(EncoderModule):
    """Owns a vector for the start and one for the end too."""

    def setup(self) -> None:
        super().setup()
        self.spans = OutputModule(self.config, classes=2)

    def __call__(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """{'start_logits': [B, T], 'end_logits': [B, T]}, both float32."""
        x_BTD, _ = self.features(batch)
        scores_BTV = precision.raised(self.spans(x_BTD))
        return {'start_logits': scores_BTV[..., 0], 'end_logits': scores_BTV[..., 1]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenClassifier(model.Model):
    """A class for each token (section 5.3). Reads Bert's batches without 'masked_positions'."""

    encoder: Bert
    classes: config.Positive
    dropout: config.Probability = 0.1  # On the vectors of the tokens.

    @property
    def dtype(self) -> model.Dtype:
        """Of the computation."""
        return self.encoder.dtype

    def build(self, name: str | None = None) -> nn.Module:
        return TokenClassifierModule(self.encoder, head=self, name=name)

    def check(self, fields: Mapping[str, batches.Field]) -> None:
        self.encoder.check(fields)
        classifiers.check_labels(fields, self.classes)

    def outputs(self, fields: Mapping[str, batches.Field]) -> Mapping[str, model.Output]:
        shape = (*fields['inputs'].shape, self.classes)
        return {'logits': model.Output(shape, ('length', 'classes'), sums_of(self.encoder))}


class TokenClassifierModule(EncoderModule):
    """Owns the matrix of the classes too, and no pooler."""

    head: TokenClassifier

    def setup(self) -> None:
        super().setup()
        self.classifier = OutputModule(self.config, classes=self.head.classes)

    def __call__(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """{'logits': [B, T, V]}, V being the classes, float32 or float64."""
        x_BTD = dropout.drop(self, self.encode(batch), self.head.dropout)
        return {'logits': precision.raised(self.classifier(x_BTD))}


def sums_of(encoder: Bert) -> np.dtype:
    """The dtype of the scores of a head."""
    return np.dtype(precision.sums(jnp.dtype(encoder.dtype)))


# ---- sizes --------------------------------------------------------------------------------------------------------


def bert(*, vocab: int, width: int, layers: int, heads: int, **changes: Any) -> Bert:
    """BERT of any size: PostNorm blocks with biases, exact GELU, F = 4 D, dropout 0.1 everywhere."""
    init = weights.Normal(stddev=0.02)
    block = blocks.Block(
        mixer=attention.Attention(heads=heads, causal=False, bias=True, dropout=0.1, init=init),
        ffn=ffn.Mlp(hidden=4 * width, activation=activations.Gelu(approximate=False), bias=True, init=init),
        residual=blocks.PostNorm(norm=NORM, dropout=0.1),
    )
    return config.vary(Bert(vocab=vocab, width=width, layers=layers, block=block), changes)


# Section 3; the vocabulary is that of the released uncased models.
BERT_BASE = bert(vocab=30_522, width=768, layers=12, heads=12)
BERT_LARGE = bert(vocab=30_522, width=1_024, layers=24, heads=16)
