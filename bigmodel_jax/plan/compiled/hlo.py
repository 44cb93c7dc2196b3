"""A compiled program as the compiler prints it (HLO text), read back: instructions, and how often each is executed.

The text is that of `compiled.as_text()`; its grammar: https://openxla.org/xla/operation_semantics.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

HEADER = re.compile(r'(ENTRY )?%?([\w.\-]+) \(.*\{$')
LINE = re.compile(r'  (?:ROOT )?%?[\w.\-]+ = ')
NAME = re.compile(r'%([\w.\-]+)')
BARE_NAME = re.compile(r'[\w.\-]+')
ARRAY = re.compile(r'([a-z]\w*)\[([\d,<=]*)\](?:\{([^{}]*)\})?')
PARENTHESIS = re.compile(r'[()]')
SCALAR = re.compile(r'[su]\d+\[\]')
MEMORY = re.compile(r'S\((\d+)\)')
TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
CALLED = re.compile(r'(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)')
BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
BITS = {'pred': 8, 'token': 0, 'opaque': 0}
# What these apply is one scalar operation for each element, not a part of the program.
REDUCERS = ('reduce', 'all-reduce', 'all-reduce-start', 'reduce-scatter', 'scatter', 'sort', 'reduce-window', 'map')


class HloArray(NamedTuple):
    """One array of a result. Memory space 0 is the main memory (HBM); 5 is the host's; the others are on the chip."""

    dtype: str
    shape: tuple[int, ...]
    space: int

    @property
    def bytes(self) -> int:
        """Of the numbers alone, without padding."""
        digits = re.search(r'\d+', self.dtype)
        bits = BITS[self.dtype] if self.dtype in BITS else int(digits[0]) if digits else 0
        return -(-math.prod(self.shape) * bits // 8)


@functools.lru_cache(maxsize=65_536)
def arrays(text: str) -> tuple[HloArray, ...]:
    """The arrays of a result type such as '(bf16[8,128]{1,0:T(8,128)S(1)}, u32[])', nested tuples flattened."""
    found = []
    for dtype, sizes, layout in ARRAY.findall(text):
        shape = tuple(int(size.lstrip('<=')) for size in sizes.split(',') if size)
        space = MEMORY.search(layout)
        found.append(HloArray(dtype, shape, int(space[1]) if space else 0))
    return tuple(found)


def size_bytes(text: str) -> int:
    """Bytes of all arrays of a result type."""
    return sum(array.bytes for array in arrays(text))


@dataclasses.dataclass(frozen=True, slots=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    type: str  # Of the result, as printed.
    operands: tuple[str, ...]
    argument: str  # What stands between the parentheses.
    attributes: str  # What stands behind them.
    root: bool

    @property
    def called(self) -> list[str]:
        """The computations that are executed with this one, except those of REDUCERS."""
        if self.opcode in REDUCERS or '=' not in self.attributes:
            return []
        branches = BRANCHES.search(self.attributes)
        return CALLED.findall(self.attributes) + (NAME.findall(branches[1]) if branches else [])

    def attribute(self, name: str) -> str | None:
        """The name that stands behind `name=`."""
        found = re.search(rf'\b{name}=%?([\w.\-]+)', self.attributes)
        return found[1] if found else None


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: its computations by name, each with its instructions in the order in which they run."""

    computations: dict[str, Computation]
    entry: str

    def root(self, computation: str) -> Instruction:
        return next(each for each in self.computations[computation].values() if each.root)


def parse(text: str) -> Module:
    """The program that `compiled.as_text()` printed.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = None, None
    for line in text.splitlines():
        # The numbers of a constant may go on over lines that look like nothing else, and one may begin with '}}'.
        if current is not None and LINE.match(line):
            instruction = _instruction(line)
            current[instruction.name] = instruction
        elif line == '}':
            current = None
        elif header := HEADER.match(line):
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
    if entry is None:
        raise ValueError('The text of the compiled program has no ENTRY computation.')
    return Module(computations, entry)


def _instruction(line: str) -> Instruction:
    left, _, right = line.partition(' = ')
    type_end = _closing(right, 0) if right.startswith('(') else right.index(' ')
    opcode_end = right.index('(', type_end)
    end = _closing(right, opcode_end)
    argument = right[opcode_end + 1 : end - 1]
    return Instruction(
        name=left.split('%')[-1].strip().removeprefix('ROOT '),
        opcode=right[type_end:opcode_end].strip(),
        type=right[:type_end],
        operands=tuple(NAME.findall(argument)) if '%' in argument else tuple(_bare(argument)),
        argument=argument,
        attributes=right[end:],
        root='ROOT ' in left,
    )


def _bare(argument: str) -> Iterator[str]:
    """Names printed without a percent sign."""
    for part in argument.split(','):
        name = part.split()[-1] if part.strip() else ''
        if BARE_NAME.fullmatch(name) and not name[0].isdigit():
            yield name


def _closing(text: str, start: int) -> int:
    """The position behind the parenthesis that closes the one at `start`."""
    depth = 0
    for match in PARENTHESIS.finditer(text, start):
        depth += 1 if match[0] == '(' else -1
        if depth == 0:
            return match.end()
    return len(text)


# ---- asynchronous pieces --------------------------------------------------------------------------------------------

# A collective that runs beside other fusions stands in each of them; the first starts it, the last waits for its end.
STARTS, ENDS = 'custom_call_target="AsyncCollectiveStart"', 'custom_call_target="AsyncCollectiveDone"'
GOES_ON = 'async_collective_fusion_config'


def starts(computation: Computation) -> bool:
    """Whether an asynchronous collective begins in a computation."""
    return any(STARTS in each.attributes for each in computation.values())


def ends(computation: Computation) -> bool:
    """Whether a computation waits for the end of an asynchronous collective."""
    return any(ENDS in each.attributes for each in computation.values())


def goes_on(computation: Computation, instruction: Instruction) -> bool:
    """Whether an instruction is a collective that began in an earlier computation."""
    return GOES_ON in instruction.attributes and not starts(computation)


# ---- how often ----------------------------------------------------------------------------------------------------


class Element(NamedTuple):
    """Element `place` of a loop's state, plus `offset`."""

    place: int
    offset: int


# An integer; an element of a loop's state; a tuple of such; None where it is none of these.
Value = Any
SAME = ('copy', 'convert', 'bitcast', 'copy-start', 'copy-done', 'opt-barrier', 'reshape', 'broadcast')


def executions(module: Module) -> dict[str, int]:
    """How often each computation is executed when the program runs once.

    A loop's body counts as often as the loop runs, which the compiler says (CPU, GPU) or follows from the loop's start,
    step and bound (TPU). A loop that ends when the data say so counts once; of a conditional, each branch does.
    """
    times: dict[str, int] = collections.defaultdict(int)

    def visit(name: str, parameters: Sequence[Value], factor: int) -> None:
        times[name] += factor
        known = _values(module, name, parameters)
        for instruction in module.computations[name].values():
            if instruction.opcode == 'while':
                body = _part(instruction, 'body')
                count, state = _loop(module, instruction, known.get(instruction.operands[0]))
                visit(body, (state,), factor * count)
            elif not instruction.opcode.endswith(('-done', '-update')):
                for called in instruction.called:
                    visit(called, [known.get(operand) for operand in instruction.operands], factor)

    visit(module.entry, (), 1)
    return dict(times)


def _part(loop: Instruction, name: str) -> str:
    found = loop.attribute(name)
    assert found is not None
    return found


def _loop(module: Module, loop: Instruction, state: Value) -> tuple[int, Value]:
    """How often a loop runs, and of its state the elements that it never changes."""
    start = _elements(state)
    symbols = tuple(Element(index, 0) for index in range(len(start)))
    body, condition = _part(loop, 'body'), _part(loop, 'condition')
    after = _elements(_values(module, body, (symbols,)).get(module.root(body).name))
    kept = tuple(
        value if index < len(after) and after[index] == Element(index, 0) and isinstance(value, int) else None
        for index, value in enumerate(start)
    )
    known = TRIP_COUNT.search(loop.attributes)
    if known:
        return int(known[1]), kept
    return _trip_count(_compared(module, condition, (symbols,)), start, after), kept


def _elements(value: Value) -> tuple[Value, ...]:
    return value if isinstance(value, tuple) and not isinstance(value, Element) else ()


def _trip_count(compared: tuple[str, Value, Value] | None, start: tuple[Value, ...], after: tuple[Value, ...]) -> int:
    """Times that `element + offset < bound` holds, the element growing from its start by its step; 1 if unknown."""
    if compared is None:
        return 1
    direction, left, right = compared
    if not isinstance(left, Element):
        left, right = right, left
        direction = {'LT': 'GT', 'GT': 'LT', 'LE': 'GE', 'GE': 'LE'}.get(direction, direction)
    bound = start[right.place] if isinstance(right, Element) else right
    if not isinstance(left, Element) or left.place >= len(after):
        return 1
    first, step = start[left.place], after[left.place]
    if not isinstance(first, int) or not isinstance(bound, int) or not isinstance(step, Element) or not step.offset:
        return 1
    distance = bound - first - left.offset + {'LE': 1, 'GE': -1}.get(direction, 0)
    return max(-(-distance // step.offset), 0)


def _compared(module: Module, name: str, parameters: Sequence[Value]) -> tuple[str, Value, Value] | None:
    """Direction and sides of the comparison that a computation returns; None if it returns something else."""
    known, computation = _values(module, name, parameters), module.computations[name]
    result = module.root(name)
    while result.opcode in SAME:
        result = computation[result.operands[0]]
    sides = [known.get(operand) for operand in result.operands]
    if result.opcode == 'compare':
        return result.attribute('direction') or '', sides[0], sides[1]
    return _compared(module, result.called[0], sides) if result.opcode in ('fusion', 'call') else None


def _values(module: Module, name: str, parameters: Sequence[Value]) -> dict[str, Value]:
    """What is known of the result of each instruction of a computation; operands stand before what uses them."""
    known: dict[str, Value] = {}
    for instruction in module.computations[name].values():
        known[instruction.name] = _value(module, instruction, known, parameters)
    return known


def _value(module: Module, of: Instruction, known: Mapping[str, Value], parameters: Sequence[Value]) -> Value:
    """What is known of an instruction's result, given what is known of those before it."""
    if of.opcode == 'constant':
        return int(of.argument) if re.fullmatch(r'-?\d+', of.argument) else None
    if of.opcode == 'parameter':
        return parameters[int(of.argument)] if int(of.argument) < len(parameters) else None
    operands = [known.get(operand) for operand in of.operands]
    if of.opcode == 'tuple':
        return tuple(operands)
    if of.opcode == 'get-tuple-element':
        whole, index = _elements(operands[0]), int(of.attribute('index') or 0)
        return whole[index] if index < len(whole) else None
    if of.opcode in SAME:
        return operands[0]
    is_scalar = SCALAR.match(of.type) is not None
    if of.opcode in ('fusion', 'call') and of.called and (is_scalar or of.type[0] == '('):
        return _values(module, of.called[0], operands)[module.root(of.called[0]).name]
    if is_scalar and of.opcode in ('add', 'subtract'):
        return _sum(*operands, opcode=of.opcode)
    return None


def _sum(left: Value, right: Value, *, opcode: str) -> Value:
    if isinstance(left, Element) and isinstance(right, int):
        return Element(left.place, left.offset + (right if opcode == 'add' else -right))
    if isinstance(left, int) and isinstance(right, Element) and opcode == 'add':
        return Element(right.place, right.offset + left)
    if isinstance(left, int) and isinstance(right, int):
        return left + right if opcode == 'add' else left - right
    return None


def owners(module: Module, times: Mapping[str, int]) -> dict[str, int]:
    """Of `times`, the computations whose instructions are executed one by one; the others are parts of fusions."""
    fused = {
        name
        for computation in module.computations.values()
        for instruction in computation.values()
        if instruction.opcode == 'fusion'
        for name in instruction.called
    }
    return {name: count for name, count in times.items() if name not in fused}
