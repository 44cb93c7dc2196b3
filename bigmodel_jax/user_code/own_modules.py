"""The modules of a person's own: the experiment file, the modules beside it, and what these import.

As for a script, the folder of an experiment file is the first place where its imports are looked for. Two experiments
in one process may have modules of equal names beside them: each is given its own.
"""

import ast
import contextlib
import functools
import importlib
import importlib.machinery
import importlib.util
import pathlib
import site
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator

from bigmodel_jax import config
from bigmodel_jax.console import terminal

_folders: list[pathlib.Path] = []  # Of the experiment files that were loaded, the last one last.
_aside: dict[pathlib.Path, dict[str, types.ModuleType]] = {}  # Folder -> its modules, while another folder is in use.


@functools.cache
def _installed() -> tuple[pathlib.Path, ...]:
    """The folders of Python, of what is installed, and of this package."""
    paths = [sysconfig.get_paths()[name] for name in ('stdlib', 'platstdlib', 'purelib', 'platlib')]
    paths += [*site.getsitepackages(), site.getusersitepackages()]
    return tuple(dict.fromkeys([*(pathlib.Path(path).resolve() for path in paths), pathlib.Path(__file__).parents[1]]))


@functools.cache
def is_own(file: str) -> bool:
    """Whether a source file is a person's own: neither of Python, nor installed, nor of this package."""
    if file.startswith('<'):
        return False
    path = pathlib.Path(file).resolve()
    return not any(path.is_relative_to(folder) for folder in _installed())


def file_of(module: types.ModuleType | None) -> pathlib.Path | None:
    """The source file of a module of a person's own; None for any other module."""
    file = getattr(module, '__file__', None)
    return pathlib.Path(file).resolve() if isinstance(file, str) and file.endswith('.py') and is_own(file) else None


def imported(file: pathlib.Path, name: str) -> Iterator[tuple[str, int]]:
    """The full names of the modules that a source file may import, wherever it does so, each with its line.

    Args:
      name: of the module itself, to which relative imports refer.

    Raises:
      SyntaxError: it is not Python.
    """
    package = name if file.name == '__init__.py' else name.rpartition('.')[0]
    for node in ast.walk(ast.parse(file.read_bytes(), str(file))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                parents = package.split('.')[: len(package.split('.')) - node.level + 1]
                base = '.'.join([*parents, *([base] if base else [])])
            yield base, node.lineno
            yield from ((f'{base}.{alias.name}', node.lineno) for alias in node.names)


def closure(roots: Iterable[types.ModuleType]) -> dict[str, pathlib.Path]:
    """Name -> source file of every module of a person's own among `roots` and what they import."""
    found: dict[str, pathlib.Path] = {}
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        file = file_of(module)
        if file is None or module.__name__ in found or not file.is_file():
            continue
        found[module.__name__] = file
        names = {name for name, _ in _imported_quietly(file, module.__name__)}
        parents = {'.'.join(name.split('.')[:count]) for name in names for count in range(1, name.count('.') + 1)}
        # What the module holds may have come by another way than an import statement.
        values = list(vars(module).values())
        held = {str(value.__module__) for value in values if isinstance(value, (type, types.FunctionType))}
        held |= {value.__name__ for value in values if isinstance(value, types.ModuleType)}
        waiting += [sys.modules[each] for each in sorted(names | parents | held) if each in sys.modules]
    return found


def _imported_quietly(file: pathlib.Path, name: str) -> list[tuple[str, int]]:
    try:
        return list(imported(file, name))
    except (SyntaxError, ValueError):  # It was changed since it was imported.
        return []


# ---- loading ----------------------------------------------------------------------------------------------------


def enter(file: pathlib.Path) -> None:
    """Makes the modules beside an experiment file those that it imports.

    Raises:
      InputError: it has a relative import, or imports a module beside it whose name another module has already taken.
      SyntaxError: it is not Python.
    """
    folder = file.resolve().parent
    for other in _folders:
        if other != folder:
            _set_aside(other, folder)
    sys.modules.update(_aside.pop(folder, {}))
    if folder in _folders:
        _folders.remove(folder)
    _folders.append(folder)
    if str(folder) in sys.path:
        sys.path.remove(str(folder))
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    _check(file, folder, seen=set())


def _set_aside(other: pathlib.Path, folder: pathlib.Path) -> None:
    """Takes the modules in the folder `other` out of the way of those of the same name in `folder`."""
    for name, module in list(sys.modules.items()):
        top = name.partition('.')[0]
        file = file_of(sys.modules.get(top))
        if file is not None and _beside(other, top) == file and _beside(folder, top) is not None:
            _aside.setdefault(other, {})[name] = module
    for name in _aside.get(other, {}):
        sys.modules.pop(name, None)


def _beside(folder: pathlib.Path, top: str) -> pathlib.Path | None:
    """The source file of the module of this name in a folder."""
    candidates = (folder / top / '__init__.py', folder / f'{top}.py')
    return next((path.resolve() for path in candidates if path.is_file()), None)


def _check(file: pathlib.Path, folder: pathlib.Path, seen: set[pathlib.Path]) -> None:
    """Raises InputError for an import of a file that would not give the module beside it."""
    seen.add(file)
    for node in ast.walk(ast.parse(file.read_bytes(), str(file))):
        if isinstance(node, ast.ImportFrom) and node.level and file.parent.resolve() == folder:
            names = ', '.join(alias.name for alias in node.names)
            instead = f'from {node.module} import {names}' if node.module else f'import {names}'
            raise config.InputError(
                f'{file}, line {node.lineno}: a relative import has no meaning here, as an experiment file and the '
                f'modules beside it belong to no package. Write `{instead}`.'
            )
    for name, line in imported(file, ''):
        top = name.partition('.')[0]
        own = _beside(folder, top)
        if own is None or own in seen:
            continue
        _check_taken(top, own, f'{file}, line {line}')
        with contextlib.suppress(SyntaxError):  # To import it says so, if that is ever done.
            _check(own, folder, seen)


def _check_taken(top: str, own: pathlib.Path, where: str) -> None:
    loaded = sys.modules.get(top)
    if loaded is not None and file_of(loaded) != own:
        origin = getattr(loaded, '__file__', None) or 'Python itself'
        raise config.InputError(
            f'{where}: `import {top}` would not import {own.name} beside the file, as a module of this name is already '
            f'loaded from {origin}. Rename {own.name}.'
        )
    if (loaded is None and top in sys.stdlib_module_names) or _is_installed(top):
        terminal.say_once(f'note: {where}: `import {top}` imports {own}, not the installed module {top}.')


def _is_installed(top: str) -> bool:
    elsewhere = [path for path in sys.path if pathlib.Path(path).resolve() in _installed()]
    return importlib.machinery.PathFinder.find_spec(top, elsewhere) is not None
