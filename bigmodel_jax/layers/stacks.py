"""A block repeated: scanned by default, so that compile time does not grow with depth; unrolled on request.

Both keep one set of weights with a leading 'layers' axis, and compute the same numbers from it.
"""

import dataclasses
from typing import Literal

import jax
from flax import linen as nn

from bigmodel_jax import config
from bigmodel_jax.layers import attention, blocks

# What the backward pass keeps from the forward pass; the rest is computed again.
POLICIES = {
    'none': None,  # Keep everything.
    'full': jax.checkpoint_policies.nothing_saveable,  # Keep only the input of each layer.
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # Keep the products with weights.
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stack:
    """How the layers are compiled. Changes speed and memory, not the result.

    Rematerialisation (Chen et al., 2016, arXiv:1604.06174): 'none' keeps every intermediate for the backward pass,
    'dots' the products with weights, 'full' only each layer's input.
    """

    scan: bool = True
    remat: Literal['none', 'full', 'dots'] = 'none'

    def build(self, block: blocks.Block, layers: int, name: str | None = None) -> nn.Module:
        return StackModule(self, block=block, layers=layers, name=name)


class StackModule(nn.Module):
    """Owns `layers` copies of a block's weights, stacked along a leading 'layers' axis."""

    config: Stack
    block: blocks.Block
    layers: int

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        context: attention.Context,
        memory: tuple[jax.Array, attention.Context] | None = None,
        cache: attention.Cache | None = None,
    ) -> tuple[jax.Array, attention.Cache | None]:
        """The stream after all layers, and the updated cache, whose arrays have a leading axis L."""
        body: type[nn.Module] = blocks.BlockModule
        if self.config.remat != 'none':
            # Inside a scan nothing can be merged across the checkpoint anyway; unrolled, XLA must be kept from it.
            body = nn.remat(body, policy=POLICIES[self.config.remat], prevent_cse=not self.config.scan)
        scanned = nn.scan(
            body,
            variable_axes={'params': 0},
            split_rngs={'params': True, 'dropout': True},
            in_axes=(nn.broadcast, nn.broadcast, 0),
            length=self.layers,
            unroll=1 if self.config.scan else self.layers,
            metadata_params={nn.PARTITION_NAME: 'layers'},
        )
        return scanned(self.block, name='layers')(x_BTD, context, memory, cache)


def empty_cache(block: blocks.Block, *, layers: int, rows: int, length: int, width: int, dtype: str) -> attention.Cache:
    """A cache for `rows` sequences of up to `length` positions, [L, B, S, G, K] each."""
    heads = block.attention.kv_heads or block.attention.heads
    shape = (layers, rows, length, heads, block.attention.width_of_head(width))
    return attention.Cache(k_BSGK=jax.numpy.zeros(shape, dtype), v_BSGK=jax.numpy.zeros(shape, dtype))


def check(block: blocks.Block, width: int, length: int) -> None:
    """Raises InputError where a block cannot be built for a model of this width or inputs of this length."""
    block.attention.width_of_head(width)
    if block.cross is not None:
        block.cross.width_of_head(width)
    if block.attention.window is not None and block.attention.window > length:
        raise config.InputError(
            f'attention.window={block.attention.window} is longer than the data ({length} tokens); '
            'leave it out, or use longer data.'
        )
