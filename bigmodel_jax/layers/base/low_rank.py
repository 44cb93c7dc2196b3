"""A weight and the product of two thin matrices that is added to it: W + scale A B."""

import dataclasses
import functools
import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.layers.base import dropout
from bigmodel_jax.parallel import einsum
from bigmodel_jax.quantization.operand import WeightOperand

# Axes along which a parameter is a stack of matrices, each of which has factors of its own.
STACKED = ('layers', 'experts')
RANK = 'adapter_rank'  # The logical axis of the rank. No rule splits it.
# The subscripts are literal, and checked, where parallel.einsum.einsum() is called.
_product, _einsum = jnp.einsum, einsum.einsum


class Factorization(NamedTuple):
    """The axes of a weight, by what they are for: [*stacked, *inputs, rank] times [*stacked, rank, *outputs]."""

    stacked: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @classmethod
    def of(cls, names: Sequence[str | None], inputs: Sequence[int]) -> 'Factorization':
        """Of a weight with these logical axes, of which those numbered `inputs` are contracted with activations."""
        stacked = tuple(i for i, name in enumerate(names) if name in STACKED and i not in inputs)
        outputs = tuple(i for i in range(len(names)) if i not in (*stacked, *inputs))
        return cls(stacked, tuple(inputs), outputs)

    def shapes(self, shape: Sequence[int], rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of the two factors of a weight of this shape."""
        stacked, inputs, outputs = ([shape[i] for i in axes] for axes in self)
        return (*stacked, *inputs, rank), (*stacked, rank, *outputs)

    def axes(self, names: Sequence[str | None]) -> tuple[tuple[str | None, ...], tuple[str | None, ...]]:
        """The logical axes of the two factors."""
        stacked, inputs, outputs = ([names[i] for i in axes] for axes in self)
        return (*stacked, *inputs, RANK), (*stacked, RANK, *outputs)

    def multiplied(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The product of the two factors, with its axes in the order of the weight's."""
        stacked, inputs, outputs = (''.join(string.ascii_lowercase[i] for i in axes) for axes in self)
        weight = ''.join(sorted(stacked + inputs + outputs))
        return _product(f'{stacked}{inputs}Z,{stacked}Z{outputs}->{weight}', a, b)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=('weight', 'node', 'key'),
    meta_fields=('factorization',),
)
@dataclasses.dataclass(frozen=True)
class AdaptedWeight(WeightOperand):
    """A weight with its low-rank adapter, where a layer multiplies by it: x W + scale (drop(x) A) B.

    Source: Hu et al. (2021), arXiv:2106.09685, equation 3; the dropout is that of their code.

    Attributes:
      weight: an array, or an operand of few bits.
      node: the adapter: a [*inputs, rank], b [rank, *outputs], scale [], and where there is dropout its rate [].
      factorization: of the weight.
      key: of the dropout; None: there is none, as in evaluation.
    """

    weight: Any
    node: Mapping[str, jax.Array]
    factorization: Factorization
    key: jax.Array | None = None

    def array(self, dtype: Any) -> jax.Array:
        if self.key is not None:
            raise config.InputError(
                f'adapter.dropout drops inputs of products, but a weight of shape {list(np.shape(self.weight))} among '
                'the targets is not multiplied by activations in that way (it is looked up, or is that of an expert, a '
                'convolution or the output). Use adapter.dropout=0.0, or leave it out with adapter.without.'
            )
        weight = self.weight.array(dtype) if isinstance(self.weight, WeightOperand) else self.weight.astype(dtype)
        return merged(weight, self.node, self.factorization)

    def astype(self, dtype: Any) -> 'AdaptedWeight':
        return dataclasses.replace(self, weight=self.weight.astype(dtype))

    def product(self, subscripts: str, x: jax.Array) -> jax.Array:
        of_x, of_weight = subscripts.partition('->')[0].split(',')
        if len(set(of_x) & set(of_weight)) != len(self.factorization.inputs):
            # Matrices side by side, such as one for each head.
            return _einsum(subscripts, x, self.array(x.dtype))
        return _einsum(subscripts, x, self.weight) + self.added(subscripts, x)

    def added(self, subscripts: str, x: jax.Array) -> jax.Array:
        """What the adapter adds to the product of activations with the weight."""
        of_x, of_weight, output = subscripts.replace('->', ',').split(',')
        shared = [axis for axis in of_weight if axis in of_x]
        # The rank is 'z', which is no axis of ours.
        of_a, of_b = ''.join((*shared, 'z')), ''.join(('z', *(axis for axis in of_weight if axis not in of_x)))
        inner = ''.join((*(axis for axis in of_x if axis not in shared), 'z'))
        a, b, scale = (self.node[name].astype(x.dtype) for name in ('a', 'b', 'scale'))
        if self.key is not None:
            x = dropout.dropout(x, self.key, rate=self.node['rate']).astype(x.dtype)
        narrow = _einsum(f'{of_x},{of_a}->{inner}', x, a)
        return _einsum(f'{inner},{of_b}->{output}', narrow, b) * scale


def merged(weight: jax.Array, node: Mapping[str, jax.Array], factorization: Factorization) -> jax.Array:
    """W + scale A B, in the dtype of the weight.

    Args:
      node: the adapter: a, b and the scale, [] or one for each matrix of a stack.
    """
    scale = node['scale']
    added = factorization.multiplied(node['a'].astype(weight.dtype), node['b'].astype(weight.dtype))
    of_stack = scale.astype(weight.dtype).reshape(scale.shape + (1,) * (weight.ndim - scale.ndim))
    return weight + of_stack * added
