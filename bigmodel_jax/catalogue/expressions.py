"""Expressions that choose runs: `model.layers >= 12 and seed == 0 and validation/loss < 3`.

Names are those of columns, written as they are: dots and slashes belong to the name, and there is no arithmetic. A name
with other characters is quoted: column("validation set/loss"). Values are numbers, True, False, None, nan, inf, and
text in quotes. There are == != < <= > >= in, not in, and, or, not, and parentheses. Text is compared as text, so that
started >= "2026-03" works, and "Gated" in model.block.ffn looks inside a text.

Of a run that lacks a column, == None holds and no other comparison but != and `not in`. Nothing is evaluated by Python.
"""

import ast
import itertools
import math
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from bigmodel_jax import config
from bigmodel_jax.catalogue import columns
from bigmodel_jax.catalogue.catalogued_run import CataloguedRun

LONGEST, DEEPEST = 10_000, 50
TEXT = r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\''
NAME = r'[^\W\d]\w*(?:[./-]\w+)*'
TOKEN = re.compile(
    rf'(?P<called>(?:column|last|best|best_step)\s*\(\s*(?:{TEXT}|{NAME})\s*\))|(?P<text>{TEXT})|(?P<name>{NAME})'
    r'|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<sign>[<>=!]=|[<>(),\[\]+-])|(?P<space>\s+)',
    re.DOTALL,
)
WORDS = {'and', 'or', 'not', 'in', 'is', 'None', 'True', 'False'}
NUMBERS = {'nan': math.nan, 'inf': math.inf}
EXAMPLE = 'model.layers >= 12 and state == "finished"'
# What people write from habit, and what it is here.
HABITS = {'=': '==', '&&': 'and', '&': 'and', '||': 'or', '|': 'or', '!': 'not'}
PLACEHOLDER = '_{}'


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """A comparison that holds of nothing where the kinds differ or a value is missing."""
    return lambda left, right: kind(left) == kind(right) != 'None' and bool(compare(left, right))


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    return kind(left) == kind(right) and bool(left == right)


def _contains(left: Any, right: Any) -> bool:
    if isinstance(right, tuple):
        return any(_equal(left, each) for each in right)
    return isinstance(left, str) and isinstance(right, str) and left in right


COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: _equal,
    ast.NotEq: lambda left, right: not _equal(left, right),
    ast.Is: _equal,
    ast.IsNot: lambda left, right: not _equal(left, right),
    ast.Lt: _ordered(operator.lt),
    ast.LtE: _ordered(operator.le),
    ast.Gt: _ordered(operator.gt),
    ast.GtE: _ordered(operator.ge),
    ast.In: _contains,
    ast.NotIn: lambda left, right: not _contains(left, right),
}


def kind(each: Any) -> str:
    """What a value is, in the words of a message."""
    if each is None:
        return 'None'
    return 'True or False' if isinstance(each, bool) else 'numbers' if isinstance(each, int | float) else 'text'


class Expression(NamedTuple):
    """An expression, parsed and checked.

    Attributes:
      names: of its columns, by the placeholders that stand for them in `tree`.
    """

    text: str
    tree: ast.expr
    names: dict[str, str]

    def select(self, runs: Sequence[CataloguedRun], known: columns.Names) -> list[CataloguedRun]:
        """The runs of which it holds.

        Raises:
          InputError: no run has a column of this name, or a column is compared with what it never holds.
        """
        for name in self.names.values():
            self._check_name(name, known)
        rows = [{place: columns.value(run, name) for place, name in self.names.items()} for run in runs]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Compare):
                self._check_kinds(node, rows)
        return [run for run, row in zip(runs, rows) if _evaluate(self.tree, row)]

    def _check_name(self, name: str, known: columns.Names) -> None:
        try:
            known.check(name)
        except config.InputError as error:
            bare = '' if '.' in name or '/' in name else f' Text is written in quotes: "{name}".'
            raise config.InputError(f'{self.text!r}: {error}{bare}') from None

    def _check_kinds(self, node: ast.Compare, rows: Sequence[dict[str, Any]]) -> None:
        """Raises InputError where a column holds numbers in all runs, and is compared with text, or the like."""
        sides = [node.left, *node.comparators]
        for left, right in itertools.pairwise(sides):
            for column, other in ((left, right), (right, left)):
                if _is_value(column) or not isinstance(column, ast.Name) or not _is_value(other):
                    continue
                held = {kind(row[column.id]) for row in rows} - {'None'}
                given = _evaluate(other, {})
                wanted = {kind(each) for each in (given if isinstance(given, tuple) else [given])}
                if held and 'None' not in wanted and not held & wanted:
                    raise config.InputError(
                        f'{self.text!r}: {self.names[column.id]} holds {" and ".join(sorted(held))}, and is compared '
                        f'with {" and ".join(sorted(wanted))}.'
                    )


def parse(text: str) -> Expression:
    """Reads an expression.

    Raises:
      InputError: it is none; says what is wrong.
    """
    if len(text) > LONGEST:
        raise config.InputError(f'An expression of {len(text):,} characters; at most {LONGEST:,} are read.')
    names: dict[str, str] = {}
    written = ' '.join(_tokens(text, names))
    try:
        tree = ast.parse(written, mode='eval').body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else 'it is nested too deeply, or a number is too long'
        raise config.InputError(f'{text!r} is not an expression: {reason}. An example: {EXAMPLE}') from None
    _check(tree, text)
    return Expression(text, tree, names)


def _tokens(text: str, names: dict[str, str]) -> Iterator[str]:
    """The words of an expression, with a placeholder for each name of a column."""
    at = 0
    while at < len(text):
        found = TOKEN.match(text, at)
        if found is None:
            rest = next((sign for sign in sorted(HABITS, key=len, reverse=True) if text.startswith(sign, at)), '')
            advice = f' Write {HABITS[rest]}.' if rest else f' An example: {EXAMPLE}'
            raise config.InputError(f'{text!r}: {rest or text[at]!r} has no meaning here.{advice}')
        at, word = found.end(), found[0]
        if found.lastgroup == 'called' or (found.lastgroup == 'name' and word not in WORDS | NUMBERS.keys()):
            yield next((place for place, name in names.items() if name == _column(word)), None) or _new(word, names)
        elif found.lastgroup != 'space':
            yield repr(float(word)) if found.lastgroup == 'number' and not word.isdecimal() else word


def _new(word: str, names: dict[str, str]) -> str:
    place = PLACEHOLDER.format(len(names))
    names[place] = _column(word)
    return place


def _column(word: str) -> str:
    """'best( "validation/loss" )' -> 'best(validation/loss)', and 'column("x y")' -> 'x y'."""
    called, _, rest = word.partition('(')
    if not rest:
        return word
    inner = rest.rpartition(')')[0].strip()
    if inner[0] in '"\'':
        try:
            inner = ast.literal_eval(inner)
        except (SyntaxError, ValueError):
            raise config.InputError(
                f'{word!r}: {inner} is not text that can be read, since a backslash has no meaning here.'
            ) from None
    return str(inner) if called.strip() == 'column' else f'{called.strip()}({inner})'


def _check(tree: ast.expr, text: str) -> None:
    """Raises InputError for what an expression may not hold, or is nested too deeply."""
    level: list[ast.AST] = [tree]
    for _ in range(DEEPEST):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    if level:
        raise config.InputError(f'{text[:80]!r} ...: more than {DEEPEST} parentheses within one another.')
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and not _is_known(node):
            raise config.InputError(f'{text!r}: {_said(node)} cannot be used here. An example: {EXAMPLE}')


def _is_known(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp):
        is_number = isinstance(node.operand, ast.Constant) and kind(node.operand.value) == 'numbers'
        infinite = isinstance(node.operand, ast.Name) and node.operand.id in NUMBERS
        return isinstance(node.op, ast.Not) or is_number or infinite
    if isinstance(node, ast.Tuple | ast.List):
        return all(isinstance(each, ast.Constant | ast.UnaryOp) for each in node.elts)
    return isinstance(node, ast.BoolOp | ast.Compare | ast.Name | ast.Constant)


def _is_value(node: ast.expr) -> bool:
    """Whether a part of an expression is the same for every run."""
    return not any(isinstance(each, ast.Name) and each.id not in NUMBERS for each in ast.walk(node))


def _said(node: ast.expr) -> str:
    names = {
        ast.BinOp: 'arithmetic',
        ast.UnaryOp: 'a sign before something that is not a number',
        ast.Call: 'a function',
    }
    return names.get(type(node), 'a list of anything but values')


def _evaluate(node: ast.expr, row: dict[str, Any]) -> Any:
    match node:
        case ast.Constant(value=found):
            return found
        case ast.Name(id=place):
            return NUMBERS[place] if place in NUMBERS else row[place]
        case ast.UnaryOp(op=ast.Not()):
            return not _evaluate(node.operand, row)
        case ast.UnaryOp():
            number = _evaluate(node.operand, row)
            return -number if isinstance(node.op, ast.USub) else number
        case ast.BoolOp(op=ast.And()):
            return all(_evaluate(each, row) for each in node.values)
        case ast.BoolOp():
            return any(_evaluate(each, row) for each in node.values)
        case ast.Tuple() | ast.List():
            return tuple(_evaluate(each, row) for each in node.elts)
        case ast.Compare():
            sides = [_evaluate(each, row) for each in (node.left, *node.comparators)]
            return all(COMPARISONS[type(op)](*pair) for op, pair in zip(node.ops, itertools.pairwise(sides)))
    raise AssertionError(f'{type(node).__name__} was checked')
