"""Position encodings: learned, sinusoidal, rotary and relative.

Positions are [B, T] int32, or [1, T] where all rows agree; they restart at 0 in each document of a packed row.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bigmodel_jax import config, precision
from bigmodel_jax.layers.base import weights


def sinusoidal(positions_BT: jax.Array, *, width: int, base: float, dtype: jnp.dtype = jnp.float32) -> jax.Array:  # type: ignore[assignment]
    """[B, T, D] of `dtype`: sines in the even channels, cosines in the odd ones.

    Source: Vaswani et al. (2017), arXiv:1706.03762, section 3.5.
    """
    angles_BTN = positions_BT[..., None] * base ** (-jnp.arange(0, width, 2, dtype=dtype) / width)
    pairs = jnp.stack([jnp.sin(angles_BTN), jnp.cos(angles_BTN)], axis=-1)
    return pairs.reshape(*positions_BT.shape, -1)[..., :width]


def sinusoid_table(length: int, *, width: int, base: float) -> np.ndarray:
    """[length, D] float32: sines in the first half of the channels, cosines in the second, as in fairseq and Marian.

    Made in float64 and rounded, exactly as the files of such models hold it.
    """
    angles = np.arange(length)[:, None] / base ** (np.arange(0, width, 2) / width)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)[:, :width].astype(np.float32)


def rotary(x_BTHK: jax.Array, positions_BT: jax.Array, *, base: float, scaling: 'Scaling | None' = None) -> jax.Array:
    """Rotates channel i of each head with channel i + K/2 by an angle position * base^(-2i/K); keeps the dtype.

    Args:
      scaling: changes these frequencies.

    Source: Su et al. (2021), arXiv:2104.09864, equation 34; the halves (not neighbours) are paired as in GPT-NeoX and
    Llama.
    """
    half, dtype = x_BTHK.shape[-1] // 2, precision.sums(x_BTHK.dtype)
    numbers_BT1 = positions_BT[..., None]
    frequencies = base ** (-jnp.arange(half, dtype=dtype) / half)
    if scaling is not None:
        frequencies = scaling(frequencies, positions_BT, base=base)
    angles_BT1K = (numbers_BT1 * frequencies)[:, :, None, :]
    cos, sin = jnp.cos(angles_BT1K), jnp.sin(angles_BT1K)
    if scaling is not None and scaling.amplitude != 1:
        cos, sin = cos * scaling.amplitude, sin * scaling.amplitude
    first, second = jnp.split(x_BTHK.astype(dtype), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x_BTHK.dtype)


def relative_bucket(distance: jax.Array, *, buckets: int, max_distance: int, causal: bool) -> jax.Array:
    """Bucket of key position minus query position, int32 in [0, buckets).

    Half the buckets are exact, the others grow logarithmically up to `max_distance`; without `causal` each sign has
    half.
    Source: Raffel et al. (2019), arXiv:1910.10683, section 2.1, and its code.
    """
    past = -distance
    side = jnp.zeros_like(past)
    if not causal:
        buckets //= 2
        side = jnp.where(past < 0, buckets, 0)
        past = jnp.abs(past)
    past = jnp.maximum(past, 0)
    exact = buckets // 2
    ratio = jnp.log(jnp.maximum(past, 1).astype(jnp.float32) / exact) / math.log(max_distance / exact)
    far = jnp.minimum(exact + (ratio * (buckets - exact)).astype(jnp.int32), buckets - 1)
    return side + jnp.where(past < exact, past, far)


class Positions:
    """Interface of the position configs a model owns; its module may add to the embeddings, bias the scores, or
    both."""

    length: int | None = None  # The longest input, where there is one.

    def bidirectional(self) -> 'Positions':
        """The same positions for an encoder, which is bidirectional."""
        return self

    def build(self, name: str | None = None) -> nn.Module:
        """A module with embed(x_BTD, positions_BT) and bias(query_positions_BT, key_positions_BS, dtype)."""
        raise NotImplementedError


class PositionsModule(nn.Module):
    """Adds nothing to embeddings and scores; subclasses override what they do."""

    def embed(self, x_BTD: jax.Array, positions_BT: jax.Array | None) -> jax.Array:
        """The embeddings with their positions; None stands for 0 .. T-1 in every row."""
        return x_BTD

    def bias(self, query_positions_BT: jax.Array, key_positions_BS: jax.Array, dtype: jnp.dtype) -> jax.Array | None:
        """[B, H, T, S] to be added to the scores of every layer of a computation in `dtype`, or None."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sinusoidal(Positions):
    """Fixed sinusoids added to the embeddings."""

    base: config.AboveOne = 10_000.0

    def build(self, name: str | None = None) -> nn.Module:
        return SinusoidalModule(self, name=name)


class SinusoidalModule(PositionsModule):
    """Owns nothing."""

    config: Sinusoidal

    def embed(self, x_BTD: jax.Array, positions_BT: jax.Array | None) -> jax.Array:
        if positions_BT is None:
            positions_BT = jnp.arange(x_BTD.shape[1])[None]
        dtype = precision.sums(x_BTD.dtype)
        added_BTD = sinusoidal(positions_BT, width=x_BTD.shape[-1], base=self.config.base, dtype=dtype)
        return x_BTD + added_BTD.astype(x_BTD.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SinusoidTable(Positions):
    """Fixed sinusoids added to the embeddings, from a table: all sines before all cosines; see sinusoid_table()."""

    length: config.Positive  # type: ignore[assignment]  # Narrower than the interface: never None.
    base: config.AboveOne = 10_000.0

    def build(self, name: str | None = None) -> nn.Module:
        return SinusoidTableModule(self, name=name)


class SinusoidTableModule(PositionsModule):
    """Owns nothing."""

    config: SinusoidTable

    def embed(self, x_BTD: jax.Array, positions_BT: jax.Array | None) -> jax.Array:
        c = self.config
        table = jnp.asarray(sinusoid_table(c.length, width=x_BTD.shape[-1], base=c.base), x_BTD.dtype)
        return _add(x_BTD, table, positions_BT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learned(Positions):
    """A learned vector for each of `length` positions, added to the embeddings."""

    length: config.Positive  # type: ignore[assignment]  # Narrower than the interface: never None.
    init: weights.Initializer = weights.Normal(stddev=0.02)

    def build(self, name: str | None = None) -> nn.Module:
        return LearnedModule(self, name=name)


class LearnedModule(PositionsModule):
    """Owns a table [length, D]."""

    config: Learned

    @nn.compact
    def embed(self, x_BTD: jax.Array, positions_BT: jax.Array | None) -> jax.Array:
        axes = {'length': self.config.length, 'embed': x_BTD.shape[-1]}
        table = weights.weight(self, 'table', axes, init=self.config.init, inputs=('length',), dtype=x_BTD.dtype)
        return _add(x_BTD, table, positions_BT)


def _add(x_BTD: jax.Array, table: jax.Array, positions_BT: jax.Array | None) -> jax.Array:
    """`x_BTD` plus the rows [length, D] of its positions."""
    if positions_BT is None:  # A slice: its gradient is no scatter.
        return x_BTD + table[None, : x_BTD.shape[1]]
    return x_BTD + table[positions_BT]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Relative(Positions):
    """A learned bias for each head and bucket of distance, shared by all layers (T5)."""

    heads: config.Positive
    buckets: config.Positive = 32
    max_distance: config.Positive = 128
    causal: bool = True
    init: weights.Initializer = weights.Normal(stddev=0.02)

    def bidirectional(self) -> Positions:
        return dataclasses.replace(self, causal=False)

    def build(self, name: str | None = None) -> nn.Module:
        return RelativeModule(self, name=name)


class RelativeModule(PositionsModule):
    """Owns a table [buckets, H]."""

    config: Relative

    @nn.compact
    def bias(self, query_positions_BT: jax.Array, key_positions_BS: jax.Array, dtype: jnp.dtype) -> jax.Array | None:
        c = self.config
        distance_BTS = key_positions_BS[:, None, :] - query_positions_BT[:, :, None]
        bucket_BTS = relative_bucket(distance_BTS, buckets=c.buckets, max_distance=c.max_distance, causal=c.causal)
        axes = {'buckets': c.buckets, 'heads': c.heads}
        table = weights.weight(self, 'table', axes, init=c.init, inputs=('buckets',), dtype=precision.sums(dtype))
        return jnp.moveaxis(table[bucket_BTS], -1, 1)


class Scaling:
    """Interface: other frequencies of rotary positions, for rows longer than those of the first training."""

    @property
    def amplitude(self) -> float:
        """What the rotated channels are multiplied by."""
        return 1.0

    @property
    def cache_length(self) -> int | None:
        """How many positions a key-value cache can hold at most; None where there is no bound."""
        return None

    def check(self, channels: int) -> None:
        """Raises InputError if so many rotated channels of a head cannot be scaled."""

    def __call__(self, frequencies: jax.Array, positions_BT: jax.Array, *, base: float) -> jax.Array:
        """The frequencies [K/2] or [B, T, K/2], in radians per position, as they are used.

        Args:
          frequencies: [K/2], base^(-2i/K).
          positions_BT: [B or 1, T] int32, what is rotated.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearScaling(Scaling):
    """All rotations slower by `factor` (Chen et al., 2023, arXiv:2306.15595, equation 4; Gemma 3's global layers)."""

    factor: config.PositiveFloat

    def __call__(self, frequencies: jax.Array, positions_BT: jax.Array, *, base: float) -> jax.Array:
        return frequencies / self.factor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama3Scaling(Scaling):
    """Slower rotations, so that a model reads rows `factor` times longer than the `length` it was trained on first.

    Channels that turn less than `low` times within that length are slowed down by `factor`, those that turn more than
    `high` times are not, and between the two the frequency is interpolated.

    Source: Grattafiori et al. (2024), arXiv:2407.21783, its released code and configurations ('rope_type': 'llama3').
    """

    factor: config.PositiveFloat = 8.0
    low: config.PositiveFloat = 1.0  # low_freq_factor
    high: config.PositiveFloat = 4.0  # high_freq_factor
    length: config.Positive = 8_192  # original_max_position_embeddings

    def __call__(self, frequencies: jax.Array, positions_BT: jax.Array, *, base: float) -> jax.Array:
        """The frequencies [K/2], in radians per position, as they are used.

        Raises:
          InputError: `high` is not above `low`, or `factor` is 0.
        """
        if self.high <= self.low or not self.factor:
            raise config.InputError(
                f'rotary.scaling has factor={self.factor:g}, low={self.low:g}, high={self.high:g}; '
                'the factor must be above 0, and high above low.'
            )
        turns = self.length * frequencies / (2 * math.pi)
        kept = jnp.clip((turns - self.low) / (self.high - self.low), 0.0, 1.0)
        return (1.0 - kept) * frequencies / self.factor + kept * frequencies


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotary:
    """Rotates queries and keys inside attention; owns nothing."""

    base: config.AboveOne = 10_000.0
    scaling: Scaling | None = None

    def check(self, head_width: int) -> None:
        """Raises InputError if heads of this width cannot be rotated."""
        if head_width % 2:
            raise config.InputError(f'Rotary positions need heads of even width, but each has {head_width} channels.')
        self._check_scaling(head_width)

    def _check_scaling(self, channels: int) -> None:
        if self.scaling is not None:
            self.scaling.check(channels)

    def check_cache(self, length: int) -> None:
        """Raises InputError if no key-value cache can hold `length` positions."""
        most = None if self.scaling is None else self.scaling.cache_length
        if most is not None and length > most:
            raise config.InputError(
                f'A key-value cache of {length:,} positions was asked for; with '
                f'{type(self.scaling).__name__} the keys of the first tokens change once a row has more than {most:,}. '
                f'Ask for prompts and answers of at most {most:,} tokens together, with the padding of the prompts.'
            )

    def rotate(self, x_BTHK: jax.Array, positions_BT: jax.Array) -> jax.Array:
        """The heads of queries or keys at these positions, rotated."""
        return rotary(x_BTHK, positions_BT, base=self.base, scaling=self.scaling)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartialRotary(Rotary):
    """Rotates the first int(fraction K) channels of each head, and leaves the others as they are (GPT-NeoX, Phi).

    Source: Black et al. (2022), arXiv:2204.06745, section 2.1.1.
    """

    fraction: config.PositiveFraction

    def check(self, head_width: int) -> None:
        rotated = int(head_width * self.fraction)
        if not rotated or rotated % 2:
            raise config.InputError(
                f'rotary.fraction={self.fraction:g} rotates {rotated} of the {head_width} channels of a head; '
                'use a fraction that gives an even number of them, at least 2.'
            )
        self._check_scaling(rotated)

    def rotate(self, x_BTHK: jax.Array, positions_BT: jax.Array) -> jax.Array:
        first, rest = jnp.split(x_BTHK, [int(x_BTHK.shape[-1] * self.fraction)], axis=-1)
        return jnp.concatenate([super().rotate(first, positions_BT), rest], axis=-1)
