"""The rules of the style that a machine can check. Standard library only.

Each rule is a function from a source file to (line, what is wrong). tests/test_style.py applies them.
"""

import ast
import functools
import io
import pathlib
import re
import tokenize
from collections.abc import Iterator
from typing import NamedTuple

import bigmodel_jax

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = 'bigmodel_jax/'
FUNCTION_LINES, FILE_LINES, NESTING, POSITIONAL, FIELDS = 50, 400, 3, 4, 12
MORE_FIELDS = {'Experiment': 19}  # The root of the tree: each of its fields is a part of a run.
JUNK_DRAWERS = {'util', 'utils', 'common', 'helper', 'helpers', 'misc'}
PICKLES = {'pickle', 'cloudpickle', 'dill', 'joblib', 'marshal', 'shelve'}
# The files whose purpose is to talk to the person at the terminal; the others return or raise.
SPEAKERS = ('__main__.py', 'cli/', 'progress.py', 'terminal.py')

Problems = Iterator[tuple[int, str]]
Function = ast.FunctionDef | ast.AsyncFunctionDef
COMPOUND = (
    ast.If, ast.For, ast.While, ast.With, ast.Try, ast.TryStar, ast.Match, ast.AsyncFor, ast.AsyncWith,
)  # fmt: skip


class Source(NamedTuple):
    """A Python file: its path in the repository, and what is in it."""

    path: str
    text: str
    tree: ast.Module
    # All of the tree: to walk it anew for every rule would take most of the time.
    nodes: tuple[ast.AST, ...]

    @classmethod
    def of(cls, path: str, text: str) -> 'Source':
        tree = ast.parse(text)
        return cls(path, text, tree, tuple(ast.walk(tree)))

    def find(self, *kinds: type) -> Iterator[ast.AST]:
        return (node for node in self.nodes if isinstance(node, kinds))

    @property
    def functions(self) -> Iterator[Function]:
        return self.find(ast.FunctionDef, ast.AsyncFunctionDef)


def python_files(*folders: str) -> list[str]:
    """Paths of the Python files in folders of the repository; those without a suffix are known by their first line."""
    found = []
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob('*')):
        if '__pycache__' not in path.parts and path.is_file() and (path.suffix == '.py' or is_python_script(path)):
            found.append(path.relative_to(ROOT).as_posix())
    return found


def is_python_script(path: pathlib.Path) -> bool:
    return not path.suffix and re.match(rb'#!.*python', path.read_bytes()[:100]) is not None


def read(path: str) -> Source:
    return Source.of(path, (ROOT / path).read_text(encoding='utf-8'))


# ---- sizes ------------------------------------------------------------------------------------------------------


def files_fit(source: Source) -> Problems:
    lines = source.text.count('\n')
    if lines > FILE_LINES:
        yield FILE_LINES, f'{lines} lines; at most {FILE_LINES}'


def functions_fit(source: Source) -> Problems:
    for node in source.functions:
        lines = node.end_lineno - node.lineno + 1
        if lines > FUNCTION_LINES:
            yield node.lineno, f'{node.name} has {lines} lines; at most {FUNCTION_LINES}'


def nesting_is_shallow(source: Source) -> Problems:
    for node in source.functions:
        for line in too_deep(node.body, 1):
            yield line, f'{node.name} nests deeper than {NESTING}'


def too_deep(body: list[ast.stmt], depth: int) -> Iterator[int]:
    """Lines of the compound statements that stand deeper than NESTING; a nested function starts anew."""
    for node in body:
        if not isinstance(node, COMPOUND):
            continue
        if depth > NESTING:
            yield node.lineno
            continue
        for block in blocks(node):
            is_elif = isinstance(node, ast.If) and block is node.orelse and [type(part) for part in block] == [ast.If]
            yield from too_deep(block, depth + (not is_elif))


def blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The blocks of a compound statement: its body, else, finally, and those of its handlers or cases."""
    for _, value in ast.iter_fields(node):
        if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
            yield value
        for part in value if isinstance(value, list) else []:
            if isinstance(part, ast.ExceptHandler | ast.match_case):
                yield part.body


def positional_arguments_are_few(source: Source) -> Problems:
    for node in source.functions:
        names = [arg.arg for arg in node.args.posonlyargs + node.args.args if arg.arg not in ('self', 'cls')]
        # pytest gives a test its arguments by name.
        if len(names) > POSITIONAL and not node.name.startswith('test_'):
            yield node.lineno, f'{node.name} has {len(names)} positional arguments; at most {POSITIONAL}'


def configs_are_small(source: Source) -> Problems:
    for node in source.find(ast.ClassDef):
        if not any('frozen=True' in ast.unparse(decorator) for decorator in node.decorator_list):
            continue
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
        fields = [item for item in fields if 'ClassVar' not in ast.unparse(item.annotation)]
        most = MORE_FIELDS.get(node.name, FIELDS)
        if len(fields) > most:
            yield node.lineno, f'{node.name} has {len(fields)} fields; at most {most}'


# ---- axis letters -----------------------------------------------------------------------------------------------


@functools.cache
def legend() -> frozenset[str]:
    """The axis letters, read from the package's docstring, their one home."""
    lines = [line for line in bigmodel_jax.__doc__.splitlines() if line.startswith('  ')]
    return frozenset(letter for line in lines for letter in re.findall(r'(?:^|\s)\s([A-Z])  (?=\w)', line))


def axes(name: str) -> str | None:
    """The axes in a name: 'x_BTD' -> 'BTD'. None for words, CONSTANTS, _Classes, and names in all lower case."""
    quantity, _, last = name.rpartition('_')
    if not quantity or name.isupper() or not re.fullmatch('[A-Za-z1]+', last) or not re.search('[A-Z]', last):
        return None
    return last


def letters_are_in_the_legend(source: Source) -> Problems:
    for node in source.find(ast.Name, ast.arg, ast.Attribute, ast.keyword):
        name = getattr(node, 'id', None) or getattr(node, 'arg', None) or getattr(node, 'attr', None) or ''
        unknown = set((axes(name) or '').upper()) - {'1'} - legend()
        if unknown:
            yield node.lineno, f'{name}: {", ".join(sorted(unknown))} is not in the legend of bigmodel_jax/__init__.py'


def einsums_match_their_names(source: Source) -> Problems:
    targets = {}
    for node in source.find(ast.Assign, ast.AnnAssign):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        targets[core(node.value)] = target.id if isinstance(target, ast.Name) else ''
    for node in source.find(ast.Call):
        if not (isinstance(node.func, ast.Attribute) and node.func.attr == 'einsum'):
            continue
        subscripts = node.args[0].value if isinstance(node.args[0], ast.Constant) else ''
        if '->' not in str(subscripts):
            yield node.lineno, 'einsum needs literal subscripts with ->'
            continue
        inputs, output = subscripts.replace(' ', '').split('->')
        names = [getattr(core(operand), 'id', '') for operand in node.args[1:]]
        pairs = [*zip(names, inputs.split(',')), (targets.get(node, ''), output)]
        for name, term in pairs:
            if axes(name) not in (None, term):
                yield node.lineno, f'{name} stands for {term!r} in einsum({subscripts!r})'


def core(node: ast.expr | None) -> ast.expr | None:
    """The expression that decides the axes: without casts, constraints, and factors that are not arrays."""
    while True:
        if isinstance(node, ast.BinOp):
            node = node.left if isinstance(node.left, ast.Call | ast.BinOp) else node.right
        elif isinstance(node, ast.Call) and getattr(node.func, 'attr', '') == 'astype':
            node = node.func.value
        elif isinstance(node, ast.Call) and getattr(node.func, 'attr', '') == 'constrain':
            node = node.args[0]
        else:
            return node


# ---- signatures and docstrings ----------------------------------------------------------------------------------


def public(source: Source) -> Iterator[tuple[ast.Module | ast.ClassDef, Function | ast.ClassDef]]:
    """Public classes and functions of the package with their owner; nothing that stands inside a function."""
    owners = [source.tree] if source.path.startswith(PACKAGE) else []
    for owner in owners:
        for node in owner.body:
            named = isinstance(node, Function | ast.ClassDef)
            if not named or (node.name.startswith('_') and not node.name.endswith('__')):
                continue
            if isinstance(node, ast.ClassDef):
                owners.append(node)
            yield owner, node


def signatures_are_annotated(source: Source) -> Problems:
    for owner, node in public(source):
        if isinstance(node, ast.ClassDef):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        bare = [arg.arg for arg in arguments if arg and not arg.annotation]
        if bare[:1] in (['self'], ['cls']) and isinstance(owner, ast.ClassDef):
            bare = bare[1:]
        if not node.returns and node.name != '__init__':
            bare.append('the result')
        if bare:
            yield node.lineno, f'{node.name} does not annotate {", ".join(bare)}'


def docstrings_are_there(source: Source) -> Problems:
    """What is public says what it is for, except where one statement says it, or the interface that it implements.

    `setup` is Flax's place to declare submodules, as __init__ is Python's.
    """
    if source.path.startswith(PACKAGE) and source.text and not ast.get_docstring(source.tree):
        yield 1, 'the module has no docstring'
    for owner, node in public(source):
        special = node.name.startswith('__') or node.name == 'setup' or short(node)
        if not special and not ast.get_docstring(node) and not overrides(owner, node.name):
            yield node.lineno, f'{node.name} has no docstring'


def short(node: Function | ast.ClassDef) -> bool:
    return isinstance(node, Function) and len(node.body) == 1


def overrides(owner: ast.Module | ast.ClassDef, method: str) -> bool:
    """Whether a base class, found by its name in the package, has `method`, and so the sentence about it."""
    bases = [ast.unparse(base).rpartition('.')[2] for base in getattr(owner, 'bases', [])]
    parents = [parent for base in bases for _, parent in classes().get(base, []) if parent is not owner]
    methods = [item.name for parent in parents for item in parent.body if isinstance(item, Function)]
    return method in methods or any(overrides(parent, method) for parent in parents)


@functools.cache
def classes() -> dict[str, list[tuple[str, ast.ClassDef]]]:
    """Every class of the package by its bare name, and where it stands."""
    found = {}
    for path in python_files('bigmodel_jax'):
        for node in read(path).find(ast.ClassDef):
            found.setdefault(node.name, []).append((path, node))
    return found


# ---- what is not written ----------------------------------------------------------------------------------------


def failures_are_not_swallowed(source: Source) -> Problems:
    for node in source.find(ast.ExceptHandler):
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        broad = [kind for kind in caught if kind is None or ast.unparse(kind) in ('Exception', 'BaseException')]
        last = node.body[-1]
        passed_on = isinstance(last, ast.Raise) and (last.exc is None or last.cause is not None)
        if broad and not passed_on:
            yield node.lineno, 'a broad except that does not end in raise, or raise ... from; name what can happen'


def comments_promise_nothing(source: Source) -> Problems:
    if not re.search('TODO|FIXME|XXX|HACK', source.text):
        return  # Tokens take long.
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        promise = token.type == tokenize.COMMENT and re.search(r'\b(TODO|FIXME|XXX|HACK)\b(?!.*#\d)', token.string)
        if promise:
            yield token.start[0], f'{promise[1]} without the number of an issue (#12)'


def imported(source: Source) -> Iterator[tuple[int, str]]:
    """Top-level names of what a file imports, with the line."""
    for node in source.find(ast.Import, ast.ImportFrom):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or '']
        yield from ((node.lineno, name.partition('.')[0]) for name in names)


def nothing_is_mocked(source: Source) -> Problems:
    for node in source.find(ast.Name, ast.Attribute, ast.arg, ast.alias):
        name = getattr(node, 'id', None) or getattr(node, 'attr', None) or getattr(node, 'arg', None) or node.name
        if name.rpartition('.')[2] in ('mock', 'mocker', 'Mock', 'MagicMock'):
            yield node.lineno, f'{name}: test against the real thing'


def nothing_is_pickled(source: Source) -> Problems:
    for line, name in imported(source):
        if name in PICKLES:
            yield line, f'{name} runs code when it reads; use JSON, NumPy or Orbax'


def files_are_one_idea(source: Source) -> Problems:
    if pathlib.PurePath(source.path).stem in JUNK_DRAWERS:
        yield 1, 'a file is named after its one idea'


def libraries_are_silent(source: Source) -> Problems:
    inside = source.path.removeprefix(PACKAGE)
    if inside == source.path or any(speaker in inside for speaker in SPEAKERS):
        return
    for node in source.find(ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id == 'print':
            yield node.lineno, f'print() outside of {", ".join(SPEAKERS)}'


RULES = [
    files_fit, functions_fit, nesting_is_shallow, positional_arguments_are_few, configs_are_small,
    letters_are_in_the_legend, einsums_match_their_names, signatures_are_annotated, docstrings_are_there,
    failures_are_not_swallowed, comments_promise_nothing, nothing_is_mocked, nothing_is_pickled, files_are_one_idea,
    libraries_are_silent,
]  # fmt: skip
