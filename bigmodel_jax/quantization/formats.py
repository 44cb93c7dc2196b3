"""The number formats of few bits, and rounding to them with one scale for each channel, group or row."""

import dataclasses
from collections.abc import Collection
from typing import Any, ClassVar

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class NumberFormat:
    """Interface of the formats: numbers of so many bits, times a scale in float32."""

    dtype: ClassVar[Any]  # Of the values, as JAX has it.
    bits: ClassVar[int]


@dataclasses.dataclass(frozen=True)
class Int8(NumberFormat):
    """Whole numbers from -127 to 127."""

    dtype = jnp.int8
    bits = 8


@dataclasses.dataclass(frozen=True)
class Int4(NumberFormat):
    """Whole numbers from -7 to 7, two in a byte."""

    dtype = jnp.int4
    bits = 4


@dataclasses.dataclass(frozen=True)
class Float8(NumberFormat):
    """Floating point with 4 bits of exponent and 3 of mantissa, to +-448. Source: Micikevicius et al. (2022),
    arXiv:2209.05433."""

    dtype = jnp.float8_e4m3fn
    bits = 8


@dataclasses.dataclass(frozen=True)
class Float8Wide(NumberFormat):
    """Floating point with 5 bits of exponent and 2 of mantissa, to +-57,344: for gradients. Source: as Float8."""

    dtype = jnp.float8_e5m2
    bits = 8


def rounded(
    x: jax.Array, to: NumberFormat, *, shared: Collection[int], group: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """The values in a format (whole numbers as int8), and their scales: x is about values * scales.

    The largest magnitude that shares a scale becomes the largest number of the format, so that rounding again what was
    rounded changes nothing. (Left alone, qwix.quantize() of whole numbers maps it to half a step above.)

    Args:
      x: [...] of a floating type.
      shared: the axes along which all numbers share a scale; the scales have the size 1 there.
      group: so many neighbours along the last of these axes share one instead of all; it divides the axis, or is larger
        than it (a head): then the axis is a group.
    """
    import qwix  # Only where something is quantized: it takes a second to import.

    last = max(shared)
    tiled = {} if group is None else {last: min(group, x.shape[last])}
    channels = [axis for axis in range(x.ndim) if axis not in shared]
    how = {'channelwise_axes': channels, 'tiled_axes': tiled, 'calibration_method': _calibration(to)}
    found = qwix.quantize(x.astype(jnp.float32), to.dtype, **how)
    values = found.qvalue.astype(jnp.int8) if to.dtype == jnp.int4 else found.qvalue
    return values, found.scale


def _calibration(to: NumberFormat) -> str:
    if not jnp.issubdtype(to.dtype, jnp.integer):
        return 'absmax'
    largest = jnp.iinfo(to.dtype).max
    return f'absmax,{(largest + 0.5) / largest}'


def scaled(x: jax.Array, to: NumberFormat, scales: jax.Array) -> jax.Array:
    """The values in a format of `x` for scales that are known; what is too large becomes the largest number."""
    values = x.astype(jnp.float32) / scales
    if jnp.issubdtype(to.dtype, jnp.integer):
        limit = float(jnp.iinfo(to.dtype).max)
        return jnp.clip(jnp.round(values), -limit - 1, limit).astype(jnp.int8)
    limit = float(jnp.finfo(to.dtype).max)
    return jnp.clip(values, -limit, limit).astype(to.dtype)


def multiplied(values: jax.Array, scales: jax.Array) -> jax.Array:
    """values * scales in float32, where each scale belongs to one number, to a group, or to a whole axis."""
    import qwix

    return qwix.dequantize(qwix.QArray(values, scales))


def product(subscripts: str, left: Any, right: Any) -> jax.Array:
    """The einsum of two arrays of as_qarray(): of their values in few bits, then times the scales."""
    import qwix

    multiply = qwix.einsum  # The subscripts are literal, and checked, where parallel.einsum.einsum() is called.
    return multiply(subscripts, left, right)


def as_qarray(values: jax.Array, scales: jax.Array, dtype: Any) -> Any:
    """What qwix.einsum() takes; its product has the type `dtype`."""
    import qwix

    return qwix.QArray(values, scales.astype(dtype))
