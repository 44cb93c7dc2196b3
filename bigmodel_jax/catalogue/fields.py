"""The fields of stored experiments by path, without their classes: flattened, put together again, and printed briefly.

`model.block.ffn.hidden` is a field with a value; `model.block.ffn` is the part that holds it, printed as
'Gated(hidden=256)'; `model.block.ffn.class` is the name of its class.
"""

import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bigmodel_jax import config, migrations, settings

CLASS = config.CLASS_KEY
MOST_FIELDS = 20_000  # Of an experiment; those of published models have some hundreds.
UNCOMPARED = ('claims', 'requires', 'class')  # What is said or required of a run makes no run another.
MISSING = object()

Fields = Mapping[str, Any]  # Path -> number, text, bool or None; and [] or {} for what is empty.


def flatten(stored: Any) -> dict[str, Any]:
    """Path -> value of every field of an experiment as JSON, named as this version names it.

    Raises:
      ValueError: there are more than MOST_FIELDS.
    """
    found: dict[str, Any] = {}
    for path, value in _leaves(stored, ''):
        found[path] = value
        if len(found) > MOST_FIELDS:
            raise ValueError(f'the experiment has more than {MOST_FIELDS:,} fields')
    return found


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for name, value in migrations.migrate(node).items():
            yield from _leaves(value, config.join(path, name))
    elif isinstance(node, list) and node:
        for number, value in enumerate(node):
            yield from _leaves(value, config.join(path, number))
    else:
        yield path, node


def part(fields: Fields, path: str) -> Any:
    """What is at a path as JSON: a value, or a part put together from its fields; MISSING if nothing is there."""
    if path in fields:
        return fields[path]
    prefix = f'{path}.'
    tree: dict[str, Any] = {}
    for name, value in fields.items():
        if name.startswith(prefix):
            *above, last = name.removeprefix(prefix).split('.')
            node = tree
            for step in above:
                inner = node.setdefault(step, {})
                node = inner if isinstance(inner, dict) else {}
            node[last] = value
    return _with_lists(tree) if tree else MISSING


def _with_lists(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    inner = {name: _with_lists(value) for name, value in node.items()}
    return list(inner.values()) if inner and list(inner) == [str(i) for i in range(len(inner))] else inner


def brief(value: Any, name: str = '') -> str:
    """A part as it is written in an experiment file: 'Gated(hidden=256, activation=Silu())'.

    Args:
      name: of the field; the value of one that is named like a secret is not shown.
    """
    if isinstance(value, dict):
        shown = [f'{key}={brief(item, key)}' for key, item in value.items() if key != CLASS]
        return f'{class_name(value.get(CLASS, ""))}({", ".join(shown)})'
    if isinstance(value, list):
        return f'({", ".join(brief(item, name) for item in value)}{"," if len(value) == 1 else ""})'
    return settings.hidden(name, repr(value))


def class_name(stored: object) -> str:
    """'bigmodel_jax.layers.ffn:Gated' -> 'Gated'."""
    return str(stored).rpartition(':')[2]


def briefly(parts: Sequence[Any], limit: int) -> list[str]:
    """Each of several parts, printed; where that is longer than `limit`, with '...' for what all of its class share.

    Args:
      parts: as JSON.
      limit: characters.
    """
    found = []
    for each in parts:
        text = brief(each)
        found.append(text if len(text) <= limit else _distinct(each, parts) or text)
    return found


def _distinct(value: Any, parts: Sequence[Any], name: str = '') -> str:
    """A part with the fields that tell it from others of its class; '' if there are none."""
    if not isinstance(value, dict):
        return brief(value, name)
    others = [each for each in parts if isinstance(each, dict) and each.get(CLASS) == value.get(CLASS)]
    shown, own = [], [field for field in value if field != CLASS]
    for field in own:
        there = [each.get(field, MISSING) for each in others]
        if any(each != value[field] for each in there):
            inner = _distinct(value[field], there, field)
            shown.append(f'{field}={inner or class_name(value[field].get(CLASS, "")) + "(...)"}')
    if not shown and own:
        return ''
    return f'{class_name(value.get(CLASS, ""))}({", ".join([*shown, *(["..."] if len(shown) < len(own) else [])])})'


def differing(experiments: Sequence[Fields]) -> list[str]:
    """The paths of the fields, or whole parts, in which experiments differ, in the order of the fields.

    Where parts of different classes stand at one place, or one experiment has fields there that another has not, the
    whole part is named instead of its fields.
    """
    structures = dict.fromkeys(map(tuple, experiments))
    parts = [{place for name in each for place in _places(name)} for each in structures]
    shared = set.intersection(*parts) if parts else set()
    names = dict.fromkeys(name for each in structures for name in each)
    differ = _varied(experiments)
    varied = [name for name in names if name in differ and name.partition('.')[0] not in UNCOMPARED]
    wholes = {_whole(name, shared) for name in varied} - {''}
    return list(dict.fromkeys(_topmost(name, wholes) for name in varied))


def _places(name: str) -> Iterator[str]:
    """'a.b.c' -> 'a', 'a.b' and 'a.b.c'."""
    parts = name.split('.')
    return ('.'.join(parts[:count]) for count in range(1, len(parts) + 1))


def _varied(experiments: Iterable[Fields]) -> set[str]:
    """The names of the fields that have different values, or are not in all of them."""
    firsts: dict[tuple[str, ...], Fields] = {}  # By the names of the fields, which most experiments share.
    found: set[str] = set()
    for each in experiments:
        first = firsts.setdefault(tuple(each), each)
        found.update(itertools.compress(each, map(operator.ne, first.values(), each.values())))
    one, *others = firsts.values()
    for other in others:
        found.update(name for name in {**one, **other} if one.get(name, MISSING) != other.get(name, MISSING))
    return found


def _whole(name: str, shared: set[str]) -> str:
    """The part that a difference is one of, as it is of structure: another class, or a field that some lack; or ''."""
    above, _, last = name.rpartition('.')
    if name in shared and last != CLASS:
        return ''
    return next((place for place in reversed(list(_places(above))) if place in shared), '')


def _topmost(name: str, wholes: Iterable[str]) -> str:
    inside = [whole for whole in wholes if name == whole or name.startswith(f'{whole}.')]
    return min(inside, key=len, default=name)
