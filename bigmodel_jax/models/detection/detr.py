"""DETR: a residual network, a Transformer, and a set of boxes with a class each, or with none.

Source: Carion et al. (2020), arXiv:2005.12872. The number of every weight is that of the released models.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bigmodel_jax import config, precision
from bigmodel_jax.data import batches
from bigmodel_jax.kernels import context as contexts
from bigmodel_jax.layers import activations, blocks, convolution, ffn, image_positions, norms, stacks
from bigmodel_jax.layers.base import layer, weights
from bigmodel_jax.layers.variants import positioned_attention
from bigmodel_jax.models import classifiers, model, resnet
from bigmodel_jax.parallel import sharding

BOX = 4  # Numbers of a box: its middle's column and row, its width and its height, as shares of the image.
Embed = Callable[[jax.Array], jax.Array]  # Places [..., 2] -> [..., D].


# ---- queries ----------------------------------------------------------------------------------------------------


class QueryValues(NamedTuple):
    """What the queries are before the decoder."""

    embeddings_QD: jax.Array  # Of their positions, which every layer of the decoder adds.
    points: jax.Array | None  # [Q, 2]: logits of the columns and rows that their boxes are near to, if they are.


class ObjectQueries:
    """Interface of the configs of object queries, of which each finds at most one object."""

    count: int  # Q

    def build(self, name: str | None = None) -> nn.Module:
        """A module (D, dtype, embed) -> QueryValues; embed() gives the embeddings of places, as of the image's."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedQueries(ObjectQueries):
    """An embedding for each query, which is learned (section 3.2)."""

    count: config.Positive = 100
    init: weights.Initializer = weights.Normal(stddev=1.0)

    def build(self, name: str | None = None) -> nn.Module:
        return LearnedQueriesModule(self, name=name)


class LearnedQueriesModule(nn.Module):
    """Owns table_QD."""

    config: LearnedQueries

    @nn.compact
    def __call__(self, width: int, dtype: jnp.dtype, embed: Embed) -> QueryValues:
        axes = {'queries': self.config.count, 'embed': width}
        return QueryValues(weights.weight(self, 'table', axes, init=self.config.init, inputs=(), dtype=dtype), None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnchorQueries(ObjectQueries):
    """A point of the image for each query, which is learned: at first the points are a grid.

    The embedding of a query is that of its point, as the image's positions are embedded, and the middle of its box is
    predicted relative to the point. So a query attends to what is near to it sooner than one whose embedding is
    learned, and training needs fewer steps.

    Source: Wang et al. (2021), arXiv:2109.07107, sections 3.1 and 3.2, with one pattern for each point.
    """

    rows: config.Positive
    columns: config.Positive

    @property
    def count(self) -> int:  # type: ignore[override]  # It follows from the grid.
        return self.rows * self.columns

    def build(self, name: str | None = None) -> nn.Module:
        return AnchorQueriesModule(self, name=name)


class AnchorQueriesModule(nn.Module):
    """Owns the points, [Q, 2]: the logits of their columns and rows."""

    config: AnchorQueries

    @nn.compact
    def __call__(self, width: int, dtype: jnp.dtype, embed: Embed) -> QueryValues:
        c = self.config

        def grid(key: jax.Array) -> nn.LogicallyPartitioned:
            rows, columns = (np.arange(0.5, count) / count for count in (c.rows, c.columns))
            places = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
            logits = np.log(places / (1 - places)).astype(np.float32)
            return nn.LogicallyPartitioned(jnp.asarray(logits), ('queries', None))

        stored: Any = self.param('points_bias', grid)
        points = stored.astype(precision.sums(dtype))
        embeddings_QD = embed(jax.nn.sigmoid(points)[:, ::-1])
        return QueryValues(embeddings_QD.astype(dtype), points)


# ---- layers -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShownBlock(blocks.Block):
    """A block of a decoder whose state is its output, so that a stack returns the outputs of all of its layers."""

    def build(self, name: str | None = None) -> nn.Module:
        return ShownBlockModule(self, name=name)


class ShownBlockModule(blocks.BlockModule):
    """Owns what BlockModule owns."""

    def __call__(
        self, x_BTD: jax.Array, context: contexts.Context, state: layer.PyTree = None
    ) -> tuple[jax.Array, layer.PyTree]:
        x_BTD, _ = super().__call__(x_BTD, context, None)
        return x_BTD, x_BTD


class BoxesModule(nn.Module):
    """Owns three matrices and their biases: of each query the logits of its box, in float32 or float64."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., 4]."""
        D, dtype = x.shape[-1], x.dtype
        for name in ('first', 'second'):
            axes = {'embed': D, 'hidden': D}
            weight_DF = weights.weight(self, name, axes, init=weights.FanIn(), inputs=('embed',), dtype=dtype)
            bias_F = weights.vector(self, f'{name}_bias', {'hidden': D}, value=0.0, dtype=dtype)
            x = jax.nn.relu(jnp.einsum('...D,DF->...F', x, weight_DF) + bias_F)
        axes = {'hidden': D, 'box': BOX}
        weight = weights.weight(self, 'last', axes, init=weights.FanIn(), inputs=('hidden',), dtype=dtype)
        bias = weights.vector(self, 'last_bias', {'box': BOX}, value=0.0, dtype=precision.sums(dtype))
        return jnp.matmul(x, weight, preferred_element_type=precision.sums(dtype)) + bias


# ---- the model --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detr(model.Model):
    """A detector of objects. Batch: 'image' [B, Y, X, 3]; optionally 'image_size' [B, 2] int32, the rows and columns of
    the image at its upper left that are no padding.

    Outputs, after each of the L layers of the decoder; the last is the prediction:
      logits: [B, L, Q, V] float32, where V is classes + 1; the last class is that there is no object.
      boxes: [B, L, Q, 4] float32 in [0, 1]: the column and the row of the middle, the width and the height, as shares
        of the image without its padding.
    """

    backbone: resnet.ResNet  # Its stem and stages, computed in `dtype`; its classes are not used.
    classes: config.Positive  # Without the one that there is no object.
    width: config.Positive  # D
    encoder_layers: config.Positive
    decoder_layers: config.Positive  # L
    block: blocks.Block  # Of both sides; that of the decoder has a cross-attention like its mixer.
    queries: ObjectQueries = LearnedQueries()
    norm: norms.Norm | None = norms.LayerNorm()  # Of the outputs of each layer of the decoder.
    base: config.AboveOne = 10_000.0  # Of the sinusoids of positions, the longest being so many times the shortest.
    cycles: config.PositiveFloat = 1.0  # Of the shortest one over the image.
    dtype: model.Dtype = 'float32'
    stack: stacks.Stack = stacks.Stack()

    def build(self, name: str | None = None) -> nn.Module:
        model.check_dtype(self.dtype)
        return DetrModule(self, name=name)

    def check(self, fields: Mapping[str, batches.Field]) -> None:
        self.backbone.check({'image': model.need(fields, 'image', 'Detr')})
        if self.width % 4:
            raise config.InputError(f'model.width={self.width} should be a multiple of 4, for sinusoids of two sides.')
        classifiers.check_labels(fields, self.classes)
        objects = fields['labels'].sizes('objects') if 'labels' in fields else ()
        if objects and objects[0] > self.queries.count:
            raise config.InputError(
                f'The model has {self.queries.count} queries, each of which finds one object at most, but an image of '
                f'the data may have {objects[0]} objects; use more queries, or a smaller data.max_objects.'
            )
        for block in (self.encoder_block, self.decoder_block):
            block.check(self.width, self.queries.count)

    def outputs(self, fields: Mapping[str, batches.Field]) -> Mapping[str, model.Output]:
        dtype = np.dtype(precision.sums(jnp.dtype(self.dtype)))
        shape = (self.decoder_layers, self.queries.count)
        return {
            'logits': model.Output((*shape, self.classes + 1), ('layers', 'queries', 'classes'), dtype),
            'boxes': model.Output((*shape, BOX), ('layers', 'queries', 'box'), dtype),
        }

    def first_filters(self, params: model.PyTree) -> jax.Array:
        return self.backbone.first_filters(params)

    @property
    def encoder_block(self) -> blocks.Block:
        """The block of the encoder."""
        return dataclasses.replace(self.block, mixer=self.block.mixer.bidirectional())

    @property
    def decoder_block(self) -> ShownBlock:
        """The block of the decoder."""
        mixer = self.block.mixer.bidirectional()
        if not isinstance(mixer, positioned_attention.PositionedAttention):
            raise config.InputError(f'model.block.mixer is {type(mixer).__name__}(); Detr needs PositionedAttention.')
        return ShownBlock(mixer=mixer, cross=mixer, ffn=self.block.ffn, residual=self.block.residual)


class DetrModule(nn.Module):
    """Owns the backbone, the projection of its channels, the encoder, the queries, the decoder and two heads."""

    config: Detr

    def setup(self) -> None:
        c = self.config
        self.backbone = resnet.BackboneModule(dataclasses.replace(c.backbone, dtype=c.dtype))
        projection = convolution.Convolution(channels=c.width, kernel=(1, 1), bias=True, init=weights.Xavier())
        self.projection = projection.build()
        self.encoder = c.stack.build((c.encoder_block,), c.encoder_layers)
        self.queries = c.queries.build()
        self.decoder = c.stack.build((c.decoder_block,), c.decoder_layers)
        self.norm = None if c.norm is None else c.norm.build()
        self.classes = classifiers.ClassesModule(c.classes + 1)
        self.boxes = BoxesModule()

    def __call__(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """{'logits': [B, L, Q, V], 'boxes': [B, L, Q, 4]}; see Detr."""
        c = self.config
        _, context = self.encode(batch)
        x_BLQD, points = self.decode(context, len(batch['image']))
        logits_BLQV, boxes = self.classes(x_BLQD), self.boxes(x_BLQD)
        if points is not None:
            boxes = boxes.at[..., :2].add(points.astype(boxes.dtype))
        return {'logits': logits_BLQV, 'boxes': jax.nn.sigmoid(boxes).astype(precision.sums(jnp.dtype(c.dtype)))}

    def encode(self, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, contexts.EncoderOutput]:
        """The output of the encoder [B, S, D], S being the cells of the backbone's last stage; and its context."""
        x_BYXD = self.projection(self.backbone(batch)[-1])
        B, Y, X, D = x_BYXD.shape
        mask_BYX = cells(batch, (Y, X))
        places = image_positions.masked_places(mask_BYX, precision.sums(x_BYXD.dtype))
        added_BSD = self.embed(places).astype(x_BYXD.dtype).reshape(B, Y * X, D)
        order_1S, kept_BS = jnp.arange(Y * X)[None], mask_BYX.reshape(B, Y * X).astype(jnp.int32)
        context = contexts.Context(
            order_1S, order_1S, query_embeddings_BTD=added_BSD, key_embeddings_BSD=added_BSD,
            query_segments_BT=jnp.ones_like(kept_BS), key_segments_BS=kept_BS,
        )  # fmt: skip
        x_BSD = sharding.constrain(x_BYXD.reshape(B, Y * X, D), 'batch', 'length', 'embed')
        x_BSD, _ = self.encoder(x_BSD, context)
        return x_BSD, contexts.EncoderOutput(x_BSD, context)

    def embed(self, places: jax.Array) -> jax.Array:
        """[..., D]: the embeddings of places [..., 2], rows and columns as shares of the image."""
        c = self.config
        return image_positions.place_sinusoids(c.cycles * places, width=c.width, base=c.base)

    def decode(self, memory: contexts.EncoderOutput, rows: int) -> tuple[jax.Array, jax.Array | None]:
        """The outputs of the layers of the decoder [B, L, Q, D], normalised; and the points of the queries."""
        c, (x_BSD, image) = self.config, memory
        of = self.queries(c.width, x_BSD.dtype, self.embed)
        Q, order_1Q = c.queries.count, jnp.arange(c.queries.count)[None]
        added_1QD = of.embeddings_QD[None]
        cross = image._replace(
            query_positions_BT=order_1Q,
            query_segments_BT=jnp.ones((rows, Q), jnp.int32),
            query_embeddings_BTD=added_1QD,
        )
        own = contexts.Context(order_1Q, order_1Q, query_embeddings_BTD=added_1QD, key_embeddings_BSD=added_1QD)
        context = own._replace(memory=contexts.EncoderOutput(x_BSD, cross))
        start_BQD = jnp.zeros((rows, Q, c.width), x_BSD.dtype)
        # A layer's state is its output, which the stack returns of every layer; there is none before.
        _, (shown_LBQD,) = self.decoder(start_BQD, context, (jnp.zeros(c.decoder_layers),))
        shown_BLQD = jnp.moveaxis(shown_LBQD, 0, 1)
        return (shown_BLQD if self.norm is None else self.norm(shown_BLQD)), of.points


def cells(batch: Mapping[str, jax.Array], grid: tuple[int, int]) -> jax.Array:
    """[B, Y, X] bool: the cells of a grid over the images whose upper left pixel is no padding."""
    B, *sides = batch['image'].shape[:3]
    if 'image_size' not in batch:
        return jnp.ones((B, *grid), bool)
    inside = [
        (jnp.arange(count) * side // count)[None] < batch['image_size'][:, axis, None]
        for axis, (side, count) in enumerate(zip(sides, grid))
    ]
    return inside[0][:, :, None] & inside[1][:, None, :]


# ---- sizes ------------------------------------------------------------------------------------------------------


def detr(
    *, backbone: resnet.ResNet, width: int, layers: int, heads: int, hidden: int, classes: int, **changes: Any
) -> Detr:
    """A DETR as published, with dropout of 0.1, and batch norms that stay as they are.

    Args:
      layers: of the encoder, and of the decoder.
    """
    init = weights.Xavier()
    block = blocks.Block(
        mixer=positioned_attention.PositionedAttention(heads=heads, causal=False, bias=True, dropout=0.1, init=init),
        ffn=ffn.Mlp(hidden=hidden, activation=activations.Relu(), bias=True, init=init),
        residual=blocks.PostNorm(dropout=0.1),
    )
    base = Detr(
        backbone=config.vary(backbone, {'block.norm': norms.FrozenBatchNorm(), 'classes': 1_000}),
        classes=classes,
        width=width,
        encoder_layers=layers,
        decoder_layers=layers,
        block=block,
    )
    return config.vary(base, changes)


# Table 1; 91 classes, since the numbers of COCO's 80 reach 90.
DETR_R50 = detr(backbone=resnet.RESNET_50, width=256, layers=6, heads=8, hidden=2_048, classes=91)
DETR_R101 = config.vary(DETR_R50, {'backbone.depths': (3, 4, 23, 3)})
