"""A config as a tree, one field a line, with where each value that is not a default came from."""

import dataclasses
import html as escaping
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rich import text

from bigmodel_jax import config, settings

FILE = 'experiment file'
INDENT = '  '
# Origins start in this column at the least, so that those of short lines stand below one another.
ORIGIN_COLUMN = 56


class TreeLine(NamedTuple):
    """One field of a config."""

    path: str
    depth: int
    name: str
    value: str  # As in an experiment file; of a part that has fields only its class, as its fields follow.
    origin: str | None  # Where it was set: 'arms.py:12', '--set ...' or FILE. None: the default.
    has_fields: bool


def rows(experiment: Any) -> list[TreeLine]:
    """Every field of the tree, in the order of declaration, each part before its own fields."""
    return list(_rows(experiment, experiment, path='', default=dataclasses.MISSING))


def stored_rows(stored: Any, path: str = '') -> Iterator[TreeLine]:
    """Every field of a config as JSON, whose classes need not be there; what is a default is not known."""
    for name, value in stored.items() if isinstance(stored, dict) else enumerate(stored):
        if name == config.CLASS_KEY:
            continue
        place, inner = config.join(path, name), isinstance(value, (dict, list)) and bool(value)
        heading = str(value.get(config.CLASS_KEY, '')).rpartition(':')[2] if isinstance(value, dict) else ''
        yield TreeLine(
            place,
            place.count('.'),
            str(name),
            heading if inner else settings.hidden(str(name), repr(value)),
            FILE,
            inner,
        )
        if inner:
            yield from stored_rows(value, place)


def _rows(root: Any, node: Any, *, path: str, default: Any) -> Iterator[TreeLine]:
    for name, value, standard in _children(node, default):
        place = config.join(path, name)
        is_default = type(value) is type(standard) and value == standard
        origin = None if is_default else config.origin_of(root, place) or FILE
        inner = _has_fields(value)
        shown = _heading(value) if inner else settings.hidden(name, config.format_value(value))
        yield TreeLine(place, place.count('.'), name, shown, origin, inner)
        if inner:
            yield from _rows(root, value, path=place, default=standard)


def _children(node: Any, default: Any) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and default of each direct child.

    A part that stands by default in its parent is compared with that one, whose fields may differ from its class's.
    """
    if not config.is_config(node):
        items = node.items() if isinstance(node, Mapping) else enumerate(node)
        same = isinstance(default, tuple) and isinstance(node, tuple) and len(default) == len(node)
        for key, value in items:
            yield str(key), value, default[key] if same else dataclasses.MISSING
        return
    for field in dataclasses.fields(node):
        standard = getattr(default, field.name) if type(default) is type(node) else config.default_of(field)
        yield field.name, getattr(node, field.name), standard


def _has_fields(value: Any) -> bool:
    """Whether the value takes more than one line: a part with fields, or several things of which one is a part."""
    if config.is_config(value):
        return bool(dataclasses.fields(value))
    return any(config.is_config(inner) for _, inner in config.walk(value))


def _heading(value: Any) -> str:
    return type(value).__name__ if config.is_config(value) else ''


def render(experiment: Any, only_changed: bool = False) -> text.Text:
    """The config for rich.console.Console.print(..., soft_wrap=True): coloured on a terminal, plain elsewhere.

    Args:
      only_changed: leave out what stands at its default.
    """
    shown = text.Text(f'{type(experiment).__name__}\n', style='bold')
    for row in rows(experiment):
        if row.origin is None and only_changed:
            continue
        style = 'dim' if row.origin is None else ''
        line = text.Text(INDENT * (row.depth + 1))
        line.append(row.name, style=style or 'cyan')
        line.append(f' = {row.value}' if row.value else '', style=style or ('bold' if row.has_fields else ''))
        if row.origin is not None and not (row.has_fields and row.origin == FILE):
            line.append(' ' * max(ORIGIN_COLUMN - len(line), 2))
            line.append(row.origin, style='green' if row.origin == FILE else 'yellow')
        shown.append(line).append('\n')
    shown.rstrip()
    return shown


def html(experiment: Any) -> str:
    """The same for a notebook: what is not a default in bold, with where it was set as its tooltip."""
    lines = [f'<b>{escaping.escape(type(experiment).__name__)}</b>']
    for row in rows(experiment):
        line = escaping.escape(f'{row.name} = {row.value}' if row.value else row.name)
        if row.origin is not None:
            line = f'<b title="{escaping.escape(row.origin)}">{line}</b>'
        lines.append(INDENT * (row.depth + 1) + line)
    return '<pre style="line-height: 1.25">' + '\n'.join(lines) + '</pre>'
