"""What is written on a command line or in an experiment file, understood: the values of --set, and misspelt fields."""

import ast
import dataclasses
import importlib
import pkgutil
import re
import sys
import types
from collections.abc import Sequence
from typing import Any, TypeVar

from bigmodel_jax import config
from bigmodel_jax.console import terminal

C = TypeVar('C')
ROOMS = ('data', 'evaluate', 'layers', 'models', 'objectives', 'optim')
LONGEST, DEEPEST = 100_000, 100  # Characters of a value, and brackets and signs within one another.
# Last words of the names of secrets. 'key' and 'token' name fields and text too: they are secrets after an owner, or
# where the value looks like one.
SECRET, PERHAPS = (
    ('password', 'passwd', 'passphrase', 'secret', 'credential', 'credentials', 'apikey'),
    ('key', 'token'),
)
OWNERS = ('api', 'access', 'account', 'auth', 'bearer', 'client', 'hf', 'hub', 'private', 'secret', 'session', 'wandb')
_RANDOM = re.compile(r'[\'"]?(?=\S*[0-9])(?=\S*[A-Za-z])[\w./+=-]{16,}[\'"]?')


def parse_settings(experiment: C, settings: Sequence[str]) -> C:
    """Applies command-line settings, 'path=value' each, in order; see parse_value() for the values."""
    for setting in settings:
        path, sign, text = setting.partition('=')
        if not sign or not path:
            raise config.InputError(f'--set {setting!r} is not of the form path=value, such as model.width=64.')
        origin = f'--set {without_secrets([setting])[0]}'
        experiment = config.vary(experiment, {path: parse_value(text, path)}, origin=origin)
    return experiment


def without_secrets(words: Sequence[str]) -> list[str]:
    """The words of a command or of flags, with *** for the value of every name that looks like a secret's."""
    found = []
    for word in words:
        option, sign, rest = word.partition('=') if word.startswith(('--arg=', '--set=')) else ('', '', word)
        name, equals, value = rest.partition('=')
        shown = hidden(name, value) if equals else value
        if shown != value:
            terminal.say_once(f'note: the value of {name} is not recorded, since it looks like a secret.')
        found.append(f'{option}{sign}{name}{equals}{shown}')
    return found


def hidden(name: str, value: str) -> str:
    """A value as it is shown: *** where it looks like a secret, by its name or by both."""
    before, last = ['', *re.split(r'[^a-z0-9]+', name.lower())][-2:]
    is_number = re.fullmatch(r'-?[\d.]+(e[+-]?\d+)?|None|True|False|', value) is not None
    is_secret = last in SECRET or (last in PERHAPS and (before in OWNERS or _RANDOM.fullmatch(value) is not None))
    return '***' if is_secret and not is_number else value


def parse_value(text: str, path: str = '') -> Any:
    """A value written as in an experiment file: 3, 1e-3, None, (1, 2), 'text', Lion(b2=0.98). A bare word is a string.

    Only literals and configuration classes of the package and of the loaded experiment file are understood; nothing is
    evaluated. Text that is neither
    is a string as it stands, so that paths need no quotes.
    """
    if len(text) > LONGEST:
        raise config.InputError(f'{path}: a value of {len(text):,} characters; at most {LONGEST:,} are read.')
    try:
        node = ast.parse(text.strip(), mode='eval').body
    except (SyntaxError, ValueError):  # ValueError: a zero byte, or a number of thousands of digits.
        return text
    except (RecursionError, MemoryError):  # What the parser raises beyond some hundred brackets.
        raise config.InputError(f'{path}: the value is nested too deeply to be read: {text[:40]} ...') from None
    _check_depth(node, path)
    try:
        return _literal(node, path)
    except ValueError as error:
        if isinstance(error, config.InputError):
            raise
        return text
    except TypeError as error:  # Of something that no dict can hold as a key.
        raise config.InputError(f'{path}: {text[:80]}: {error}.') from error


def _check_depth(top: ast.expr, path: str) -> None:
    """Raises InputError for a value that is nested too deeply; a chain of sums is."""
    level: list[ast.AST] = [top]
    for _ in range(DEEPEST):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return
    raise config.InputError(f'{path}: the value has more than {DEEPEST} brackets or signs within one another.')


def _literal(node: ast.expr, path: str) -> Any:
    if isinstance(node, (ast.Tuple, ast.List)):
        return tuple(_literal(item, path) for item in node.elts)
    if isinstance(node, ast.Call) and not node.args:
        values = {keyword.arg or '**': _literal(keyword.value, path) for keyword in node.keywords}
        return config.build(_loaded_class(ast.unparse(node.func), path), values, path)
    return ast.literal_eval(node)  # ValueError for anything that is not a literal.


def _loaded_class(name: str, path: str) -> type:
    """A configuration class by its bare or dotted name, among those of the package and the loaded experiment file."""
    found = _named(name)
    if not found:  # What the experiment file did not import may still be named.
        _import_configs()
        found = _named(name)
    if not found:
        near = config.nearest(name.rpartition('.')[2], {cls.__name__ for cls in _loaded_classes()})
        raise config.InputError(f'{path}: there is no configuration class {name!r}.{near}')
    if len(found) > 1:  # An experiment file that runs by itself is loaded once more, under its own name.
        found = {full: cls for full, cls in found.items() if cls.__module__ != '__main__'}
    if len(found) > 1:
        last_two = sorted('.'.join(full.split('.')[-2:]) for full in found)
        raise config.InputError(f'{path}: {name} may be {" or ".join(last_two)}; write which.')
    return next(iter(found.values()))


def _named(name: str) -> dict[str, type]:
    """The loaded configuration classes of this name, by full name: a class that several modules import is one."""
    known = {f'{cls.__module__}.{cls.__name__}': cls for cls in _loaded_classes()}
    return {full: cls for full, cls in known.items() if f'.{full}'.endswith(f'.{name}')}


def _import_configs() -> None:
    """Imports every module of the package in which an experiment finds its configuration classes."""
    for room in ROOMS:
        package = importlib.import_module(f'{config.PACKAGE}.{room}')
        for module in pkgutil.walk_packages(package.__path__, f'{package.__name__}.'):
            importlib.import_module(module.name)


def _loaded_classes() -> list[type]:
    modules = [module for module in list(sys.modules.values()) if isinstance(module, types.ModuleType)]
    ours = [m for m in modules if m.__name__.split('.')[0] in (config.PACKAGE, config.EXPERIMENTS, '__main__')]
    return [value for module in ours for value in vars(module).values() if config.is_config_class(value)]


def explain_constructor_error(error: TypeError) -> str | None:
    """A TypeError of a config's constructor in our words, with the nearest field name; None if it is another error."""
    message = str(error)
    head, sign, rest = message.partition('.__init__() ')
    if not sign:
        return None
    for cls in _loaded_classes():
        if cls.__qualname__ != head:
            continue
        if 'unexpected keyword argument' in rest:
            wrong = rest.split("'")[1]
            return f'{head} has no field {wrong!r}.{config.nearest(wrong, [f.name for f in dataclasses.fields(cls)])}'
        return f'{head} {rest.replace("keyword-only argument", "field")}.'
    return None
