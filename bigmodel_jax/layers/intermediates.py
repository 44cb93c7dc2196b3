"""What a model shows of its inside to a caller who asks for it.

`module.apply(variables, batch, mutable=[intermediates.STREAMS])` returns the outputs and a dict of the collections that
are named; streams(), maps() and routers() put each in the order of the layers. Nothing is computed or kept
for a caller who does not ask.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

STREAMS = 'streams'  # The stream [B, T, D] where it enters a stack, and after each layer.
MAPS = 'maps'  # The weights [B, H, T, S] of each attention, before dropout.
ROUTERS = 'routers'  # The logits [B, T, E] of each router.
COLLECTIONS = (STREAMS, MAPS, ROUTERS)
TURN = 'turn'  # The layers of an interleaved pattern are called turn0, turn1 ...


def asked(module: nn.Module, collection: str) -> bool:
    """Whether the caller of apply() wants a collection; init() does not, to which every collection is mutable."""
    return module.is_mutable_collection(collection) and not module.is_initializing()


def show(module: nn.Module, collection: str, name: str, value: jax.Array) -> None:
    """Puts a value into a collection, if it is asked for."""
    if asked(module, collection):
        module.put_variable(collection, name, value)


def streams(kept: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The stream before the first layer and after each, [L + 1, B, T, D], of every stack: {'blocks': ...} of a Decoder,
    {'encoder': ..., 'decoder': ...} of a Seq2Seq. The norm after the last layer is not in it.

    Args:
      kept: the collection STREAMS.
    """
    found = {}
    for name, stack in kept.items():
        after = _in_order(stack['layers'], _reader('after'))
        found[name] = jnp.concatenate([stack['before'][None], after])
    return found


def maps(kept: Mapping[str, Any]) -> dict[str, dict[str, jax.Array]]:
    """The attention weights [L, B, H, T, S] of every stack: {'decoder': {'attention': ..., 'cross': ...}}.

    Args:
      kept: the collection MAPS.
    """
    found = {}
    for name, stack in kept.items():
        layers = stack['layers']
        sublayers = layers.get(f'{TURN}0', layers)
        found[name] = {each: _in_order(layers, _reader(each, 'weights')) for each in sublayers}
    return found


def routers(kept: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The logits [L, B, T, E] of the routers of every stack whose layers all have one.

    Args:
      kept: the collection ROUTERS.
    """
    return {name: _in_order(stack['layers'], _reader('ffn', 'logits')) for name, stack in kept.items()}


def _reader(*path: str) -> Callable[[Any], jax.Array]:
    """A function: what a layer shows at `path`."""
    return lambda layer: functools.reduce(lambda node, name: node[name], path, layer)


def _in_order(layers: Mapping[str, Any], read: Callable[[Any], jax.Array]) -> jax.Array:
    """What all layers sow, [L, ...]; the layers of an interleaved pattern keep theirs apart."""
    if f'{TURN}0' not in layers:
        return read(layers)
    turns = jnp.stack([read(layers[f'turn{place}']) for place in range(len(layers))], axis=1)
    return turns.reshape(-1, *turns.shape[2:])
