"""A Transformer block: attention, cross-attention if there is an encoder, and a feed-forward layer, with residuals."""

import dataclasses
from collections.abc import Callable

import jax
from flax import linen as nn
from jax import ad_checkpoint

from bigmodel_jax import config
from bigmodel_jax.layers import dropout, ffn, intermediates, norms
from bigmodel_jax.layers.attention import Attention, Cache, Context
from bigmodel_jax.parallel import sharding

Sublayer = Callable[[jax.Array], jax.Array]


class Residual:
    """Interface: how a sublayer is joined to the stream that passes through the model."""

    norm: norms.Norm
    dropout: float

    def join(self, x_BTD: jax.Array, sublayer: Sublayer, *, norm: Sublayer, drop: Sublayer) -> jax.Array:
        """The stream after the sublayer."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreNorm(Residual):
    """x + f(norm(x)), as in GPT-2 and Llama; the model ends with a norm. Source: Xiong et al. (2020),
    arXiv:2002.04745."""

    norm: norms.Norm = norms.LayerNorm()
    dropout: config.Probability = 0.0

    def join(self, x_BTD: jax.Array, sublayer: Sublayer, *, norm: Sublayer, drop: Sublayer) -> jax.Array:
        return x_BTD + drop(sublayer(norm(x_BTD)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PostNorm(Residual):
    """norm(x + f(x)), as in the original Transformer and BERT. Source: Vaswani et al. (2017), section 5.4."""

    norm: norms.Norm = norms.LayerNorm()
    dropout: config.Probability = 0.0

    def join(self, x_BTD: jax.Array, sublayer: Sublayer, *, norm: Sublayer, drop: Sublayer) -> jax.Array:
        return norm(x_BTD + drop(sublayer(x_BTD)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """One layer of a Transformer. `cross` attends to an encoder's output, and is None where there is no encoder."""

    attention: Attention
    ffn: ffn.Ffn
    residual: Residual = PreNorm()
    cross: Attention | None = None

    def build(self, name: str | None = None) -> nn.Module:
        return BlockModule(self, name=name)


class BlockModule(nn.Module):
    """Owns its sublayers and a norm for each."""

    config: Block

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        context: Context,
        memory: tuple[jax.Array, Context] | None = None,
        cache: Cache | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """The stream [B, T, D] after this layer, and the layer's cache.

        Args:
          memory: an encoder's output [B, S, D], and where its tokens stand as keys.
          cache: see AttentionModule.
        """
        c, updated = self.config, cache

        def attend(y_BTD: jax.Array) -> jax.Array:
            nonlocal updated
            y_BTD, updated = c.attention.build('attention')(y_BTD, context, cache=cache)
            return y_BTD

        x_BTD = self._join('attention', x_BTD, attend)
        if c.cross is not None and memory is not None:
            look, (memory_BSD, there) = c.cross.build('cross'), memory
            x_BTD = self._join('cross', x_BTD, lambda y_BTD: look(y_BTD, there, memory_BSD=memory_BSD)[0])
        x_BTD = self._join('ffn', x_BTD, lambda y_BTD: c.ffn.build('ffn')(y_BTD))
        intermediates.show(self, intermediates.STREAMS, 'after', x_BTD)
        return x_BTD, updated

    def _join(self, name: str, x_BTD: jax.Array, sublayer: Sublayer) -> jax.Array:
        residual = self.config.residual
        norm = residual.norm.build(f'{name}_norm')
        # Rematerialisation policies know it by this name.
        x_BTD = ad_checkpoint.checkpoint_name(x_BTD, 'stream' if name == 'attention' else 'middle')

        def on_all_positions(y_BTD: jax.Array) -> jax.Array:
            # The norms, the sums and dropout see 1 / tensor of the positions, the sublayers all (Korthikanti et al.,
            # 2022, arXiv:2205.05198, figure 5): they gather on the way in; on the way out it is summed and scattered.
            y_BTD = sublayer(sharding.constrain(y_BTD, 'batch', 'stream', 'embed'))
            return sharding.constrain(y_BTD, 'batch', 'stream', 'embed')

        x_BTD = residual.join(
            x_BTD, on_all_positions, norm=norm, drop=lambda y_BTD: dropout.drop(self, y_BTD, residual.dropout)
        )
        return sharding.constrain(x_BTD, 'batch', 'stream', 'embed')
