"""Lines of a person's own code that may give another value on each host, or each time."""

import ast
import pathlib
import types
from collections.abc import Iterable, Iterator

from bigmodel_jax.launch.doctor.rehearsal import instruments, records
from bigmodel_jax.user_code import own_modules

MOST = 3
# Ends of dotted names: of a clock, a host, an environment, chance, and an order that nobody promises.
CLOCK = ('time.time', 'time_ns', 'monotonic', 'perf_counter', 'datetime.now', 'utcnow', 'today', 'strftime')
HOST = ('gethostname', 'uname', 'platform.node', 'getpid', 'process_index', 'processes.index', 'local_devices')
ENVIRONMENT = ('os.environ', 'getenv', 'environ.get')
CHANCE = (
    *(f'random.{name}' for name in ('random', 'randint', 'randrange', 'choice', 'shuffle', 'permutation', 'uniform')),
    *(f'random.{name}' for name in ('normal', 'gauss', 'sample', 'rand', 'randn', 'seed')),
    'default_rng', 'uuid4', 'uuid1', 'urandom', 'token_hex',
)  # fmt: skip
ORDER = ('hash', 'set', 'listdir', 'scandir', 'iterdir', 'glob', 'rglob')
CALLBACKS = ('pure_callback', 'io_callback')
WITH_KEYS = ('jax.random.', 'random.key')  # They give the same for the same key.
ALL = (*CLOCK, *HOST, *ENVIRONMENT, *CHANCE, *ORDER)


def found(modules: Iterable[types.ModuleType], words: Iterable[str] = ALL) -> list[records.CodeLine]:
    """At most MOST lines of the modules, and of those that they import, in which one of `words` is used."""
    places = [place for file in own_modules.closure(modules).values() for place in _in(file, tuple(words))]
    return list(dict.fromkeys(places))[:MOST]


def _in(file: pathlib.Path, words: tuple[str, ...]) -> Iterator[records.CodeLine]:
    tree = ast.parse(file.read_bytes())
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call | ast.Subscript):
            continue
        name = _dotted(node.func if isinstance(node, ast.Call) else node.value)
        is_seeded = name.endswith('default_rng') and isinstance(node, ast.Call) and bool(node.args)
        if name.startswith(WITH_KEYS) or is_seeded:
            continue
        if any(name == word or name.endswith(f'.{word}') for word in words):
            yield instruments.place(str(file), node.lineno, _inside(tree, node.lineno))


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f'{_dotted(node.value)}.{node.attr}'
    return node.id if isinstance(node, ast.Name) else ''


def _inside(tree: ast.Module, line: int) -> str:
    """The name of the innermost function around a line; '' outside of all."""
    around = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.lineno <= line <= (node.end_lineno or 0)
    ]
    return max(around, key=lambda node: node.lineno).name if around else ''
