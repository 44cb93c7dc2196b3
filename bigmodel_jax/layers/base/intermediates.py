"""Intermediate values of a model, for a caller who requests them.

`module.apply(variables, batch, mutable=[intermediates.RESIDUAL_STREAM])` returns the outputs and a dict of the
collections that are named; residual_streams(), attention_weights() and router_logits() return each in the order of the
layers. Without such a request nothing is computed or kept.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

RESIDUAL_STREAM = 'residual_stream'  # [B, T, D] before the first layer of a stack, and after each layer.
ATTENTION_WEIGHTS = 'attention_weights'  # The weights [B, H, T, S] of each attention, before dropout.
ROUTER_LOGITS = 'router_logits'  # The logits [B, T, E] of each router.
LOSSES = 'losses'  # Auxiliary losses, [] float32, or stacks of them; an objective asks for it and adds them.
COLLECTIONS = (RESIDUAL_STREAM, ATTENTION_WEIGHTS, ROUTER_LOGITS)
TURN = 'turn'  # The layers of an interleaved pattern are called turn0, turn1 ...
TAIL = 'tail'  # Those that remain after the last whole pattern.


def requested(module: nn.Module, collection: str) -> bool:
    """Whether the caller of apply() requests a collection; init(), where all are mutable, requests none."""
    return module.is_mutable_collection(collection) and not module.is_initializing()


def sow(module: nn.Module, collection: str, name: str, value: jax.Array) -> None:
    """Stores a value in a collection, if it is requested."""
    if requested(module, collection):
        module.put_variable(collection, name, value)


def residual_streams(kept: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The residual stream before the first layer and after each, [L + 1, B, T, D], of every stack: {'blocks': ...} of a
    Decoder, {'encoder': ..., 'decoder': ...} of a Seq2Seq. It does not include the norm after the last layer.

    Args:
      kept: the collection RESIDUAL_STREAM.
    """
    found = {}
    for name, stack in kept.items():
        after = _of_all(stack, _reader('after'))
        found[name] = jnp.concatenate([stack['before'][None], after])
    return found


def attention_weights(kept: Mapping[str, Any]) -> dict[str, dict[str, jax.Array]]:
    """The attention weights [L, B, H, T, S] of every stack: {'decoder': {'attention': ..., 'cross': ...}}.

    L counts the layers that have attention.

    Args:
      kept: the collection ATTENTION_WEIGHTS.
    """
    found = {}
    for name, stack in kept.items():
        layers = stack['layers']
        sublayers = next(iter(_turns(layers)), layers)
        found[name] = {each: _of_all(stack, _reader(each, 'weights')) for each in sublayers}
    return found


def router_logits(kept: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The logits [L, B, T, E] of the routers of every stack whose layers all have one.

    Args:
      kept: the collection ROUTER_LOGITS.
    """
    return {name: _of_all(stack, _reader('ffn', 'logits')) for name, stack in kept.items()}


def _reader(*path: str) -> Callable[[Any], jax.Array]:
    """A function: the value that a layer stored at `path`."""
    return lambda layer: functools.reduce(lambda node, name: node[name], path, layer)


def _of_all(stack: Mapping[str, Any], read: Callable[[Any], jax.Array]) -> jax.Array:
    """What all layers of a stack that have it sow, [L, ...]."""
    found = _in_order(stack['layers'], read)
    return jnp.concatenate([found, _in_order(stack[TAIL], read)]) if TAIL in stack else found


def _in_order(layers: Mapping[str, Any], read: Callable[[Any], jax.Array]) -> jax.Array:
    """What all layers that have it sow, [L, ...]; the layers of an interleaved pattern keep theirs apart."""
    turns = _turns(layers)
    if not turns:
        return read(layers)
    stacked = jnp.stack([read(each) for each in turns], axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


def _turns(layers: Mapping[str, Any]) -> list[Any]:
    """What the layers of an interleaved pattern sowed, in their order; one that sowed nothing is absent."""
    numbers = sorted(int(name.removeprefix(TURN)) for name in layers if name.startswith(TURN))
    return [layers[f'{TURN}{number}'] for number in numbers]
