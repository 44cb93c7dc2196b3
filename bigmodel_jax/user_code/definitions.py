"""What defines a class of a person's own: the code that it reaches, without comments and the rest of its file."""

import ast
import hashlib
import sys
import types
from collections.abc import Iterable, Iterator

from bigmodel_jax.user_code import own_modules


def hashes(classes: Iterable[type]) -> dict[str, str]:
    """'module:Name' -> SHA-256 of each definition of a person's own that the classes reach, themselves included.

    A definition reaches what its code names: other definitions of its module, and all of every module of a person's own
    that it imports. Comments, docstrings and the layout of the code have no part in it. Names that are only made up at
    run time, as by getattr(), are not seen.
    """
    found: dict[str, str] = {}
    for cls in sorted(classes, key=lambda each: f'{each.__module__}:{each.__qualname__}'):
        module = sys.modules.get(cls.__module__)
        if module is not None and own_modules.file_of(module) is not None:
            _collect(module, cls.__qualname__.partition('.')[0], found)
    return found


def _collect(module: types.ModuleType, name: str, found: dict[str, str]) -> None:
    """Adds the definitions of `name` in a module and all that they reach."""
    key = f'{module.__name__}:{name}'
    file = own_modules.file_of(module)
    if key in found or file is None:
        return
    statements = [each for each in ast.parse(file.read_bytes()).body if name in _bound(each)]
    if not statements:
        return
    found[key] = hashlib.sha256('\n'.join(ast.unparse(_bare(each)) for each in statements).encode()).hexdigest()
    used = {each.id for statement in statements for each in ast.walk(statement) if isinstance(each, ast.Name)}
    for other in sorted(used - {name}):
        _collect(module, other, found)
    for imported in sorted(_imported(statements)):
        _collect_whole(imported, found)


def _collect_whole(name: str, found: dict[str, str]) -> None:
    """Adds a module of a person's own, with the modules of their own that it imports."""
    module = sys.modules.get(name)
    if module is None:
        return
    for each, file in sorted(own_modules.closure([module]).items()):
        found[each] = hashlib.sha256(ast.unparse(_bare(ast.parse(file.read_bytes()))).encode()).hexdigest()


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement of a module gives a meaning."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition('.')[0] for alias in statement.names}
    return {each.id for each in ast.walk(statement) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}


def _imported(statements: Iterable[ast.stmt]) -> Iterator[str]:
    """The modules that statements may import."""
    for statement in statements:
        for node in ast.walk(statement):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module
                yield from (f'{node.module}.{alias.name}' for alias in node.names)


def _bare(node: ast.AST) -> ast.AST:
    """The code without docstrings; ast.unparse() leaves out comments and the layout by itself."""
    for each in ast.walk(node):
        body = getattr(each, 'body', None)
        if isinstance(body, list) and len(body) > 1 and _is_text(body[0]):
            each.body = body[1:]  # type: ignore[attr-defined]
    return node


def _is_text(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
