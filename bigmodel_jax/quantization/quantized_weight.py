"""A weight that is stored in few bits."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax.quantization import formats
from bigmodel_jax.quantization.operand import WeightOperand

_DATA, _META = ('values', 'scales', 'input_scale'), ('format', 'packed', 'activations', 'dtype')


@functools.partial(jax.tree_util.register_dataclass, data_fields=_DATA, meta_fields=_META)
@dataclasses.dataclass(frozen=True)
class QuantizedWeight(WeightOperand):
    """values * scales. Of a scanned stack every array has the leading axis of the layers, as the weight had.

    Attributes:
      values: int8 or float8 of the weight's shape; uint8 with half as many columns where two of 4 bits share a byte.
      scales: float32, of the weight's rank; each belongs to as many neighbours as its shape says.
      input_scale: float32 []: that of the activations, where it was calibrated. None: each row gets its own.
      activations: the format in which activations are multiplied by it; None: the weight alone is of few bits.
      dtype: of the activations; None: not yet known.
    """

    values: jax.Array
    scales: jax.Array
    input_scale: jax.Array | None = None
    format: formats.NumberFormat = formats.Int8()
    packed: bool = False
    activations: formats.NumberFormat | None = None
    dtype: Any = None

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]  # Follows from the values.
        """Of the weight."""
        *rest, columns = self.values.shape
        return (*rest, 2 * columns if self.packed else columns)

    @property
    def size_bytes(self) -> int:
        """Of the values and scales."""
        return sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(self))

    def array(self, dtype: Any) -> jax.Array:
        return formats.multiplied(self._values(), self.scales).astype(dtype)

    def astype(self, dtype: Any) -> 'QuantizedWeight':
        return dataclasses.replace(self, dtype=np.dtype(dtype))

    def product(self, subscripts: str, x: jax.Array) -> jax.Array:
        if self.activations is None:
            return _einsum(subscripts, x, self.array(x.dtype))
        values = formats.as_qarray(self._values(), self.scales, x.dtype)
        return formats.product(subscripts, self._activations(subscripts, x, self.activations), values)

    def _values(self) -> jax.Array:
        return unpacked(self.values) if self.packed else self.values

    def _activations(self, subscripts: str, x: jax.Array, to: formats.NumberFormat) -> Any:
        if self.input_scale is not None:
            scales = self.input_scale.reshape((1,) * x.ndim)
            return formats.as_qarray(formats.scaled(x, to, scales), scales, x.dtype)
        return formats.as_qarray(*formats.rounded(x, to, shared=contracted(subscripts)[0]), x.dtype)


_einsum = jnp.einsum  # The subscripts are literal where parallel.einsum.einsum() is called.


def contracted(subscripts: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes of each of the two operands that an einsum sums over: 'BTD,DHK->BTHK' gives (2,) and (0,)."""
    inputs, output = subscripts.split('->')
    left, right = (tuple(i for i, axis in enumerate(of) if axis not in output) for of in inputs.split(','))
    return left, right


def quantize(
    weight: jax.Array,
    to: formats.NumberFormat,
    *,
    inputs: tuple[int, ...],
    group: int | None = None,
    activations: formats.NumberFormat | None = None,
    input_scale: jax.Array | None = None,
) -> QuantizedWeight:
    """A weight in few bits, rounded to the nearest.

    Args:
      inputs: the axes that are contracted with the activations; all other axes have a scale for each channel.
      group: see formats.rounded().
      activations, input_scale: see QuantizedWeight.
    """
    values, scales = formats.rounded(weight, to, shared=inputs, group=group)
    is_packed = to.bits == 4 and values.shape[-1] % 2 == 0
    values = packed(values) if is_packed else values
    return QuantizedWeight(values, scales, input_scale, to, is_packed, activations)


def packed(values: jax.Array) -> jax.Array:
    """Pairs of neighbours, int8 from -8 to 7, in one byte: the first in its lower half."""
    low, high = values[..., 0::2].astype(jnp.uint8), values[..., 1::2].astype(jnp.uint8)
    return (low & 0xF) | (high << 4)


def unpacked(pairs: jax.Array) -> jax.Array:
    """The inverse of packed()."""
    low, high = pairs << 4, pairs & 0xF0
    both = jnp.stack([low, high], axis=-1).astype(jnp.int8) >> 4  # An arithmetic shift keeps the sign.
    return both.reshape(*pairs.shape[:-1], -1)
