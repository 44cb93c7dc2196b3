"""Loading an experiment from a file: `experiments/wmt14.py[:function[/arm]]`."""

import functools
import importlib.util
import inspect
import pathlib
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bigmodel_jax import config, settings
from bigmodel_jax import experiment as experiments
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.user_code import own_errors, own_modules

_loading: set[pathlib.Path] = set()  # The experiment files that are being loaded at this moment.


def load(name: str, changes: Sequence[str] = (), arguments: Sequence[str] = ()) -> Experiment:
    """The experiment `file.py:function/arm`, checked; the function is experiment() by default.

    Args:
      changes: 'path=value' each, applied in order.
      arguments: 'name=value' each, for the function.

    Raises:
      InputError: there is no such file, function or arm, the file does not run, or the experiment is wrong.
    """
    path, function, arm = parse(name)
    function = function or 'experiment'
    made = call(path, function, arguments)
    if isinstance(made, Mapping):
        if arm not in made:
            raise config.InputError(f'{path}: {function}() has no arm {arm!r}.{config.nearest(arm, map(str, made))}')
        made = made[arm]
    elif arm:
        raise config.InputError(f'{path}: {function}() returns one experiment, so there is no arm {arm!r}.')
    return finish(made, f'{path}: {function}()', path, changes)


def call(path: str, function: str, arguments: Sequence[str] = ()) -> object:
    """What a function of an experiment file returns.

    Args:
      arguments: 'name=value' each.

    Raises:
      InputError: there is no such file or function, or it does not run.
    """
    return _call(load_module(path), function, pathlib.Path(path), arguments)


def finish(made: object, what: str, path: str, changes: Sequence[str] = ()) -> Experiment:
    """What a function of the experiment file at `path` returned, with changes, checked.

    Args:
      what: names it in errors.
      changes: 'path=value' each, applied in order.

    Raises:
      InputError: it is not an experiment, or a wrong one.
    """
    checked = experiments.check(settings.parse_settings(_experiment(made, what), changes))
    object.__setattr__(checked, config.FILE, str(pathlib.Path(path).expanduser().resolve()))
    return checked


def parse(name: str) -> tuple[str, str, str]:
    """File, function and arm of FILE.py[:FUNCTION[/ARM]]; '' for what is not named.

    Raises:
      InputError: there is a colon, and no function after it.
    """
    found = re.fullmatch(r'(.+?\.py)(?::(.*))?', name, re.DOTALL)
    path, rest = found.groups() if found else name.partition(':')[::2]
    function, _, arm = (rest or '').partition('/')
    if not function and (name.endswith(':') or arm):
        raise config.InputError(
            f'{name}: there is no function after the colon. Write {path}:FUNCTION, or {path} alone.'
        )
    return path, function, arm


def _experiment(made: object, what: str) -> Experiment:
    """What a function returned, if it is an experiment."""
    if isinstance(made, Experiment):
        return made
    forgotten = ' Does it lack a `return`?' if made is None else ''
    shown = 'None' if made is None else f'a {type(made).__name__}'
    raise config.InputError(f'{what} returned {shown}, not an Experiment.{forgotten}')


def load_arms(
    name: str, changes: Sequence[str] = (), arguments: Sequence[str] = ()
) -> tuple[dict[str, Experiment], tuple[str, ...]]:
    """Every experiment of a file by name, checked, and the names of those that were asked for.

    Of `file.py` these are experiment() and the arms of sweep(), if it has one; of `file.py:function` what that returns,
    of which `/arm` asks for one.

    Raises:
      InputError: as load().
    """
    path, function, arm = parse(name)
    module = load_module(path)
    made: dict[str, object] = {
        word: _call(module, word, pathlib.Path(path), arguments) for word in [function or 'experiment']
    }
    if not function and _is_function(vars(module).get('sweep')):
        taken = inspect.signature(module.sweep).parameters
        known = [argument for argument in arguments if argument.partition('=')[0] in taken]
        made['sweep'] = _call(module, 'sweep', pathlib.Path(path), known)
    arms = {word: each for found in made.values() if isinstance(found, Mapping) for word, each in found.items()}
    # experiment() is often an arm once more, under another name.
    alone = {word: each for word, each in made.items() if not isinstance(each, Mapping) and each not in arms.values()}
    if arm and arm not in arms:
        raise config.InputError(f'{path}: {function}() has no arm {arm!r}.{config.nearest(arm, arms)}')
    every = {word: _experiment(each, f'{path}: {word}') for word, each in {**alone, **arms}.items()}
    found = {word: experiments.check(settings.parse_settings(each, changes)) for word, each in every.items()}
    return found, (arm,) if arm else tuple(found)


def _shipped(file: pathlib.Path) -> pathlib.Path:
    """The file; if there is none and it is named experiments/NAME.py, the one installed with the package."""
    installed = pathlib.Path(sys.prefix) / 'share' / 'bigmodel_jax' / file
    is_ours = not file.is_absolute() and file.parts[:1] == (config.EXPERIMENTS,) and '..' not in file.parts
    return installed if is_ours and not file.exists() and installed.is_file() else file


def load_module(path: str) -> types.ModuleType:
    """The module of an experiment file, known as `experiments.<stem>` so that JSON can name its classes.

    Raises:
      InputError: there is no such file, or it raises an error.
    """
    file = _shipped(pathlib.Path(path).expanduser())
    if not file.is_file():
        known = sorted(str(found) for found in file.parent.glob('*.py')) if file.parent.is_dir() else []
        raise config.InputError(f'There is no experiment file {path}.{config.nearest(path, known)}')
    name = f'{config.EXPERIMENTS}.{file.stem}'
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise config.InputError(f'{path} is not a Python file; an experiment file ends in .py.')
    if file.resolve() in _loading:
        raise config.InputError(
            f"{path} runs a command while it is loaded. Put `main(__file__)` below `if __name__ == '__main__':`."
        )
    _loading.add(file.resolve())
    try:
        _run(lambda: own_modules.enter(file), file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # Before it runs: dataclasses look their module up.
        _run(functools.partial(spec.loader.exec_module, module), file)
    finally:
        _loading.discard(file.resolve())
    return module


def _is_function(value: object) -> bool:
    """Whether a value can be called for an experiment; a decorated function is another kind of object."""
    return callable(value) and not isinstance(value, type)


def _call(module: types.ModuleType, function: str, file: pathlib.Path, arguments: Sequence[str]) -> object:
    found: Any = vars(module).get(function)
    if not _is_function(found):
        own = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise config.InputError(f'{file} has no function {function!r}.{config.nearest(function, own)}')
    parameters = inspect.signature(found).parameters.values()
    named = {each.name: each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)}
    anything = any(each.kind is each.VAR_KEYWORD for each in parameters)
    values = {}
    for argument in arguments:
        name, sign, text = argument.partition('=')
        if not sign:
            raise config.InputError(f'--arg {argument!r} is not of the form name=value, such as width=64.')
        if not (name in named or (anything and name.isidentifier())):
            raise config.InputError(f'{file}: {function}() takes no --arg {argument}.{config.nearest(name, named)}')
        is_text = name in named and named[name].annotation in (str, 'str')
        values[name] = text if is_text else settings.parse_value(text, name)
    needed = [name for name, each in named.items() if each.default is each.empty and name not in values]
    if needed:
        raise config.InputError(f'{file}: {function}() needs --arg {needed[0]}=...')
    ahead = [values.pop(name) for name, each in named.items() if each.kind is each.POSITIONAL_ONLY and name in values]
    return _run(lambda: found(*ahead, **values), file)


def _run(function: Callable[[], object], file: pathlib.Path) -> object:
    """Runs code of the experiment file; whatever it raises becomes one message with the lines of own code."""
    try:
        return function()
    except config.InputError as error:
        if not own_errors.own_frames(error) or isinstance(error.__cause__, Exception):
            raise
        raise config.InputError(own_errors.located(error, str(error), file)) from error
    except SyntaxError as error:
        raise config.InputError(own_errors.located(error, f'{type(error).__name__}: {error.msg}', file)) from error
    except (Exception, SystemExit) as error:  # Code of a person's own can raise anything.
        explained = settings.explain_constructor_error(error) if isinstance(error, TypeError) else None
        message = explained or f'{type(error).__name__}: {error}'
        raise config.InputError(own_errors.located(error, message, file)) from error
