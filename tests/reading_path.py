"""How far a reader has to go: the files that a batch passes through, and the way from a verb through the package.

python tests/reading_path.py                 prints the figures of this checkout
python tests/reading_path.py --root DIR      of another one

The way from a verb is a walk over the syntax trees, without running anything. It starts at a function, follows the
calls in its body in their order, depth first, and each function once. A call is followed if its target can be named: a
function or class of the package, a method of the same class, or a method of an object whose class is said on the spot,
by an annotation or because it was made there. A return is a call that leads from one file into another of the same
folder that the walk has left before; calls into other folders are calls of a vocabulary, and do not count. The imports
of a file are the modules of the package that it imports.
"""

import argparse
import ast
import pathlib
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = 'bigmodel_jax'
# What a batch passes through, in the order in which README.md tells a newcomer to read.
PATH = (
    'experiments/quickstart.py',
    'bigmodel_jax/models/decoder.py',
    'bigmodel_jax/layers/blocks.py',
    'bigmodel_jax/layers/attention.py',
    'bigmodel_jax/objectives/language.py',
    'bigmodel_jax/objectives/objective.py',
    'bigmodel_jax/train/step.py',
    'bigmodel_jax/train/gradients.py',
    'bigmodel_jax/train/state.py',
    'bigmodel_jax/train/loop.py',
    'bigmodel_jax/parallel/sharding.py',
)
LINES = 2_000
LOOP = 'bigmodel_jax/train/loop.py'
# Where the files of the path were in older versions; a walk starts in the first of the files that exists.
OLDER = {'bigmodel_jax/parallel/sharding.py': 'bigmodel_jax/sharding.py'}
VERBS = {
    'train': (('bigmodel_jax/train/loop.py',), 'train'),
    'replay': (('bigmodel_jax/reproduce/replay.py', 'bigmodel_jax/runs/replay.py'), 'replay'),
}


class File:
    """The definitions of a file, and what the names mean that it imports."""

    def __init__(self, root: pathlib.Path, path: str):
        self.path, tree = path, ast.parse((root / path).read_text())
        self.definitions = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        self.modules: dict[str, str] = {}  # Name here -> file of the module.
        self.names: dict[str, tuple[str, str]] = {}  # Name here -> file, and name there.
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or '').partition('.')[0] == PACKAGE:
                self._import(root, node)

    def _import(self, root: pathlib.Path, node: ast.ImportFrom) -> None:
        folder = str(node.module).replace('.', '/')
        for alias in node.names:
            here, module = alias.asname or alias.name, f'{folder}/{alias.name}.py'
            if (root / module).exists():
                self.modules[here] = module
            elif (root / f'{folder}.py').exists():
                self.names[here] = (f'{folder}.py', alias.name)

    @property
    def imports(self) -> set[str]:
        """The files of the modules of the package that it imports."""
        return {*self.modules.values(), *(path for path, _ in self.names.values())}

    def target(self, node: ast.AST | None) -> tuple[str, str] | None:
        """The file, and the name there, of what an expression such as `function` or `module.Class` names."""
        if isinstance(node, ast.Name):
            return (self.path, node.id) if node.id in self.definitions else self.names.get(node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in self.modules:
            return self.modules[node.value.id], node.attr
        return None


class Walk:
    """The way from a function through the package."""

    def __init__(self, root: pathlib.Path):
        self._root, self._files = root, dict[str, File]()
        self.entered: list[str] = []  # Files, in the order in which the walk came to them.
        self.returns: list[tuple[str, str, str]] = []  # From which file, into which, and to what.
        self._followed: set[tuple[str, str]] = set()

    def follow(self, path: str, name: str, came_from: str | None = None) -> None:
        """Follows the function, class or method 'Class.method' called `name` of a file."""
        file = self._file(path)
        bodies = list(_bodies(file, name))
        if (path, name) in self._followed or not bodies:
            return
        self._followed.add((path, name))
        folder = str(pathlib.PurePath(path).parent)
        if path in self.entered and came_from not in (None, path) and came_from.startswith(f'{folder}/'):
            self.returns.append((came_from, path, name))
        self.entered += [] if path in self.entered else [path]
        for node in bodies:
            objects = self._objects(file, name, node)
            for call in _calls(node):
                self._call(file, objects, call)

    def _file(self, path: str) -> File:
        if path not in self._files:
            self._files[path] = File(self._root, path)
        return self._files[path]

    def _call(self, file: File, objects: dict[str, tuple[str, str]], call: ast.Call) -> None:
        target = file.target(call.func)
        if target is None and isinstance(call.func, ast.Attribute):
            of = objects.get(ast.unparse(call.func.value))
            target = None if of is None else (of[0], f'{of[1]}.{call.func.attr}')
        if target is not None:
            self.follow(*target, file.path)

    def _objects(self, file: File, name: str, function: ast.FunctionDef) -> dict[str, tuple[str, str]]:
        """Variable, or attribute of self or of one -> its class, as far as that is said."""
        owner = name.partition('.')[0]
        found = {'self': (file.path, owner)} if isinstance(file.definitions.get(owner), ast.ClassDef) else {}
        nodes: list[ast.AST] = [function]
        if found:
            nodes += _bodies(file, owner)
        for node in nodes:
            found |= _made(file, node)
        for variable, (path, made) in list(found.items()):
            of = self._file(path)
            found |= {f'{variable}.{field}': kind for field, kind in _fields(of, made).items()}
        return found


def _made(file: File, function: ast.AST) -> dict[str, tuple[str, str]]:
    """Name -> class, of parameters with an annotation and of what is assigned from a call of a class."""
    pairs: list[tuple[ast.AST, ast.AST | None]] = []
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            pairs.append((ast.Name(node.arg), node.annotation))
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            pairs.append((node.targets[0], node.value.func))
        elif isinstance(node, ast.withitem) and isinstance(node.context_expr, ast.Call) and node.optional_vars:
            pairs.append((node.optional_vars, node.context_expr.func))
    found = {ast.unparse(variable): file.target(kind) for variable, kind in pairs}
    return {name: kind for name, kind in found.items() if kind is not None}


def _fields(file: File, name: str) -> dict[str, tuple[str, str]]:
    """Field -> class, of a class whose fields are declared with their types."""
    node = file.definitions.get(name)
    if not isinstance(node, ast.ClassDef):
        return {}
    declared = [each for each in node.body if isinstance(each, ast.AnnAssign)]
    found = {ast.unparse(each.target): file.target(each.annotation) for each in declared}
    return {field: kind for field, kind in found.items() if kind is not None}


def _bodies(file: File, name: str) -> Iterator[ast.FunctionDef]:
    """The function of that name; of a class what runs when one is made and entered."""
    first, _, method = name.partition('.')
    found = file.definitions.get(first)
    if isinstance(found, ast.FunctionDef) and not method:
        yield found
    elif isinstance(found, ast.ClassDef):
        wanted = (method,) if method else ('__post_init__', '__init__', '__enter__', '__exit__')
        yield from (node for node in found.body if isinstance(node, ast.FunctionDef) and node.name in wanted)


def _calls(node: ast.AST) -> list[ast.Call]:
    """The calls in a function in the order of their lines."""
    found = [inner for inner in ast.walk(node) if isinstance(inner, ast.Call)]
    return sorted(found, key=lambda call: (call.lineno, call.col_offset))


def lines(root: pathlib.Path = ROOT) -> dict[str, int]:
    """The lines of each file on the path."""
    paths = [path if (root / path).exists() else OLDER.get(path, path) for path in PATH]
    return {path: (root / path).read_text().count('\n') for path in paths if (root / path).exists()}


def walk(root: pathlib.Path, verb: str) -> Walk:
    """The walk from the function of a verb."""
    paths, name = VERBS[verb]
    found = Walk(root)
    found.follow(next(path for path in paths if (root / path).exists()), name)
    return found


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--root', type=pathlib.Path, default=ROOT)
    root = parser.parse_args().root
    found = lines(root)
    text = [f'{count:5}  {path}' for path, count in found.items()]
    text.append(f'{sum(found.values()):5}  lines in {len(found)} files that a batch passes through')
    text.append(f'{len(File(root, LOOP).imports):5}  modules of the package imported by {LOOP}')
    for verb in VERBS:
        way = walk(root, verb)
        own = [each for each in way.returns if each[0] == way.entered[0]]
        text.append(
            f'{len(way.returns):5}  returns on the way of {verb}, through {len(way.entered)} files; '
            f'{len(own)} of them from {way.entered[0]}'
        )
    sys.stdout.write('\n'.join(text) + '\n')


if __name__ == '__main__':
    main()
