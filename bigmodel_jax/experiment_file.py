"""Loading an experiment from a file: `experiments/wmt14.py[:function[/arm]]`."""

import functools
import importlib.util
import inspect
import pathlib
import sys
import traceback
import types
from collections.abc import Callable, Sequence

from bigmodel_jax import config, settings
from bigmodel_jax import experiment as experiments
from bigmodel_jax.experiment import Experiment


def load(name: str, changes: Sequence[str] = (), arguments: Sequence[str] = ()) -> Experiment:
    """The experiment `file.py:function/arm`, checked; the function is experiment() by default.

    Args:
      changes: 'path=value' each, applied in order.
      arguments: 'name=value' each, for the function.

    Raises:
      InputError: there is no such file, function or arm, the file does not run, or the experiment is wrong.
    """
    path, _, rest = name.partition(':')
    function, _, arm = rest.partition('/')
    module = load_module(path)
    made = _call(module, function or 'experiment', pathlib.Path(path), arguments)
    if isinstance(made, dict):
        if arm not in made:
            raise config.InputError(f'{path}: {function}() has no arm {arm!r}.{config.nearest(arm, made)}')
        made = made[arm]
    elif arm:
        raise config.InputError(f'{path}: {function}() returns one experiment, so there is no arm {arm!r}.')
    if not isinstance(made, Experiment):
        raise config.InputError(f'{path}: {function}() returned a {type(made).__name__}, not an Experiment.')
    return experiments.check(settings.parse_settings(made, changes))


def load_arms(
    name: str, changes: Sequence[str] = (), arguments: Sequence[str] = ()
) -> tuple[dict[str, Experiment], tuple[str, ...]]:
    """Every experiment of a file by name, checked, and the names of those that were asked for.

    Of `file.py` these are experiment() and the arms of sweep(), if it has one; of `file.py:function` what that returns,
    of which `/arm` asks for one.

    Raises:
      InputError: as load().
    """
    path, _, rest = name.partition(':')
    function, _, arm = rest.partition('/')
    module = load_module(path)
    made = {word: _call(module, word, pathlib.Path(path), arguments) for word in [function or 'experiment']}
    if not function and inspect.isfunction(vars(module).get('sweep')):
        taken = inspect.signature(module.sweep).parameters
        known = [argument for argument in arguments if argument.partition('=')[0] in taken]
        made['sweep'] = _call(module, 'sweep', pathlib.Path(path), known)
    arms = {word: each for found in made.values() if isinstance(found, dict) for word, each in found.items()}
    # experiment() is often an arm once more, under another name.
    alone = {word: each for word, each in made.items() if not isinstance(each, dict) and each not in arms.values()}
    if arm and arm not in arms:
        raise config.InputError(f'{path}: {function}() has no arm {arm!r}.{config.nearest(arm, arms)}')
    every = {**alone, **arms}
    for word, each in every.items():
        if not isinstance(each, Experiment):
            raise config.InputError(f'{path}: {word} is a {type(each).__name__}, not an Experiment.')
    found = {word: experiments.check(settings.parse_settings(each, changes)) for word, each in every.items()}
    return found, (arm,) if arm else tuple(found)


def load_module(path: str) -> types.ModuleType:
    """The module of an experiment file, known as `experiments.<stem>` so that JSON can name its classes.

    Raises:
      InputError: there is no such file, or it raises an error.
    """
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        known = sorted(str(found) for found in file.parent.glob('*.py')) if file.parent.is_dir() else []
        raise config.InputError(f'There is no experiment file {path}.{config.nearest(path, known)}')
    name = f'{config.EXPERIMENTS}.{file.stem}'
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise config.InputError(f'{path} is not a Python file; an experiment file ends in .py.')
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Before it runs: dataclasses look their module up.
    _run(functools.partial(spec.loader.exec_module, module), file)
    return module


def _call(module: types.ModuleType, function: str, file: pathlib.Path, arguments: Sequence[str]) -> object:
    found = vars(module).get(function)
    if not inspect.isfunction(found):
        own = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise config.InputError(f'{file} has no function {function!r}.{config.nearest(function, own)}')
    parameters = inspect.signature(found).parameters
    values = {}
    for argument in arguments:
        name, sign, text = argument.partition('=')
        if not sign or name not in parameters:
            raise config.InputError(
                f'{file}: {function}() takes no --arg {argument}.{config.nearest(name, parameters)}'
            )
        values[name] = text if parameters[name].annotation is str else settings.parse_value(text, name)
    needed = [name for name, each in parameters.items() if each.default is each.empty and name not in values]
    if needed:
        raise config.InputError(f'{file}: {function}() needs --arg {needed[0]}=...')
    return _run(lambda: found(**values), file)


def _run(function: Callable[[], object], file: pathlib.Path) -> object:
    """Runs code of the experiment file; whatever it raises becomes one message with the line of the file."""
    try:
        return function()
    except config.InputError:
        raise
    except SyntaxError as error:
        raise config.InputError(f'{error.filename}, line {error.lineno}: {error.msg}.') from error
    except Exception as error:  # Code of a person's own can raise anything.
        message = settings.explain_constructor_error(error) if isinstance(error, TypeError) else None
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        where = f'{file}, line {lines[-1]}' if lines else str(file)
        raise config.InputError(f'{where}: {message or f"{type(error).__name__}: {error}"}') from error
