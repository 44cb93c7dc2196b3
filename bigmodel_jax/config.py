"""Configurations: plain frozen dataclasses that are checked, varied, compared, and turned to JSON and back.

A configuration class is any frozen dataclass, ours or one defined in an experiment file. Classes are named in JSON as
`module:Class`. Reading JSON builds such classes and nothing else: a module of this package is imported on demand, any
other module must have been loaded already (as the experiment file has), so that a crafted file cannot run code.
"""

import dataclasses
import difflib
import importlib
import math
import pathlib
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

import annotated_types

from bigmodel_jax import bounds, field_types, migrations

PACKAGE = 'bigmodel_jax'
EXPERIMENTS = 'experiments'  # Experiment files are loaded as modules experiments.<stem>.
CLASS_KEY = 'class'
# Attribute of a config that vary() leaves behind: {path: where the value was changed}. Not a field: it takes no part
# in equality or JSON.
ORIGINS = '_origins'
FILE = '_file'  # Another such attribute: the experiment file from which it was loaded.
MOST_LISTED = 60  # Names that a message lists; more are no help.

C = TypeVar('C')

# Field types with their bounds; a value outside is refused with the path of the field. Every number has one of them.
Positive = Annotated[int, annotated_types.Gt(0), annotated_types.Le(bounds.LARGEST_INT)]
NonNegative = Annotated[int, annotated_types.Ge(0), annotated_types.Le(bounds.LARGEST_INT)]
Count = Annotated[int, annotated_types.Gt(0)]  # Of what no device counts, such as the parameters of a whole model.
Seed = Annotated[int, annotated_types.Ge(0), annotated_types.Lt(2**64)]
Real = Annotated[bounds.Float, annotated_types.Ge(-bounds.LARGEST_FLOAT)]  # Of either sign.
Rate = Annotated[bounds.Float, annotated_types.Ge(0)]
PositiveFloat = Annotated[bounds.Float, annotated_types.Gt(0)]  # Where 0 would mean that nothing happens, or all.
AboveOne = Annotated[bounds.Float, annotated_types.Gt(1)]
Fraction = Annotated[float, annotated_types.Ge(0), annotated_types.Le(1)]
PositiveFraction = Annotated[bounds.Float, annotated_types.Gt(0), annotated_types.Le(1)]
Probability = Annotated[bounds.BelowOne, annotated_types.Ge(0)]


class InputError(ValueError):
    """Something a person gave is wrong. The message says what, which values, and what to do."""


def is_config(value: object) -> bool:
    """Whether `value` is an instance of a configuration class: a frozen dataclass."""
    return not isinstance(value, type) and is_config_class(type(value))


def with_children(node: Any, replaced: Callable[[Any], Any]) -> Any:
    """`node` with `replaced(child)` for each field of a config and each item of a tuple or mapping; else itself."""
    if isinstance(node, tuple):
        return tuple(replaced(each) for each in node)
    if isinstance(node, Mapping):
        return {key: replaced(each) for key, each in node.items()}
    if not is_config(node):
        return node
    old = {field.name: getattr(node, field.name) for field in dataclasses.fields(node) if field.init}
    new = {name: replaced(value) for name, value in old.items()}
    changed = {name: value for name, value in new.items() if value is not old[name] and value != old[name]}
    return dataclasses.replace(node, **changed) if changed else node


class Value:
    """Base of the frozen dataclasses that are results, such as an artifact, and no part of an experiment."""


def is_config_class(cls: object) -> bool:
    """Whether `cls` is a configuration class, or a subclass of one that adds no field."""
    parameters = getattr(cls, '__dataclass_params__', None)
    return isinstance(cls, type) and parameters is not None and parameters.frozen and not issubclass(cls, Value)


def nearest(word: str, words: typing.Iterable[str]) -> str:
    """' Did you mean ...?' if one of `words` is close to `word`; otherwise all of them, unless they are too many."""
    words = sorted(words)
    close = difflib.get_close_matches(word, words, n=1)
    if close:
        return f' Did you mean {close[0]!r}?'
    return f' Known: {", ".join(words)}.' if 0 < len(words) <= MOST_LISTED else ''


# ---- checking ---------------------------------------------------------------------------------------------------


def check(config: C) -> C:
    """Returns `config` unchanged if every field in the tree has its declared type.

    Strict: no string passes for a number, no 7.9 for an int; an int passes for a float. Fields that hold configs accept
    any subclass of the declared class.

    Raises:
      InputError: one line for each wrong field, with its path.
    """
    problems = list(_problems(config, ''))
    if problems:
        raise InputError('\n'.join(problems))
    return config


def _problems(config: Any, path: str) -> Iterator[str]:
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    yield from _wrong_types(type(config), values, path)
    for name, value in walk(config):
        if is_config(value):
            yield from _problems(value, join(path, name))


def _wrong_types(cls: type, values: Mapping[str, Any], path: str) -> Iterator[str]:
    """A line for each of the values of fields of a configuration class that has another type than is declared."""
    for name, inner, wanted in field_types.wrong(cls, values):
        yield f'{join(path, name)} = {format_value(inner)} (a {type(inner).__name__}): {wanted}.'


# ---- walking and changing ---------------------------------------------------------------------------------------


def join(path: str, name: str | int) -> str:
    return f'{path}.{name}' if path else str(name)


def walk(node: Any) -> Iterator[tuple[str, Any]]:
    """The children of a config, tuple or mapping with their paths in `node`, and those of tuples and mappings in it."""
    if is_config(node):
        children = [(field.name, getattr(node, field.name)) for field in dataclasses.fields(node)]
    elif isinstance(node, (tuple, list)):
        children = [(str(i), value) for i, value in enumerate(node)]
    elif isinstance(node, Mapping):
        children = [(str(key), value) for key, value in node.items()]
    else:
        return
    for name, value in children:
        yield name, value
        if isinstance(value, (tuple, list, Mapping)):
            for inner, deeper in walk(value):
                yield join(name, inner), deeper


def vary(config: C, changes: Mapping[str, Any], origin: str | None = None) -> C:
    """A copy of `config` with the values at the dotted paths replaced: `vary(base, {'optimizer.schedule.peak': 1e-3})`.

    Args:
      changes: path -> new value. A number in a path indexes a tuple: 'evaluations.0.every_steps'. Applied in order.
      origin: where the values come from, for `show`; by default the file and line of the caller.

    Raises:
      InputError: a path does not exist; names the nearest that does.
    """
    if origin is None:
        frame = sys._getframe(1)
        origin = f'{pathlib.Path(frame.f_code.co_filename).name}:{frame.f_lineno}'
    origins, file = dict(getattr(config, ORIGINS, {})), getattr(config, FILE, None)
    for path, value in changes.items():
        config = _replace(config, path.split('.'), value, '')
        origins = {known: where for known, where in origins.items() if not known.startswith(path + '.')} | {
            path: origin
        }
    if is_config(config):
        object.__setattr__(config, ORIGINS, origins)
        if file is not None:
            object.__setattr__(config, FILE, file)
    return config


def origin_of(config: Any, path: str) -> str | None:
    """Where vary() or --set last changed the value at `path` (or something that holds it); None if neither did."""
    origins, parts = getattr(config, ORIGINS, {}), path.split('.')
    for count in range(len(parts), 0, -1):
        if '.'.join(parts[:count]) in origins:
            return origins['.'.join(parts[:count])]
    # A part may have been varied before it was put in its place.
    inner = dict(walk(config)).get(parts[0])
    return None if inner is None or len(parts) == 1 else origin_of(inner, '.'.join(parts[1:]))


def _replace(node: Any, parts: list[str], value: Any, path: str) -> Any:
    if not parts:
        return value
    head, rest = parts[0], parts[1:]
    if is_config(node):
        names = [field.name for field in dataclasses.fields(node)]
        if head not in names:
            raise InputError(f'{join(path, head)}: {type(node).__name__} has no field {head!r}.{nearest(head, names)}')
        new = _replace(getattr(node, head), rest, value, join(path, head))
        return _made(lambda: dataclasses.replace(node, **{head: new}), type(node), {head: new}, path)
    if isinstance(node, tuple):
        if not head.isdigit() or int(head) >= len(node):
            raise InputError(
                f'{join(path, head)}: {path} has {len(node)} entries; use a number from 0 to {len(node) - 1}.'
            )
        index = int(head)
        return (*node[:index], _replace(node[index], rest, value, join(path, head)), *node[index + 1 :])
    raise InputError(f'{join(path, head)}: {path} is {node!r}, which has no fields; set {path} itself.')


class Difference(typing.NamedTuple):
    """One place where two configs differ. A side that does not exist is MISSING."""

    path: str
    left: Any
    right: Any

    def __str__(self) -> str:
        left, right = (MISSING if side is MISSING else format_value(side) for side in (self.left, self.right))
        return f'{self.path}: {left} -> {right}'


MISSING = '(absent)'


def format_value(value: Any) -> str:
    """A value as it is written in an experiment file, without the fields left at their defaults."""
    if is_config(value):
        shown = [
            f'{field.name}={format_value(getattr(value, field.name))}'
            for field in dataclasses.fields(value)
            if getattr(value, field.name) != default_of(field)
        ]
        return f'{type(value).__name__}({", ".join(shown)})'
    if isinstance(value, tuple):
        return f'({", ".join(map(format_value, value))}{"," if len(value) == 1 else ""})'
    return repr(value)


def default_of(field: dataclasses.Field) -> Any:
    """The default of a dataclass field; dataclasses.MISSING if it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def difference(left: Any, right: Any, path: str = '') -> list[Difference]:
    """Every place where two configs (or values) differ, in the order of the fields."""
    if is_config(left) and type(left) is type(right):
        pairs = [(f.name, getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(left)]
    elif isinstance(left, tuple) and isinstance(right, tuple):
        longer = max(len(left), len(right))
        sides = [(*side, *[MISSING] * (longer - len(side))) for side in (left, right)]
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(*sides))]
    else:
        return [] if type(left) is type(right) and left == right else [Difference(path, left, right)]
    return [found for name, a, b in pairs for found in difference(a, b, join(path, name))]


# ---- JSON -------------------------------------------------------------------------------------------------------


def to_json(value: Any) -> Any:
    """The config as JSON-ready data; every configuration class is a dict with its name under 'class'.

    Raises:
      InputError: a value is none of config, tuple, str-keyed mapping, str, int, finite float, bool, None.
    """
    if is_config(value):
        name = class_name(type(value))
        fields = {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {CLASS_KEY: name, **fields}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise InputError(
        f'{value!r} (a {type(value).__name__}) cannot be part of a config; use numbers, text or dataclasses.'
    )


def class_name(cls: type) -> str:
    """'module:Class', the name under which JSON knows a configuration class."""
    return f'{cls.__module__}:{cls.__qualname__}'


def from_json(data: Any) -> Any:
    """The config that to_json() wrote, checked.

    Raises:
      InputError: an unknown class or field, a missing field, a value of the wrong type.
    """
    config = _read(data, '')
    return check(config) if is_config(config) else config


def _read(data: Any, path: str) -> Any:
    if isinstance(data, list):
        return tuple(_read(item, join(path, i)) for i, item in enumerate(data))
    if not isinstance(data, dict):
        return data
    data = migrations.migrate(data)
    values = {key: _read(item, join(path, key)) for key, item in data.items() if key != CLASS_KEY}
    if CLASS_KEY not in data:
        return values
    return build(find_class(data[CLASS_KEY]), values, path)


def normalized(data: Any) -> Any:
    """Stored configs in JSON as this version writes them: renamed as it says, and with the defaults of absent fields.

    Those of classes that are not loaded stay as they are.
    """
    if isinstance(data, list):
        return [normalized(item) for item in data]
    if not isinstance(data, dict):
        return data
    found = {key: normalized(item) for key, item in migrations.migrate(data).items()}
    try:
        fields = dataclasses.fields(find_class(found[CLASS_KEY])) if CLASS_KEY in found else ()
    except InputError:
        return found
    defaults = {field.name: default_of(field) for field in fields if field.name not in found}
    return found | {name: to_json(each) for name, each in defaults.items() if each is not dataclasses.MISSING}


def find_class(name: str) -> type:
    """The configuration class that class_name() called `name`.

    Raises:
      InputError: there is none, or its module is neither of this package nor loaded.
    """
    module_name, _, qualname = str(name).partition(':')
    if module_name.startswith(PACKAGE + '.') and _is_our_file(module_name):
        importlib.import_module(module_name)
    module = sys.modules.get(module_name)
    if module is None:
        raise InputError(
            f'The configuration class {name!r} is not of this package, and its module is not loaded. '
            'If it is defined in an experiment file, name that file too (for example: report RUN --experiment FILE.py, '
            'verify RUN --experiment FILE.py).'
        )
    found: Any = vars(module).get(qualname)
    # A class that the module merely imported is refused: its name would not be the one that to_json() writes.
    if not is_config_class(found) or found.__module__ != module_name or not _is_part(found):
        raise InputError(f'{name!r} is not a configuration class.{nearest(qualname, _configs_in(module))}')
    return found


def _is_our_file(module_name: str) -> bool:
    parts = module_name.split('.')
    folder = pathlib.Path(__file__).parent.joinpath(*parts[1:])
    return all(part.isidentifier() for part in parts) and (folder.with_suffix('.py').exists() or folder.is_dir())


def _is_part(cls: type) -> bool:
    """Whether a frozen dataclass is a part of experiments: ours, of an experiment file, or built on a class of ours."""
    homes = {base.__module__.partition('.')[0] for base in cls.__mro__}
    return not homes.isdisjoint((PACKAGE, EXPERIMENTS, '__main__'))


def _configs_in(module: types.ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if is_config_class(value)]


def build(cls: type, values: Mapping[str, Any], path: str = '') -> Any:
    """An instance of a configuration class.

    Raises:
      InputError: an unknown field (with the nearest name), or a field that is missing.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in values:
        if name not in fields:
            raise InputError(f'{join(path, name)}: {cls.__name__} has no field {name!r}.{nearest(name, fields)}')
    required = [name for name, field in fields.items() if default_of(field) is dataclasses.MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise InputError(f'{path or cls.__name__}: {cls.__name__} needs a value for {", ".join(missing)}.')
    return _made(lambda: cls(**values), cls, values, path)


def _made(make: Callable[[], Any], cls: type, values: Mapping[str, Any], path: str) -> Any:
    """What `make` makes of a configuration class, of which the `values` are new; before, their types are checked.

    Raises:
      InputError: a value is of another type, or the class refuses it.
    """
    # The class's own checks of a value, such as that it is below another, may take its type for granted.
    try:
        problems = list(_wrong_types(cls, values, path))
        if problems:
            raise InputError('\n'.join(problems))
        return make()
    except InputError:
        raise
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, *field_types.UNCHECKED) as error:
        raise InputError(f'{path or cls.__name__}: {cls.__name__} refuses its values: {error}.') from error
