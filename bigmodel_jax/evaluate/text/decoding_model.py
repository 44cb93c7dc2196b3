"""Decoding token by token: what a search asks of a model, with a cache of the layers' state or without one."""

import dataclasses
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from bigmodel_jax.layers import positions, stacks
from bigmodel_jax.objectives import objective, requirements

PyTree = Any


@runtime_checkable
class Generative(Protocol):
    """What generation needs of a model's config.

    Its module has features() and unembed(), and encode() if it reads a source, as Decoder and Seq2Seq have.
    """

    vocab: int
    positions: positions.Positions | None

    def build(self) -> Any:
        """The module."""

    def initial_state(self, rows: int, length: int) -> stacks.State:
        """The state of the layers for `rows` texts of up to `length` tokens; its arrays have the rows on axis 1."""


# Of an evaluation that lets the model go on from a prompt, or translate a source.
PROMPTED = requirements.Requirements(
    methods=('features', 'unembed'), no_methods=('encode',), provided_by='the model decoder.Decoder'
)
TRANSLATING = requirements.Requirements(
    methods=('features', 'unembed', 'encode'), provided_by='the model seq2seq.Seq2Seq'
)


def reads_source(model: Generative) -> bool:
    """Whether the model has an encoder."""
    return hasattr(type(model.build()), 'encode')


def cache_length(model: Any) -> int | None:
    """How many positions a key-value cache of the model can hold at most (see LongRope); None if nothing limits it."""
    rotaries = [getattr(getattr(each, 'mixer', None), 'rotary', None) for each in getattr(model, 'pattern', ())]
    bounds = [each.scaling.cache_length for each in rotaries if each is not None and each.scaling is not None]
    return min((each for each in bounds if each is not None), default=None)


class Prompts(NamedTuple):
    """Prompts, padded at the right. A row of length 0 is padding."""

    tokens_BT: jax.Array
    lengths_B: jax.Array


@dataclasses.dataclass(frozen=True)
class DecodingModel:
    """Interface: a model that reads one more token of every row at each call.

    Its cache is an explicit tree of arrays with the rows on axis 1, which a search carries, repeats and reorders.
    """

    model: Generative
    apply: objective.Apply
    fixed: dict[str, jax.Array]  # What the model is given with every token, rows first: an encoder's output.

    def begin(self, prompts: Prompts, *, slots: int) -> tuple[jax.Array, PyTree]:
        """Logits [B, V] after each prompt, and a cache with room for `slots` tokens a row."""
        raise NotImplementedError

    def next(self, tokens_B: jax.Array, positions_B: jax.Array, cache: PyTree) -> tuple[jax.Array, PyTree]:
        """Logits [B, V] after `tokens_B`, which stand at `positions_B`, and the new cache."""
        raise NotImplementedError

    def repeat(self, times: int) -> 'DecodingModel':
        """The model for `times` copies of every row, one after the other."""
        fixed = {name: jnp.repeat(value, times, axis=0) for name, value in self.fixed.items()}
        return dataclasses.replace(self, fixed=fixed)

    def logits(
        self, batch: dict[str, jax.Array], last_B: jax.Array, state: stacks.State | None
    ) -> tuple[jax.Array, stacks.State | None]:
        """Logits [B, V] at one position of each row only, since those of whole prompts are too many; and the state."""
        (x_BTD, state), _ = self.apply({**self.fixed, **batch}, state, method='features')
        x_B1D = jnp.take_along_axis(x_BTD, last_B[:, None, None], axis=1)
        logits_B1V, _ = self.apply(x_B1D, method='unembed')
        return logits_B1V[:, 0], state


class Cached(DecodingModel):
    """Keeps the state of the layers (keys and values, recurrent states): each token costs one position's work.

    Layers with a recurrent state skip the padding of a short prompt, whose segment is 0. Attention writes it to slots
    that its row has not reached; no query attends to a slot of its own future, and every slot is overwritten before it
    becomes the past.
    """

    def begin(self, prompts: Prompts, *, slots: int) -> tuple[jax.Array, PyTree]:
        return self.read(prompts, self.model.initial_state(prompts.tokens_BT.shape[0], slots))

    def read(self, prompts: Prompts, empty: PyTree) -> tuple[jax.Array, PyTree]:
        """begin() with a cache that is given, which is that before the first token."""
        here_1T = jnp.arange(prompts.tokens_BT.shape[1])[None]
        is_token_BT = (here_1T < prompts.lengths_B[:, None]).astype(jnp.int32)
        batch = {'inputs': prompts.tokens_BT, 'positions': here_1T, 'segments': is_token_BT}
        return self.logits(batch, _last(prompts), empty)

    def next(self, tokens_B: jax.Array, positions_B: jax.Array, cache: PyTree) -> tuple[jax.Array, PyTree]:
        batch = {'inputs': tokens_B[:, None], 'positions': positions_B[:, None]}
        return self.logits(batch, jnp.zeros_like(positions_B), cache)


class Recomputing(DecodingModel):
    """Caches the tokens alone and computes all positions again for each new one: slow, and the reference for Cached."""

    def begin(self, prompts: Prompts, *, slots: int) -> tuple[jax.Array, PyTree]:
        B, T = prompts.tokens_BT.shape
        tokens_1BT = jnp.zeros((1, B, slots), jnp.int32).at[0, :, :T].set(prompts.tokens_BT)
        return self._read(tokens_1BT, _last(prompts))

    def next(self, tokens_B: jax.Array, positions_B: jax.Array, cache: PyTree) -> tuple[jax.Array, PyTree]:
        return self._read(cache.at[0, jnp.arange(len(tokens_B)), positions_B].set(tokens_B), positions_B)

    def _read(self, tokens_1BT: jax.Array, last_B: jax.Array) -> tuple[jax.Array, PyTree]:
        batch = {'inputs': tokens_1BT[0], 'positions': jnp.arange(tokens_1BT.shape[2])[None]}
        return self.logits(batch, last_B, None)[0], tokens_1BT


def _last(prompts: Prompts) -> jax.Array:
    """The position of each prompt's last token; 0 in rows of padding."""
    return jnp.maximum(prompts.lengths_B - 1, 0)
