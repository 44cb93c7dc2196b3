"""A block repeated: scanned by default, so that compile time does not grow with depth; unrolled on request.

Both keep one set of weights with a leading 'layers' axis, and compute the same numbers from it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
from flax import linen as nn

from bigmodel_jax import config
from bigmodel_jax.layers import attention, blocks, intermediates
from bigmodel_jax.parallel import pipeline, sharding

# What layers name for the backward pass, per token: the stream [D] where it enters the layer and between its sublayers
# ('middle'); query, key and value after rotation [H K, G K, G K]; what the attention kernel returns [H K]; the products
# that enter the activation of the feed-forward layer [F each; without a gate there is 'up' alone].
Name = Literal['stream', 'middle', 'query', 'key', 'value', 'attention', 'gate', 'up']
Policy = Callable[..., Any]

_named = jax.checkpoint_policies.save_only_these_names
# What the backward pass keeps from the forward pass beside the input of each layer; the rest is computed again.
POLICIES: dict[str, Policy | None] = {
    'full': jax.checkpoint_policies.nothing_saveable,
    'attention': _named('attention'),
    'heads': _named('attention', 'query', 'key', 'value'),
    'projections': _named('attention', 'query', 'key', 'value', 'middle', 'gate', 'up'),
    'none': None,
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'offload': jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=['stream'],
        offload_src='device',
        offload_dst='pinned_host',
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stack:
    """How the layers are compiled. Changes speed and memory, not the result.

    Rematerialisation (Chen et al., 2016, arXiv:1604.06174), from the least memory to the fewest FLOPs; kept numbers are
    per token and layer (letters as in the legend of the package):

      remat          kept                      computed again
      'offload'      nothing; D on the host    as 'full'; the stream waits in the memory of the host
      'full'         D                         the whole forward pass: a third more FLOPs
      'attention'    D + H K                   every product with weights, but no scores: for long rows
      'heads'        D + 2 (H + G) K           the output of attention, and the feed-forward layer
      'projections'  2 D + 2 (H + G) K + 2 F   norms and activations: no product at all
      'none'         every intermediate        nothing

    'dots' keeps the products with weights, whatever the layers are: for layers that name nothing. A tuple of names
    keeps just those.
    """

    scan: bool = True
    remat: Literal['none', 'full', 'attention', 'heads', 'projections', 'dots', 'offload'] | tuple[Name, ...] = 'none'

    def build(
        self, block: blocks.Block, layers: int, name: str | None = None, *, alternates: tuple[blocks.Block, ...] = ()
    ) -> nn.Module:
        """Layer i is the (i mod n)-th of the n blocks `block, *alternates`."""
        return StackModule(self, block=block, layers=layers, alternates=alternates, name=name)

    @property
    def policy(self) -> Policy | None:
        """What jax.checkpoint may keep; None to keep everything."""
        return POLICIES[self.remat] if isinstance(self.remat, str) else _named(*self.remat)

    @property
    def layer(self) -> type[nn.Module]:
        """What makes a layer out of a block: BlockModule, under the policy."""
        if self.policy is None:
            return blocks.BlockModule
        # Inside a scan nothing can be merged across the checkpoint anyway; unrolled, XLA must be kept from it.
        return nn.remat(blocks.BlockModule, policy=self.policy, prevent_cse=not self.scan)


class GroupModule(nn.Module):
    """One layer of each of several kinds, which take turns: what is repeated where layers alternate."""

    config: Stack
    kinds: tuple[blocks.Block, ...]

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        context: attention.Context,
        memory: tuple[jax.Array, attention.Context] | None = None,
        cache: attention.Cache | None = None,
    ) -> tuple[jax.Array, attention.Cache | None]:
        """As of BlockModule; the arrays of the cache have a leading axis, the layers of the group."""
        caches = []
        for place, kind in enumerate(self.kinds):
            own = None if cache is None else attention.Cache(*(leaf[place] for leaf in cache))
            x_BTD, own = self.config.layer(kind, name=f'turn{place}')(x_BTD, context, memory, own)
            caches.append(own)
        return x_BTD, None if cache is None else jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *caches)


class StackModule(nn.Module):
    """Owns `layers` copies of a block's weights, stacked along a leading 'layers' axis.

    Where n kinds of layers take turns, each kind has its own: 'turn0', 'turn1' ..., layers / n copies each.
    """

    config: Stack
    block: blocks.Block
    layers: int
    alternates: tuple[blocks.Block, ...] = ()

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        context: attention.Context,
        memory: tuple[jax.Array, attention.Context] | None = None,
        cache: attention.Cache | None = None,
    ) -> tuple[jax.Array, attention.Cache | None]:
        """The stream after all layers, and the updated cache, whose arrays have a leading axis L.

        Where the mesh cuts the layers into stages, the batch flows through them as in
        parallel/pipeline.py. Decoding with
        a cache does not: a step of one token has nothing to fill a pipeline with.
        """
        intermediates.show(self, intermediates.STREAMS, 'before', x_BTD)
        place = sharding.current()
        if place is not None and place.shards('layers') > 1 and cache is None and not self.is_initializing():
            return self._flow(place, x_BTD, context, memory), None
        kinds = (self.block, *self.alternates)
        repeats = self.layers // len(kinds)
        body = GroupModule if self.alternates else self.config.layer
        scanned = nn.scan(
            body,
            variable_axes={'params': 0, 'losses': 0, **dict.fromkeys(intermediates.COLLECTIONS, 0)},
            split_rngs={'params': True, 'dropout': True},
            in_axes=(nn.broadcast, nn.broadcast, 0),
            length=repeats,
            unroll=1 if self.config.scan else repeats,
            metadata_params={nn.PARTITION_NAME: 'layers'},
        )
        if not self.alternates:
            return scanned(self.block, name='layers')(x_BTD, context, memory, cache)
        if cache is not None:
            cache = jax.tree.map(lambda leaf: leaf.reshape(repeats, len(kinds), *leaf.shape[1:]), cache)
        x_BTD, cache = scanned(self.config, kinds, name='layers')(x_BTD, context, memory, cache)
        return x_BTD, jax.tree.map(lambda leaf: leaf.reshape(self.layers, *leaf.shape[2:]), cache)

    def _flow(
        self,
        place: sharding.Place,
        x_BTD: jax.Array,
        context: attention.Context,
        memory: tuple[jax.Array, attention.Context] | None,
    ) -> jax.Array:
        """The stream after all layers, each stage of them on its own devices."""
        if any(intermediates.asked(self, collection) for collection in intermediates.COLLECTIONS):
            raise config.InputError(
                f'{", ".join(intermediates.COLLECTIONS)} are not shown where the mesh cuts the layers into stages; '
                'use mesh.pipeline=1.'
            )
        kinds, policy = (self.block, *self.alternates), self.config.policy
        block = (
            GroupModule(self.config, kinds, parent=None)
            if self.alternates
            else blocks.BlockModule(self.block, parent=None)
        )
        kept = ['losses'] if self.is_mutable_collection('losses') else []

        def layer(weights: Any, x_BTD: jax.Array, beside: Any, key: jax.Array | None) -> tuple[jax.Array, Any]:
            rngs = {} if key is None else {'dropout': key}
            (x_BTD, _), sown = block.apply({'params': weights}, x_BTD, *beside, rngs=rngs, mutable=kept)
            return x_BTD, sown.get('losses', {})

        if policy is not None and not self.alternates:  # A group does so for each of its layers.
            layer = jax.checkpoint(layer, policy=policy, prevent_cse=False)
        weights = self.variables['params']['layers']
        key = self.make_rng('dropout') if self.has_rng('dropout') else None
        x_BTD, sown = pipeline.run(layer, weights, x_BTD, (context, memory), place=place, key=key)
        if sown:
            # Where, and in the form in which, the scan above leaves them.
            self.put_variable('losses', 'layers', sown)
        return x_BTD


def empty_cache(block: blocks.Block, *, layers: int, rows: int, length: int, width: int, dtype: str) -> attention.Cache:
    """A cache for `rows` sequences of up to `length` positions, [L, B, S, G, K] each."""
    shape = (layers, rows, length, *_cached(block, width))
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


def check_turns(kinds: tuple[blocks.Block, ...], layers: int, width: int, length: int) -> None:
    """Raises InputError where `layers` layers of a model of this width cannot be of these kinds in turn."""
    if layers % len(kinds):
        raise config.InputError(
            f'layers={layers} does not divide into groups of {len(kinds)} layers, the block and its alternates; '
            f'use a multiple of {len(kinds)}.'
        )
    for kind in kinds:
        check(kind, width, length)
    # One cache serves all layers.
    shapes = {_cached(kind, width) for kind in kinds}
    if len(shapes) > 1:
        shown = ' and '.join(f'{heads} heads of {channels}' for heads, channels in sorted(shapes))
        raise config.InputError(f'Layers that take turns need keys of one shape, but there are {shown}.')


def _cached(block: blocks.Block, width: int) -> tuple[int, int]:
    """Key heads of a layer, and the channels of each."""
    return block.attention.kv_heads or block.attention.heads, block.attention.width_of_head(width)
