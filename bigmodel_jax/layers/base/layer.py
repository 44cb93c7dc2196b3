"""What a layer is: whatever a Stack repeats, and the mixers inside a Block."""

from typing import Any

from flax import linen as nn

PyTree = Any


class Layer:
    """Interface of the layer configs. The Linen module that `build` gives is called as

      carry, state = module(carry, inputs, state)

      carry: a pytree that each layer hands to the next, with the same shapes: the residual stream [B, T, D].
      inputs: a pytree that all layers read alike: positions, segments and an encoder's output (kernels/context.py).
      state: what the layer remembers of earlier calls where a sequence is read in pieces, rows first: keys and values,
        a recurrent state. None where the whole sequence is read at once; then the state that is returned is None.

    Reading in pieces with the state gives what reading the whole sequence gives.
    """

    def build(self, name: str | None = None) -> nn.Module:
        """The module, which owns the weights."""
        raise NotImplementedError

    def initial_state(self, rows: int, length: int, *, width: int, dtype: str) -> PyTree:
        """The state before the first token; a tree without arrays for a layer that remembers nothing.

        Args:
          rows: B.
          length: the most tokens that a row will have.
          width: D.
        """
        return ()

    def check(self, width: int, length: int) -> None:
        """Raises InputError where the layer does not fit a model of this width, or inputs of this length."""


class Mixer(Layer):
    """A layer that mixes positions: attention, recurrence, convolution. Its carry is [B, T, D]; a Block adds the norm
    and the residual connection."""

    label: str  # Its parameters are called so within a Block, and its norm '<label>_norm'.

    def bidirectional(self) -> 'Mixer':
        """The same mixer for an encoder, where each position depends on all others.

        Raises:
          InputError: there is none.
        """
        raise NotImplementedError
