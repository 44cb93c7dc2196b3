"""Rotary positions of a config.json: 'rope_parameters' (transformers 5), or 'rope_theta' and 'rope_scaling' before."""

from collections.abc import Mapping
from typing import Any

from bigmodel_jax import config
from bigmodel_jax.interop import fields
from bigmodel_jax.layers import positions

Kinds = Mapping[str, fields.Table]  # A kind of scaling -> the fields that it has.
PARTIAL = 'partial_rotary_factor'

DEFAULT: fields.Table = {
    'rope_type': fields.Used(None),
    'type': fields.Used(None),  # Its old name.
    'rope_theta': fields.Used(None),
    PARTIAL: fields.Only(1.0),
}
LLAMA3: fields.Table = {
    **DEFAULT,
    'factor': fields.Used(None),
    'low_freq_factor': fields.Used(None),
    'high_freq_factor': fields.Used(None),
    'original_max_position_embeddings': fields.Used(None),
}
LINEAR: fields.Table = {**DEFAULT, 'factor': fields.Used(None)}
KINDS: Kinds = {'default': DEFAULT, 'llama3': LLAMA3, 'linear': LINEAR}
# Of a model that rotates a part of each head.
PARTLY: Kinds = {'default': {**DEFAULT, PARTIAL: fields.Used(None)}}


def rotary(outer: fields.Fields, kinds: Kinds) -> positions.Rotary:
    """The rotary positions that a config.json asks for."""
    given = {name: outer.value(name) for name in ('rope_parameters', 'rope_scaling')}
    given = {name: value for name, value in given.items() if value not in (None, {})}
    outer.agree(given or {'rope_parameters': None})
    name = next(iter(given), 'rope_parameters')
    return of_object(outer, outer.within(name, table_of(given.get(name), kinds)), kinds, name=name)


def of_object(
    outer: fields.Fields, inner: fields.Fields, kinds: Kinds, *, name: str, theta: str = 'rope_theta'
) -> positions.Rotary:
    """The rotary positions of one object of a config.json.

    Args:
      outer: the whole config.json, which may have the base under the name `theta`.
      inner: the object, read with the table of its kind.
      name: what the object is called, for messages.
    """
    named = [inner.value(each) for each in ('rope_type', 'type') if inner.has(each)]
    for each in ('rope_type', 'type'):
        if inner.has(each):
            inner.choice(each, kinds)
    if len(named) == 2:
        inner.agree({'rope_type': named[0], 'type': named[1]})
    base = _number(outer, inner, theta, 'rope_theta', name=name)
    scaling = _scaling(outer, inner, kind=named[0] if named else 'default')
    partial = kinds['default'][PARTIAL]
    if isinstance(partial, fields.Only):
        return positions.Rotary(base=base, scaling=scaling)
    fraction = _number(outer, inner, PARTIAL, PARTIAL, name=name)
    if fraction == 1:
        return positions.Rotary(base=base, scaling=scaling)
    return positions.PartialRotary(base=base, scaling=scaling, fraction=fraction)


def table_of(value: Any, kinds: Kinds) -> fields.Table:
    """The fields of an object, as its kind has them."""
    kind = value.get('rope_type', value.get('type')) if isinstance(value, Mapping) else None
    return kinds.get(kind, kinds['default']) if isinstance(kind, str) else kinds['default']


def _number(outer: fields.Fields, inner: fields.Fields, its: str, name_inside: str, *, name: str) -> float:
    """A number that is inside the object, or else in the config.json.

    Raises:
      InputError: it is in both, and they differ; or it is none.
    """
    if not inner.has(name_inside):
        return outer.number(its, above=0.0)
    if outer.has(its):
        outer.agree({its: outer.value(its), f'{name_inside} in {name}': inner.value(name_inside)})
    return inner.number(name_inside, above=0.0)


def _scaling(outer: fields.Fields, inner: fields.Fields, *, kind: Any) -> positions.Scaling | None:
    if kind == 'llama3':
        return _llama3(outer, inner)
    return positions.LinearScaling(factor=inner.number('factor', above=0.0)) if kind == 'linear' else None


def _llama3(outer: fields.Fields, inner: fields.Fields) -> positions.Llama3Scaling:
    length = 'original_max_position_embeddings'
    given = {each: source.value(length) for each, source in ((length, outer), (f'{length} inside', inner))}
    given = {each: value for each, value in given.items() if value is not None}
    outer.agree(given or {length: None})
    source, name = (
        (inner if inner.value(length) is not None else outer),
        length if given else 'max_position_embeddings',
    )
    low, high = inner.number('low_freq_factor', above=0.0), inner.number('high_freq_factor', above=0.0)
    if high <= low:
        raise config.InputError(f'config.json: high_freq_factor={high:g} should be more than low_freq_factor={low:g}.')
    factor = inner.number('factor', above=0.0)
    return positions.Llama3Scaling(factor=factor, low=low, high=high, length=source.whole(name))


# ---- the way back -------------------------------------------------------------------------------------------------


def values(turned: positions.Rotary) -> dict[str, Any]:
    """The fields of a config.json under their old names, which every version reads."""
    found: dict[str, Any] = {'rope_theta': turned.base}
    if turned.scaling is not None:
        found['rope_scaling'] = scaling_values(turned.scaling)
    if isinstance(turned, positions.PartialRotary):
        found[PARTIAL] = turned.fraction
    return found


def scaling_values(scaling: positions.Scaling) -> dict[str, Any]:
    """The 'rope_scaling' of a config.json.

    Raises:
      InputError: it has no name for the scaling.
    """
    if isinstance(scaling, positions.LinearScaling):
        return {'rope_type': 'linear', 'factor': scaling.factor}
    if not isinstance(scaling, positions.Llama3Scaling):
        raise config.InputError(f'A config.json has no name for the scaling {config.format_value(scaling)}.')
    return {
        'rope_type': 'llama3',
        'factor': scaling.factor,
        'low_freq_factor': scaling.low,
        'high_freq_factor': scaling.high,
        'original_max_position_embeddings': scaling.length,
    }
