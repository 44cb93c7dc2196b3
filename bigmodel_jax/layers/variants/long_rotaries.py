"""Rotary positions for rows longer than those of the first training: YaRN and LongRoPE."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.layers import positions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Yarn(positions.Scaling):
    """Channels that turn seldom within `length` are slowed down by `factor`, those that turn often are not.

    The bounds are `slow` and `fast` turns, between which the frequency is interpolated linearly in the number of the
    channel; queries and keys are multiplied by the square root of YaRN's temperature.

    Source: Peng et al. (2023), arXiv:2309.00071, equations 13 to 17 and 22, with the bounds rounded to whole channels
    as in its code and transformers 5.24 ('rope_type': 'yarn').
    """

    factor: config.PositiveFloat
    length: config.Positive  # original_max_position_embeddings
    fast: config.PositiveFloat = 32.0  # beta_fast
    slow: config.PositiveFloat = 1.0  # beta_slow
    truncate: bool = True  # Whether the bounds are rounded.
    attention_factor: config.PositiveFloat | None = None  # None: temperature(factor).

    @property
    def amplitude(self) -> float:
        return temperature(self.factor) if self.attention_factor is None else self.attention_factor

    def __call__(self, frequencies: jax.Array, positions_BT: jax.Array, *, base: float) -> jax.Array:
        half = frequencies.shape[0]
        low, high = (self._channel(turns, half, base) for turns in (self.fast, self.slow))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * half - 1)
        if low == high:
            high += 0.001  # As in transformers: the division below.
        slowed = jnp.asarray(np.clip((np.arange(half) - low) / (high - low), 0.0, 1.0), frequencies.dtype)
        return slowed * frequencies / self.factor + (1.0 - slowed) * frequencies

    def _channel(self, turns: float, half: int, base: float) -> float:
        """The channel that turns so often within `length`."""
        return half * math.log(self.length / (turns * 2 * math.pi)) / math.log(base)


def temperature(factor: float, slope: float = 1.0) -> float:
    """What YaRN multiplies queries and keys by: 1 + 0.1 slope ln(factor), and 1 where nothing is stretched."""
    return 1.0 if factor <= 1 else 0.1 * slope * math.log(factor) + 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongRope(positions.Scaling):
    """A divisor for each frequency: those of `short` up to `length` positions, those of `long` in longer documents.

    A document is a row, or a part of one whose positions begin anew, so that packing changes nothing. Transformers
    takes one of the two for the whole batch. What a document's first tokens are depends on how long it becomes, so that
    a key-value cache holds at most `length` positions.

    Source: Ding et al. (2024), arXiv:2402.13753, and Phi-3's released code ('rope_type': 'longrope').
    """

    short: tuple[config.PositiveFloat, ...]  # One for each pair of channels.
    long: tuple[config.PositiveFloat, ...]
    length: config.Positive  # original_max_position_embeddings
    attention_factor: config.PositiveFloat = 1.0  # Queries and keys are multiplied by it.

    @property
    def amplitude(self) -> float:
        return self.attention_factor

    @property
    def cache_length(self) -> int | None:
        return self.length

    def check(self, channels: int) -> None:
        for name in ('short', 'long'):
            divisors = getattr(self, name)
            if len(divisors) != channels // 2:
                raise config.InputError(
                    f'rotary.scaling.{name} has {len(divisors)} numbers; it should have {channels // 2}, one for each '
                    f'pair of the {channels} rotated channels of a head.'
                )

    def __call__(self, frequencies: jax.Array, positions_BT: jax.Array, *, base: float) -> jax.Array:
        short, long = (frequencies / jnp.asarray(each, frequencies.dtype) for each in (self.short, self.long))
        is_long_BT = last_position(positions_BT) >= self.length
        return jnp.where(is_long_BT[..., None], long, short)


def last_position(positions_BT: jax.Array) -> jax.Array:
    """[B, T] int32: the position of the last token of the document that a token is in."""
    T = positions_BT.shape[1]
    goes_on_BT = jnp.pad(positions_BT[:, 1:] == positions_BT[:, :-1] + 1, [(0, 0), (0, 1)])
    last_BT = jax.lax.cummin(jnp.where(goes_on_BT, T - 1, jnp.arange(T)), axis=1, reverse=True)
    return jnp.take_along_axis(positions_BT, last_BT, axis=1)
