"""A block: a mixer such as attention, and a feed-forward layer, each with a residual connection."""

import dataclasses
from collections.abc import Callable

import jax
from flax import linen as nn
from jax import ad_checkpoint

from bigmodel_jax import config
from bigmodel_jax.kernels.context import Context
from bigmodel_jax.layers import attention, ffn, norms
from bigmodel_jax.layers.base import dropout, intermediates, layer
from bigmodel_jax.parallel import sharding

Sublayer = Callable[[jax.Array], jax.Array]


class Residual:
    """Interface: how a sublayer is combined with the residual stream."""

    norm: norms.Norm
    dropout: float
    output_norm: norms.Norm | None = None  # Of a sublayer's output, before it is joined.

    def join(self, x_BTD: jax.Array, sublayer: Sublayer, *, norm: Sublayer, drop: Sublayer) -> jax.Array:
        """The residual stream after the sublayer."""
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
class Block(layer.Layer):
    """One layer of a residual network: a mixer of positions and a feed-forward layer, each with a residual connection.

    `cross` attends to an encoder's output, and is None where there is no encoder.
    """

    mixer: layer.Mixer
    ffn: ffn.Ffn
    residual: Residual = PreNorm()
    cross: attention.Attention | None = None

    def build(self, name: str | None = None) -> nn.Module:
        return BlockModule(self, name=name)

    def initial_state(self, rows: int, length: int, *, width: int, dtype: str) -> layer.PyTree:
        return self.mixer.initial_state(rows, length, width=width, dtype=dtype)

    def check(self, width: int, length: int) -> None:
        self.mixer.check(width, length)
        if self.cross is not None:
            self.cross.width_of_head(width)


class BlockModule(nn.Module):
    """Owns its sublayers and a norm for each."""

    config: Block

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, context: Context, state: layer.PyTree = None
    ) -> tuple[jax.Array, layer.PyTree]:
        """The residual stream [B, T, D] after this layer, and the state of its mixer; see layer.Layer."""
        c = self.config

        def mix(y_BTD: jax.Array) -> jax.Array:
            nonlocal state
            y_BTD, state = c.mixer.build(c.mixer.label)(y_BTD, context, state)
            return y_BTD

        x_BTD = self._join(c.mixer.label, x_BTD, mix, entry='residual_stream')
        if c.cross is not None and context.memory is not None:
            cross, (memory_BSD, keys) = c.cross.build('cross'), context.memory
            x_BTD = self._join('cross', x_BTD, lambda y_BTD: cross(y_BTD, keys, memory_BSD=memory_BSD)[0])
        x_BTD = self._join('ffn', x_BTD, lambda y_BTD: c.ffn.build('ffn')(y_BTD))
        intermediates.sow(self, intermediates.RESIDUAL_STREAM, 'after', x_BTD)
        return x_BTD, state

    def _join(self, name: str, x_BTD: jax.Array, sublayer: Sublayer, *, entry: str = 'post_mixer') -> jax.Array:
        residual = self.config.residual
        norm = residual.norm.build(f'{name}_norm')
        after = residual.output_norm
        output_norm = None if after is None else after.build(f'{name}_output_norm')
        x_BTD = ad_checkpoint.checkpoint_name(x_BTD, entry)  # Rematerialisation policies know it by this name.

        def on_all_positions(y_BTD: jax.Array) -> jax.Array:
            # The norms, the sums and dropout see 1 / tensor of the positions, the sublayers all (Korthikanti et al.,
            # 2022, arXiv:2205.05198, figure 5): they gather on the way in; on the way out it is summed and scattered.
            y_BTD = sublayer(sharding.constrain(y_BTD, 'batch', 'residual_length', 'embed'))
            y_BTD = sharding.constrain(y_BTD, 'batch', 'residual_length', 'embed')
            return y_BTD if output_norm is None else output_norm(y_BTD)

        x_BTD = residual.join(
            x_BTD, on_all_positions, norm=norm, drop=lambda y_BTD: dropout.drop(self, y_BTD, residual.dropout)
        )
        return sharding.constrain(x_BTD, 'batch', 'residual_length', 'embed')
