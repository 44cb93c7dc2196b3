"""A gated linear recurrence as a mixer: the recurrent layer of Griffin, with a state of constant size.

Source: De et al. (2024), arXiv:2402.19427, section 2.4 and appendix A; the gates are block-diagonal as in its released
code, one block for each head.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from bigmodel_jax import config, precision
from bigmodel_jax.kernels.context import Context
from bigmodel_jax.layers.base import layer, weights
from bigmodel_jax.parallel import sharding

SHARPNESS = 8.0  # c of equation 6.
# Under the root of 1 - a^2: the gradient of a root at 0 is infinite. A gate at float32's end alone comes as close.
SMALLEST = 1e-12


class RecurrentState(NamedTuple):
    """The state after the tokens so far."""

    h_BHK: jax.Array  # float32 or float64.
    recent_BTHK: jax.Array  # The last inputs of the convolution, one less than its taps.


# ---- mathematics ------------------------------------------------------------------------------------------------


def rg_lru(
    x_BTHK: jax.Array,
    input_gate_BTHK: jax.Array,
    log_a_BTHK: jax.Array,
    *,
    h_BHK: jax.Array,
    starts_BT: jax.Array | None = None,
    padding_BT: jax.Array | None = None,
) -> jax.Array:
    """h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t x_t), [B, T, H, K] in float32 or float64.

    A parallel scan over T, whose sums are in another order than those of one step after another.

    Args:
      input_gate_BTHK: i_t, in (0, 1).
      log_a_BTHK: the logarithm of a_t, below 0.
      h_BHK: h before the first position.
      starts_BT: bool, the first tokens of documents, where h begins at 0.
      padding_BT: bool, positions that leave h as it is.

    Source: De et al. (2024), equations 3 and 4. The released code leaves the root out at the first token of a document.
    """
    log_a_BTHK, gated_BTHK = precision.raised(log_a_BTHK), precision.raised(x_BTHK * input_gate_BTHK)
    a_BTHK = jnp.exp(log_a_BTHK)
    b_BTHK = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_a_BTHK), SMALLEST)) * gated_BTHK
    if starts_BT is not None:
        a_BTHK = jnp.where(starts_BT[..., None, None], 0, a_BTHK)
    if padding_BT is not None:
        padding_BT11 = padding_BT[..., None, None]
        a_BTHK, b_BTHK = jnp.where(padding_BT11, 1, a_BTHK), jnp.where(padding_BT11, 0, b_BTHK)
    b_BTHK = b_BTHK.at[:, 0].add(a_BTHK[:, 0] * h_BHK)
    _, h_BTHK = jax.lax.associative_scan(_compose, (a_BTHK, b_BTHK), axis=1)
    return h_BTHK


def _compose(first: tuple[jax.Array, jax.Array], second: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """h -> a h + b, one after the other."""
    return first[0] * second[0], first[1] * second[0] + second[1]


def causal_convolution(
    x_BTHK: jax.Array, recent_BTHK: jax.Array, taps_NHK: jax.Array, *, documents_BT: jax.Array | None = None
) -> jax.Array:
    """sum_n taps[n] x[t - n] for each channel, [B, T, H, K].

    Args:
      recent_BTHK: the N - 1 inputs before the first position.
      documents_BT: inputs of other documents count as 0; the recent ones are of the first position's document.
    """
    N, T = taps_NHK.shape[0], x_BTHK.shape[1]
    all_BTHK = jnp.concatenate([recent_BTHK.astype(x_BTHK.dtype), x_BTHK], axis=1)
    if documents_BT is not None:
        before_BT = jnp.broadcast_to(documents_BT[:, :1], (documents_BT.shape[0], N - 1))
        all_BT = jnp.concatenate([before_BT, documents_BT], axis=1)
    y_BTHK = jnp.zeros_like(x_BTHK)
    for n in range(N):
        shifted_BTHK = all_BTHK[:, N - 1 - n : N - 1 - n + T]
        if documents_BT is not None:
            same_BT = all_BT[:, N - 1 - n : N - 1 - n + T] == documents_BT
            shifted_BTHK = jnp.where(same_BT[..., None, None], shifted_BTHK, 0)
        y_BTHK = y_BTHK + shifted_BTHK * taps_NHK[n]
    return y_BTHK


def last_inputs(x_BTHK: jax.Array, recent_BTHK: jax.Array, padding_BT: jax.Array | None) -> jax.Array:
    """The inputs that the next call's convolution needs; padding, which only ends a row, is left out."""
    all_BTHK = jnp.concatenate([recent_BTHK.astype(x_BTHK.dtype), x_BTHK], axis=1)
    size, T = recent_BTHK.shape[1], x_BTHK.shape[1]
    if padding_BT is None:
        return all_BTHK[:, T:]
    tokens_B1 = (~padding_BT).sum(axis=1, keepdims=True)
    where_BT = tokens_B1 + jnp.arange(size)
    return jnp.take_along_axis(all_BTHK, where_BT[..., None, None], axis=1)


# ---- config and module ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decay(weights.Initializer):
    """Draws the parameter of the decay: a^c is uniform in [lowest, highest] (section 2.4)."""

    lowest: config.Probability = 0.9
    highest: config.Probability = 0.999

    def draw(self, key: jax.Array, shape: tuple[int, ...], fan_in: int, fan_out: int) -> jax.Array:
        decay = jax.random.uniform(key, shape, jnp.float32, self.lowest, self.highest)
        return jnp.log(jnp.expm1(-jnp.log(decay) / SHARPNESS))  # softplus(parameter) = -log(decay) / c


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedRecurrence(layer.Mixer):
    """Griffin's recurrent block: (W x, then a convolution and an RG-LRU) times gelu(V x), and a matrix.

    Segments of 0 are padding, which may only end a row. Its state at the end of a piece is that of the last token.
    """

    heads: config.Positive  # H; each has gates of its own.
    head_width: config.Positive | None = None  # K; None: model width / heads.
    taps: config.Positive = 4  # N, of the convolution.
    init: weights.Initializer = weights.FanIn()
    out_init: weights.Initializer | None = None
    decay: weights.Initializer = Decay()

    label = 'recurrence'

    def build(self, name: str | None = None) -> nn.Module:
        return GatedRecurrenceModule(self, name=name)

    def width_of_head(self, width: int) -> int:
        """K for a model of this width."""
        if self.head_width is None and width % self.heads:
            raise config.InputError(
                f'recurrence.heads={self.heads} does not divide the model width {width}; '
                f'use a divisor of {width}, or set head_width.'
            )
        return self.head_width or width // self.heads

    def initial_state(self, rows: int, length: int, *, width: int, dtype: str) -> RecurrentState:
        shape = (self.heads, self.width_of_head(width))
        h_BHK = jnp.zeros((rows, *shape), precision.sums(jnp.dtype(dtype)))
        return RecurrentState(h_BHK, jnp.zeros((rows, self.taps - 1, *shape), dtype))

    def check(self, width: int, length: int) -> None:
        self.width_of_head(width)

    def bidirectional(self) -> layer.Mixer:
        raise config.InputError('A GatedRecurrence reads from left to right; an encoder needs another mixer.')


class GatedRecurrenceModule(nn.Module):
    """Owns branch_DHK, gate_DHK, taps_NHK, the gates of the recurrence and its decay, and out_HKD."""

    config: GatedRecurrence

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, context: Context, state: RecurrentState | None = None
    ) -> tuple[jax.Array, RecurrentState | None]:
        """[B, T, D], and the state after the last token; see layer.Layer."""
        c, (B, T, D), dtype = self.config, x_BTD.shape, x_BTD.dtype
        before = state or c.initial_state(B, T, width=D, dtype=dtype.name)
        segments_BT = context.query_segments_BT
        if segments_BT is not None:
            segments_BT = jnp.broadcast_to(segments_BT, (B, T))
        padding_BT = None if segments_BT is None else segments_BT == 0
        heads = {'heads': c.heads, 'head': c.width_of_head(D)}
        wide = {'embed': D, **heads}
        branch_DHK = weights.weight(self, 'branch', wide, init=c.init, inputs=('embed',), dtype=dtype)
        gate_DHK = weights.weight(self, 'gate', wide, init=c.init, inputs=('embed',), dtype=dtype)
        taps_NHK = weights.weight(self, 'taps', {'taps': c.taps, **heads}, init=c.init, inputs=('taps',), dtype=dtype)
        x_BTD = sharding.constrain(x_BTD, 'batch', 'length', 'embed')
        x_BTHK = jnp.einsum('BTD,DHK->BTHK', x_BTD, branch_DHK)
        y_BTHK = causal_convolution(x_BTHK, before.recent_BTHK, taps_NHK, documents_BT=segments_BT)
        y_BTHK = y_BTHK + weights.vector(self, 'taps_bias', heads, value=0.0, dtype=dtype)
        h_BTHK = self._recur(y_BTHK, before.h_BHK, segments_BT, padding_BT)
        gate_BTHK = jax.nn.gelu(jnp.einsum('BTD,DHK->BTHK', x_BTD, gate_DHK))
        mixed_BTHK = sharding.constrain(gate_BTHK * h_BTHK.astype(dtype), 'batch', 'length', 'heads', None)
        out_init, out = c.out_init or c.init, {**heads, 'embed': D}
        out_HKD = weights.weight(self, 'out', out, init=out_init, inputs=('heads', 'head'), dtype=dtype)
        found_BTD = jnp.einsum('BTHK,HKD->BTD', mixed_BTHK, out_HKD)
        if state is None:
            return found_BTD, None
        return found_BTD, RecurrentState(h_BTHK[:, -1], last_inputs(x_BTHK, before.recent_BTHK, padding_BT))

    def _recur(
        self, x_BTHK: jax.Array, h_BHK: jax.Array, segments_BT: jax.Array | None, padding_BT: jax.Array | None
    ) -> jax.Array:
        """rg_lru() of the layer's weights, [B, T, H, K]."""
        c, (H, K), dtype = self.config, x_BTHK.shape[2:], precision.sums(x_BTHK.dtype)
        axes, vector = {'heads': H, 'head': K, 'gated': K}, {'heads': H, 'head': K}
        gates = []
        for name in ('input_gate', 'recurrence_gate'):
            gate_HKF = weights.weight(self, name, axes, init=c.init, inputs=('head',), dtype=dtype)
            bias_HK = weights.vector(self, f'{name}_bias', vector, value=0.0, dtype=dtype)
            gate_BTHF = jnp.einsum('BTHK,HKF->BTHF', precision.raised(x_BTHK), gate_HKF)
            gates.append(jax.nn.sigmoid(gate_BTHF + bias_HK))
        decay_HK = weights.weight(self, 'decay_bias', vector, init=c.decay, inputs=('head',), dtype=dtype)
        log_a_BTHK = -SHARPNESS * gates[1] * jax.nn.softplus(decay_HK)
        starts_BT = None
        if segments_BT is not None:
            first_B1 = jnp.zeros((segments_BT.shape[0], 1), bool)  # It goes on with what h holds.
            starts_BT = jnp.concatenate([first_B1, segments_BT[:, 1:] != segments_BT[:, :-1]], axis=1)
        return rg_lru(x_BTHK, gates[0], log_a_BTHK, h_BHK=h_BHK, starts_BT=starts_BT, padding_BT=padding_BT)
