"""Layers of two kinds: 'layer_types' of a config.json, and the tensors of a model whose layers are interleaved."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

from bigmodel_jax import config
from bigmodel_jax.interop import fields, rules
from bigmodel_jax.layers.base import intermediates, layer
from bigmodel_jax.models import decoder

T = TypeVar('T')
SLIDING, FULL = 'sliding_attention', 'full_attention'
STACK = 'blocks.layers.'  # Where the parameters of a stack of one kind are.


def layer_types(given: fields.Fields, default: Sequence[str]) -> list[str]:
    """The kind of each layer: 'layer_types', or `default` where a file does not say.

    Raises:
      InputError: they are not as many as the layers, or another kind is among them.
    """
    value, layers = given.value('layer_types'), given.whole('num_hidden_layers')
    if value is None:
        return list(default)
    if not isinstance(value, list) or len(value) != layers or not all(each in (SLIDING, FULL) for each in value):
        raise config.InputError(
            f'config.json: layer_types={value!r} should be a list of {layers} names, one for each layer; '
            f'{SLIDING!r} and {FULL!r} are implemented.'
        )
    return value


def interleave(model: decoder.Decoder, every: Sequence[layer.Layer]) -> decoder.Decoder:
    """The model with these blocks, one for each layer, as the shortest pattern of which they are repetitions."""
    first, *others = _shortest(every)
    return config.vary(model, {'block': first, 'interleaved': tuple(others)})


def _shortest(every: Sequence[T]) -> Sequence[T]:
    lengths = range(1, len(every) + 1)
    return next(every[:n] for n in lengths if all(each == every[i % n] for i, each in enumerate(every)))


def block_of_layer(model: decoder.Decoder, index: int) -> Any:
    """The block of a layer."""
    return model.pattern[index % len(model.pattern)]


def of_pattern(of_layers: tuple[rules.Rule, ...], model: decoder.Decoder) -> tuple[rules.Rule, ...]:
    """The rules of a stack of one kind, for each layer of the model's pattern and those that remain of it."""
    kinds = len(model.pattern)
    if kinds == 1:
        return of_layers
    found = []
    whole = model.layers - model.layers % kinds
    for turn in range(kinds):
        found += _of(of_layers, f'{STACK}{intermediates.TURN}{turn}.', range(turn, whole, kinds))
    for turn in range(model.layers - whole):
        path = f'{STACK.split(".")[0]}.{intermediates.TAIL}.{intermediates.TURN}{turn}.'
        found += _of(of_layers, path, range(whole + turn, whole + turn + 1))
    return tuple(found)


def _of(of_layers: tuple[rules.Rule, ...], path: str, layers: range) -> list[rules.Rule]:
    return [
        dataclasses.replace(each, paths=tuple(path + name.removeprefix(STACK) for name in each.paths), layers=layers)
        for each in of_layers
    ]
