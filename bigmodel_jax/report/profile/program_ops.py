"""What the operations of a compiled program are, and which line of the source each came from."""

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Mapping

from bigmodel_jax.plan.compiled import hlo
from bigmodel_jax.report.profile import op_kinds
from bigmodel_jax.report.profile.op_kinds import Kind

MODULE = re.compile(r'HloModule ([^\s,]+)')
OP_NAME = re.compile(r'op_name="([^"]*)"')
FILE, LINE_NUMBER = re.compile(r'source_file="([^"]*)"'), re.compile(r'source_line=(\d+)')
# Newer compilers write tables of files, locations and stack frames before the program, and a number at each operation.
FRAME = re.compile(r'stack_frame_id=(\d+)')
NAMED_FILE = re.compile(r'(\d+) "(.*)"')
LOCATION = re.compile(r'(\d+) \{file_name_id=(\d+) .*?\bline=(\d+)')
STACK_FRAME = re.compile(r'(\d+) \{file_location_id=(\d+)')
PROGRAM_OF_STEP = re.compile(r'^jit\([^)]*\)/')
PACKAGE = 'bigmodel_jax'
# What a fusion that only moves memory is made of.
MOVES = {'copy', 'transpose'}
FREE = {'parameter', 'bitcast', 'reshape', 'tuple', 'get-tuple-element'}
PRODUCTS = {'dot', 'convolution', 'custom-call'}


@dataclasses.dataclass(frozen=True)
class ProgramOps:
    """The operations of a program by their names in it, which are also those in a trace."""

    module: str  # The name of the program.
    kinds: Mapping[str, Kind]
    origins: Mapping[str, str]  # Such as 'jvp(Decoder)/norm/reduce_sum, bigmodel_jax/layers/norms.py:40'.


def read(text: str) -> ProgramOps:
    """The operations of the program that `compiled.as_text()` printed.

    Raises:
      ValueError: it is not the text of a program.
    """
    name = MODULE.match(text)
    if name is None:
        raise ValueError('The text of the compiled program does not begin with HloModule.')
    module, frames = hlo.parse(text), _frames(text)
    kinds, origins = {}, {}
    for computation in module.computations.values():
        for each in computation.values():
            kinds[each.name] = _kind(module, computation, each)
            origins[each.name] = ', '.join(_origin(each.attributes, frames))
    return ProgramOps(name[1], kinds, {name: origin for name, origin in origins.items() if origin})


def _kind(module: hlo.Module, computation: hlo.Computation, each: hlo.Instruction) -> Kind:
    if each.opcode.startswith('async-'):
        if not each.called and each.operands and each.operands[0] in computation:
            return _kind(module, computation, computation[each.operands[0]])
        return _of_body(module, each.called) if each.called else 'compute'
    return _of_body(module, each.called) if each.opcode == 'fusion' else op_kinds.kind_of(each.opcode)


def _of_body(module: hlo.Module, called: list[str]) -> Kind:
    """What a fusion does: it is a collective or a copy if it does nothing else that takes time."""
    inside = [each for name in called for each in module.computations.get(name, {}).values()]
    opcodes = {each.opcode for each in inside}
    if any(op_kinds.kind_of(opcode) == 'collective' for opcode in opcodes) and not opcodes & PRODUCTS:
        return 'collective'
    working = opcodes - FREE
    return 'copy' if working and working <= MOVES else 'compute'


def _origin(attributes: str, frames: Mapping[str, str]) -> Iterator[str]:
    """Where an operation came from: its scope in the model, and the line of the source."""
    if scope := OP_NAME.search(attributes):
        yield PROGRAM_OF_STEP.sub('', scope[1])
    file, line, frame = FILE.search(attributes), LINE_NUMBER.search(attributes), FRAME.search(attributes)
    if file and line:
        yield f'{_short(file[1])}:{line[1]}'
    elif frame and frame[1] in frames:
        yield frames[frame[1]]


def _frames(text: str) -> dict[str, str]:
    """The line of the source of each stack frame, by its number: of its innermost call."""
    header = text.partition('\n\nENTRY')[0].partition('\n%')[0]
    tables: dict[str, list[str]] = {}
    for line in header.splitlines():
        if line.isidentifier():
            rows = tables.setdefault(line, [])
        elif tables and line:
            rows.append(line)
    files = {found[1]: _short(found[2]) for row in tables.get('FileNames', ()) if (found := NAMED_FILE.match(row))}
    locations = {
        found[1]: f'{files[found[2]]}:{found[3]}'
        for row in tables.get('FileLocations', ())
        if (found := LOCATION.match(row)) and found[2] in files
    }
    return {
        found[1]: locations[found[2]]
        for row in tables.get('StackFrames', ())
        if (found := STACK_FRAME.match(row)) and found[2] in locations
    }


def _short(path: str) -> str:
    """A file of this package from the package's name on, any other one by its last two names."""
    parts = pathlib.PurePosixPath(path).parts
    first = max((i for i, part in enumerate(parts) if part == PACKAGE), default=len(parts) - 2)
    return '/'.join(parts[max(first, 0) :])
