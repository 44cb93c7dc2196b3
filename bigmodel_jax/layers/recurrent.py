"""The classical recurrent layers: Elman's, the GRU and the LSTM, each a scan over the positions of a row.

Each is a mixer: alone in a stack, as in the language models of 2014, or within a block with a residual connection.
Segments of 0 are padding, which may only end a row: there the output is 0 and the state stays as it is. Each segment
begins with a state of 0, but for the one that continues the state of an earlier call.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from bigmodel_jax import config, precision
from bigmodel_jax.kernels.context import Context
from bigmodel_jax.layers import activations
from bigmodel_jax.layers.base import dropout, layer, weights
from bigmodel_jax.parallel import sharding

State = tuple[jax.Array, ...]  # [B, F] each, float32 or float64; the first is what the layer gives.


# ---- mathematics ------------------------------------------------------------------------------------------------


def elman_step(input_BNF: jax.Array, recurrent_BNF: jax.Array, *, activation: activations.Activation) -> State:
    """h = activation(W x + U h'), its one gate. Source: Elman (1990), Finding structure in time."""
    return (activation(input_BNF + recurrent_BNF)[:, 0],)


def gru_step(input_BNF: jax.Array, recurrent_BNF: jax.Array, h_BF: jax.Array) -> State:
    """h = (1 - z) n + z h', of the gates r, z and n.

    Source: Cho et al. (2014), arXiv:1406.1078, with the reset gate r after the matrix, as in cuDNN and PyTorch.
    """
    reset_BF = jax.nn.sigmoid(input_BNF[:, 0] + recurrent_BNF[:, 0])
    update_BF = jax.nn.sigmoid(input_BNF[:, 1] + recurrent_BNF[:, 1])
    new_BF = jnp.tanh(input_BNF[:, 2] + reset_BF * recurrent_BNF[:, 2])
    return ((1 - update_BF) * new_BF + update_BF * h_BF,)


def lstm_step(gates_BNF: jax.Array, c_BF: jax.Array) -> State:
    """h = o tanh(c) and c = f c' + i g, of the gates i, f, g and o.

    Source: Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (2000).
    """
    i_BF, f_BF, g_BF, o_BF = (gates_BNF[:, n] for n in range(4))
    c_BF = jax.nn.sigmoid(f_BF) * c_BF + jax.nn.sigmoid(i_BF) * jnp.tanh(g_BF)
    return jax.nn.sigmoid(o_BF) * jnp.tanh(c_BF), c_BF


# ---- configs ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recurrent(layer.Mixer):
    """Interface of the recurrent layers, which have as many units as the model is wide.

    Attributes:
      gates: N.
      arrays: how many the state has.
      biased: gates whose product with the state has a bias of its own.
    """

    gates: ClassVar[int]
    arrays: ClassVar[int] = 1
    biased: ClassVar[tuple[int, ...]] = ()
    label = 'recurrence'

    dropout: config.Probability = 0.0  # On what it gives, not on what it remembers (Zaremba et al., 2014, section 3.1).
    init: weights.Initializer = weights.FanIn()
    bias_init: weights.Initializer = weights.Normal(stddev=0.0)

    def build(self, name: str | None = None) -> nn.Module:
        return RecurrentModule(self, name=name)

    def initial_state(self, rows: int, length: int, *, width: int, dtype: str) -> State:
        zeros_BF = jnp.zeros((rows, width), precision.sums(jnp.dtype(dtype)))
        return (zeros_BF,) * self.arrays

    def bidirectional(self) -> layer.Mixer:
        return Bidirectional(cell=self)

    def step(self, input_BNF: jax.Array, recurrent_BNF: jax.Array, state: State) -> State:
        """The state after one position.

        Args:
          input_BNF: W x + b.
          recurrent_BNF: U h, and the bias of the gates that are `biased`.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Elman(Recurrent):
    """A simple recurrent network; see elman_step()."""

    gates: ClassVar[int] = 1

    activation: activations.Activation = activations.Tanh()

    def step(self, input_BNF: jax.Array, recurrent_BNF: jax.Array, state: State) -> State:
        return elman_step(input_BNF, recurrent_BNF, activation=self.activation)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gru(Recurrent):
    """A gated recurrent unit; see gru_step()."""

    gates: ClassVar[int] = 3
    biased: ClassVar[tuple[int, ...]] = (2,)

    def step(self, input_BNF: jax.Array, recurrent_BNF: jax.Array, state: State) -> State:
        return gru_step(input_BNF, recurrent_BNF, state[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lstm(Recurrent):
    """A long short-term memory; see lstm_step()."""

    gates: ClassVar[int] = 4
    arrays: ClassVar[int] = 2

    def step(self, input_BNF: jax.Array, recurrent_BNF: jax.Array, state: State) -> State:
        return lstm_step(input_BNF + recurrent_BNF, state[1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForgetBias(weights.Initializer):
    """Biases of 0, and of `value` for the forget gate of an LSTM (Jozefowicz et al., 2015, section 2.2)."""

    value: config.Rate = 1.0

    def draw(self, key: jax.Array, shape: tuple[int, ...], fan_in: int, fan_out: int) -> jax.Array:
        return jnp.zeros(shape, jnp.float32).at[1].set(self.value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bidirectional(layer.Mixer):
    """A layer that reads from left to right and one that reads from right to left, with half of the units each.

    Source: Schuster and Paliwal (1997).
    """

    cell: Recurrent

    label = 'recurrence'

    def build(self, name: str | None = None) -> nn.Module:
        return BidirectionalModule(self, name=name)

    def initial_state(self, rows: int, length: int, *, width: int, dtype: str) -> layer.PyTree:
        raise config.InputError('A Bidirectional layer needs whole rows; it cannot read on where a state ends.')

    def check(self, width: int, length: int) -> None:
        if width % 2:
            raise config.InputError(f'A Bidirectional layer halves the width of the model, which is {width}; use 2 n.')

    def bidirectional(self) -> layer.Mixer:
        return self


# ---- modules ----------------------------------------------------------------------------------------------------


class RecurrentModule(nn.Module):
    """Owns input_DNF, recurrent_KNF and bias_NF, and the bias of the gates that have one of their own."""

    config: Recurrent
    units: int | None = None  # F; None: D.
    reverse: bool = False  # From right to left.

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, context: Context, state: State | None = None
    ) -> tuple[jax.Array, State | None]:
        """[B, T, F], and the state after the last position; see layer.Layer."""
        c, (B, T, D), dtype = self.config, x_BTD.shape, x_BTD.dtype
        F, sums = self.units or D, precision.sums(dtype)
        gates = {'gates': c.gates, 'hidden': F}
        input_DNF = weights.weight(self, 'input', {'embed': D, **gates}, init=c.init, inputs=('embed',), dtype=dtype)
        axes = {'state': F, **gates}
        recurrent_KNF = weights.weight(self, 'recurrent', axes, init=c.init, inputs=('state',), dtype=dtype)
        bias_NF = weights.weight(self, 'bias', gates, init=c.bias_init, inputs=('gates',), dtype=sums)
        gates_BTNF = precision.raised(jnp.einsum('BTD,DNF->BTNF', x_BTD, input_DNF)) + bias_NF
        gates_BTNF = sharding.constrain(gates_BTNF, 'batch', 'length', None, 'hidden')
        own_NF = self._own_biases(F, sums)

        def step(state: State, gates_BNF: jax.Array) -> State:
            recurrent_BNF = precision.raised(jnp.einsum('BK,KNF->BNF', state[0].astype(dtype), recurrent_KNF))
            return c.step(gates_BNF, recurrent_BNF if own_NF is None else recurrent_BNF + own_NF, state)

        segments_BT = context.query_segments_BT
        if segments_BT is not None:
            segments_BT = jnp.broadcast_to(segments_BT, (B, T))
        before = state or c.initial_state(B, T, width=F, dtype=dtype.name)
        after, h_BTF = scan(step, before, gates_BTNF, segments_BT=segments_BT, reverse=self.reverse)
        h_BTF = dropout.drop(self, h_BTF.astype(dtype), c.dropout)
        return sharding.constrain(h_BTF, 'batch', 'length', 'embed'), None if state is None else after

    def _own_biases(self, units: int, dtype: jnp.dtype) -> jax.Array | None:
        """What is added to U h, [N, F]; None where no gate has a bias of its own."""
        c = self.config
        if not c.biased:
            return None
        axes = {'gates': len(c.biased), 'hidden': units}
        own_NF = weights.weight(self, 'recurrent_bias', axes, init=c.bias_init, inputs=('gates',), dtype=dtype)
        return jnp.zeros((c.gates, units), dtype).at[jnp.array(c.biased)].set(own_NF)


class BidirectionalModule(nn.Module):
    """Owns a layer for each direction."""

    config: Bidirectional

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context: Context, state: None = None) -> tuple[jax.Array, None]:
        """[B, T, D]: the units of the layer that reads from the left, then those of the other."""
        half = x_BTD.shape[-1] // 2
        forward = RecurrentModule(self.config.cell, units=half, name='forward')
        backward = RecurrentModule(self.config.cell, units=half, reverse=True, name='backward')
        return jnp.concatenate([forward(x_BTD, context)[0], backward(x_BTD, context)[0]], axis=-1), None


def scan(
    step: Callable[[State, jax.Array], State],
    before: State,
    gates_BTNF: jax.Array,
    *,
    segments_BT: jax.Array | None,
    reverse: bool,
) -> tuple[State, jax.Array]:
    """The state after the last position that is read, and the first array of the state at each, [B, T, F].

    Args:
      step: gives the state after a position, of the state before it and the position's inputs [B, N, F].
      segments_BT: see the head of this file; None: each row is one segment.
      reverse: positions are read from the last to the first.
    """
    gates_TBNF = jnp.moveaxis(gates_BTNF, 1, 0)

    def plain(state: State, gates_BNF: jax.Array) -> tuple[State, jax.Array]:
        state = step(state, gates_BNF)
        return state, state[0]

    def masked(state: State, inputs: tuple[jax.Array, ...]) -> tuple[State, jax.Array]:
        gates_BNF, starts_B1, padding_B1 = inputs
        state = tuple(jnp.where(starts_B1, 0, each_BF) for each_BF in state)
        new = step(state, gates_BNF)
        kept = tuple(jnp.where(padding_B1, old_BF, new_BF) for old_BF, new_BF in zip(state, new))
        return kept, jnp.where(padding_B1, 0, new[0])

    if segments_BT is None:
        after, h_TBF = jax.lax.scan(plain, before, gates_TBNF, reverse=reverse)
    else:
        padding_BT, starts_BT = segments_BT == 0, _starts(segments_BT, reverse=reverse)
        inputs = (gates_TBNF, starts_BT.T[..., None], padding_BT.T[..., None])
        after, h_TBF = jax.lax.scan(masked, before, inputs, reverse=reverse)
    return after, jnp.moveaxis(h_TBF, 0, 1)


def _starts(segments_BT: jax.Array, *, reverse: bool) -> jax.Array:
    """Where another segment begins in the direction of reading, [B, T] bool; padding and the first one do not."""
    changes_BT = (segments_BT[:, 1:] != segments_BT[:, :-1]) & (segments_BT[:, 1:] != 0)
    pad = ((0, 0), (0, 1)) if reverse else ((0, 0), (1, 0))
    return jnp.pad(changes_BT, pad)
