"""Rotary positions of a config.json: 'rope_parameters' (transformers 5), or 'rope_theta' and 'rope_scaling' before."""

import math
from collections.abc import Mapping
from typing import Any

from bigmodel_jax import config
from bigmodel_jax.interop import fields
from bigmodel_jax.layers import positions
from bigmodel_jax.layers.variants import long_rotaries

Kinds = Mapping[str, fields.Table]  # A kind of scaling -> the fields that it has.
PARTIAL = 'partial_rotary_factor'

DEFAULT: fields.Table = {
    'rope_type': fields.Used(None),
    'type': fields.Used(None),  # Its old name.
    'rope_theta': fields.Used(None),
    PARTIAL: fields.Only(1.0),
}
ORIGINAL = 'original_max_position_embeddings'
LINEAR: fields.Table = {**DEFAULT, 'factor': fields.Used(None)}
LLAMA3: fields.Table = {
    **LINEAR,
    'low_freq_factor': fields.Used(None),
    'high_freq_factor': fields.Used(None),
    ORIGINAL: fields.Used(None),
}
YARN: fields.Table = {
    **LINEAR,
    ORIGINAL: fields.Used(None),
    'attention_factor': fields.Used(None),
    'beta_fast': fields.Used(None),
    'beta_slow': fields.Used(None),
    'mscale': fields.Used(None),
    'mscale_all_dim': fields.Used(None),
    'truncate': fields.Used(True),
}
LONGROPE: fields.Table = {
    **LINEAR,
    ORIGINAL: fields.Used(None),
    'attention_factor': fields.Used(None),
    'short_factor': fields.Used(None),
    'long_factor': fields.Used(None),
}
SIMPLE: Kinds = {'default': DEFAULT, 'llama3': LLAMA3, 'linear': LINEAR}
KINDS: Kinds = {**SIMPLE, 'yarn': YARN, 'longrope': LONGROPE}
# Of a model that rotates a part of each head; 'su' is the first name of 'longrope'.
PARTLY: Kinds = {
    name: {**table, PARTIAL: fields.Used(None)}
    for name, table in {'default': DEFAULT, 'longrope': LONGROPE, 'su': LONGROPE}.items()
}


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
    """The fields of an object, as its kind has them.

    Raises:
      InputError: the family has no such kind.
    """
    kind = value.get('rope_type', value.get('type')) if isinstance(value, Mapping) else None
    if not isinstance(kind, str):
        return kinds['default']
    if kind not in kinds:
        raise config.InputError(f'config.json: rope_type={kind!r} is not implemented; there is {", ".join(kinds)}.')
    return kinds[kind]


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
    if kind == 'yarn':
        return _yarn(outer, inner)
    if kind in ('longrope', 'su'):
        return _longrope(outer, inner)
    return positions.LinearScaling(factor=inner.number('factor', above=0.0)) if kind == 'linear' else None


def _llama3(outer: fields.Fields, inner: fields.Fields) -> positions.Llama3Scaling:
    low, high = inner.number('low_freq_factor', above=0.0), inner.number('high_freq_factor', above=0.0)
    if high <= low:
        raise config.InputError(f'config.json: high_freq_factor={high:g} should be more than low_freq_factor={low:g}.')
    factor = inner.number('factor', above=0.0)
    return positions.Llama3Scaling(factor=factor, low=low, high=high, length=_original_length(outer, inner))


def _yarn(outer: fields.Fields, inner: fields.Fields) -> long_rotaries.Yarn:
    length = _original_length(outer, inner)
    if not inner.has('factor'):
        raise config.InputError("config.json: rope_type='yarn' needs a factor: how much longer the rows have become.")
    factor = _factor(outer, inner, length)
    # The reference takes 0 for missing.
    fast, slow = (inner.number(name) if inner.value(name) else None for name in ('beta_fast', 'beta_slow'))
    found = long_rotaries.Yarn(
        factor=factor, length=length, fast=fast or 32.0, slow=slow or 1.0, truncate=inner.flag('truncate')
    )
    if found.fast <= found.slow:
        raise config.InputError(f'config.json: beta_fast={found.fast:g} should be more than beta_slow={found.slow:g}.')
    given = _optional(inner, 'attention_factor')
    slopes = [inner.number(name) if inner.value(name) else 0.0 for name in ('mscale', 'mscale_all_dim')]
    if given is None and all(slopes):
        given = long_rotaries.temperature(factor, slopes[0]) / long_rotaries.temperature(factor, slopes[1])
    return config.vary(found, {'attention_factor': given})


def _longrope(outer: fields.Fields, inner: fields.Fields) -> long_rotaries.LongRope:
    length = _original_length(outer, inner)
    factor, given = _factor(outer, inner, length), _optional(inner, 'attention_factor')
    if given is None:
        if factor > 1 and length < 2:
            raise config.InputError(f'config.json: {ORIGINAL}={length} should be at least 2.')
        given = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(length))
    divisors = {name: _numbers(inner, f'{name}_factor') for name in ('short', 'long')}
    return long_rotaries.LongRope(length=length, attention_factor=given, **divisors)


def _original_length(outer: fields.Fields, inner: fields.Fields) -> int:
    """The length of the rows of the first training."""
    given = {each: source.value(ORIGINAL) for each, source in ((ORIGINAL, outer), (f'{ORIGINAL} inside', inner))}
    given = {each: value for each, value in given.items() if value is not None}
    outer.agree(given or {ORIGINAL: None})
    source = inner if inner.value(ORIGINAL) is not None else outer
    return source.whole(ORIGINAL if given else 'max_position_embeddings')


def _factor(outer: fields.Fields, inner: fields.Fields, length: int) -> float:
    """How much longer the rows have become."""
    given = _optional(inner, 'factor')
    return outer.whole('max_position_embeddings') / length if given is None else given


def _optional(inner: fields.Fields, name: str) -> float | None:
    """A number above 0; None where it is missing or null."""
    return None if inner.value(name) is None else inner.number(name, above=0.0)


def _numbers(inner: fields.Fields, name: str) -> tuple[float, ...]:
    """A list of numbers above 0."""
    value = inner.value(name)
    is_list = isinstance(value, list) and bool(value)
    if not is_list or not all(isinstance(each, (int, float)) and 0 < each < math.inf for each in value):
        raise config.InputError(f'config.json: {name}={value!r} should be a list of numbers above 0.')
    return tuple(map(float, value))


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
    if isinstance(scaling, positions.Llama3Scaling):
        return {
            'rope_type': 'llama3',
            'factor': scaling.factor,
            'low_freq_factor': scaling.low,
            'high_freq_factor': scaling.high,
            ORIGINAL: scaling.length,
        }
    if isinstance(scaling, long_rotaries.Yarn):
        return {
            'rope_type': 'yarn',
            'factor': scaling.factor,
            'beta_fast': scaling.fast,
            'beta_slow': scaling.slow,
            'truncate': scaling.truncate,
            ORIGINAL: scaling.length,
        } | ({} if scaling.attention_factor is None else {'attention_factor': scaling.attention_factor})
    if not isinstance(scaling, long_rotaries.LongRope):
        raise config.InputError(f'A config.json has no name for the scaling {config.format_value(scaling)}.')
    return {
        'rope_type': 'longrope',
        'short_factor': list(scaling.short),
        'long_factor': list(scaling.long),
        'attention_factor': scaling.attention_factor,
        ORIGINAL: scaling.length,
    }
