"""Position-wise feed-forward layers."""

import dataclasses

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from bigmodel_jax import config
from bigmodel_jax.layers import activations
from bigmodel_jax.layers.base import weights
from bigmodel_jax.parallel import collective_matmul, sharding


def mlp(
    x_BTD: jax.Array,
    up_DF: jax.Array,
    down_FD: jax.Array,
    *,
    activation: activations.Activation,
    bias_F: jax.Array | None,
) -> jax.Array:
    """activation(x up + bias) down. Source: Vaswani et al. (2017), arXiv:1706.03762, equation 2."""
    (hidden_BTF,) = collective_matmul.allgather_matmul(x_BTD, ('BTD,DF->BTF',), (up_DF,), cuts=('hidden',))
    hidden_BTF = _widened('up', hidden_BTF)
    if bias_F is not None:
        hidden_BTF = hidden_BTF + bias_F
    return collective_matmul.matmul_reducescatter('BTF,FD->BTD', activation(hidden_BTF), down_FD, cut='hidden')


def gated_ffn(
    x_BTD: jax.Array, gate_DF: jax.Array, up_DF: jax.Array, down_FD: jax.Array, *, activation: activations.Activation
) -> jax.Array:
    """(activation(x gate) * x up) down. Source: Shazeer (2020), arXiv:2002.05202, equation 6."""
    wide = ('BTD,DF->BTF',) * 2
    gate_BTF, up_BTF = collective_matmul.allgather_matmul(x_BTD, wide, (gate_DF, up_DF), cuts=('hidden', 'hidden'))
    gate_BTF, up_BTF = _widened('gate', gate_BTF), _widened('up', up_BTF)
    return collective_matmul.matmul_reducescatter('BTF,FD->BTD', activation(gate_BTF) * up_BTF, down_FD, cut='hidden')


def _widened(name: str, y_BTF: jax.Array) -> jax.Array:
    """`y_BTF` sharded along F, not along T as the residual stream is; rematerialization policies know its `name`."""
    return checkpoint_name(sharding.constrain(y_BTF, 'batch', 'length', 'hidden'), name)


class Ffn:
    """Interface of the feed-forward configs."""

    def build(self, name: str | None = None) -> nn.Module:
        """A module [B, T, D] -> [B, T, D]."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mlp(Ffn):
    """Two matrices with an activation between them.

    `out_init` draws the second matrix (default: like the first); GPT-2 divides its deviation by sqrt(2 x layers).
    """

    hidden: config.Positive  # F
    activation: activations.Activation = activations.Gelu()
    bias: bool = False
    init: weights.Initializer = weights.FanIn()
    out_init: weights.Initializer | None = None

    def build(self, name: str | None = None) -> nn.Module:
        return MlpModule(self, name=name)


class MlpModule(nn.Module):
    """Owns up_DF and down_FD, and their biases."""

    config: Mlp

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        c, D, F = self.config, x_BTD.shape[-1], self.config.hidden
        dtype, bias_F = x_BTD.dtype, None
        up_DF = weights.matrix(self, 'up', {'embed': D, 'hidden': F}, init=c.init, inputs=('embed',), dtype=dtype)
        out_init = c.out_init or c.init
        down_FD = weights.matrix(
            self, 'down', {'hidden': F, 'embed': D}, init=out_init, inputs=('hidden',), dtype=dtype
        )
        if c.bias:
            bias_F = weights.vector(self, 'up_bias', {'hidden': F}, value=0.0, dtype=dtype)
        y_BTD = mlp(x_BTD, up_DF, down_FD, activation=c.activation, bias_F=bias_F)
        return y_BTD + weights.vector(self, 'down_bias', {'embed': D}, value=0.0, dtype=dtype) if c.bias else y_BTD


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gated(Ffn):
    """Gated feed-forward layer (Shazeer, 2020, arXiv:2002.05202); SwiGLU with the default activation."""

    hidden: config.Positive  # F. Two thirds of an ungated layer's F gives equally many weights.
    activation: activations.Activation = activations.Silu()
    init: weights.Initializer = weights.FanIn()
    out_init: weights.Initializer | None = None

    def build(self, name: str | None = None) -> nn.Module:
        return GatedModule(self, name=name)


class GatedModule(nn.Module):
    """Owns gate_DF, up_DF and down_FD."""

    config: Gated

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        c, D, F, dtype = self.config, x_BTD.shape[-1], self.config.hidden, x_BTD.dtype
        wide, out_init = {'embed': D, 'hidden': F}, c.out_init or c.init
        gate_DF = weights.matrix(self, 'gate', wide, init=c.init, inputs=('embed',), dtype=dtype)
        up_DF = weights.matrix(self, 'up', wide, init=c.init, inputs=('embed',), dtype=dtype)
        down_FD = weights.matrix(
            self, 'down', {'hidden': F, 'embed': D}, init=out_init, inputs=('hidden',), dtype=dtype
        )
        return gated_ffn(x_BTD, gate_DF, up_DF, down_FD, activation=c.activation)
