"""Where one chip's memory goes: the state and the batch, exactly; what the step needs besides, as the program tells."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from bigmodel_jax.plan import estimates
from bigmodel_jax.plan.compiled import hlo
from bigmodel_jax.train import state

PyTree = Any
OPERATION = re.compile(r'op_name="([^"]*)"')
FORWARD, BACKWARD, UPDATE = 'forward', 'backward', 'update'
# The same bytes, or a copy of them that is only passed on.
SAME = {'bitcast', 'copy', 'copy-start', 'copy-done', 'get-tuple-element', 'opt-barrier', 'tuple'}
# Results with memory of their own.
NOT_MADE = SAME | {'parameter', 'constant', 'iota', 'partition-id', 'after-all'}


def waterfall(module: hlo.Module, *, peak: int, spec: state.StateSpec, batch: PyTree, limit: int) -> estimates.Memory:
    """The memory of a compiled step, in bytes of one chip.

    Parameters, optimizer state and batch are the shards of the arrays that go in. `saved` is what the forward pass
    makes and the backward pass reads, `gradients` what the backward pass makes and the update reads; where the compiler
    shares memory between them (layers that are not scanned), they are taken no larger than the peak has room for. The
    rest of the peak are `temporaries`, with the padding of every array to the chip's tiles.

    Args:
      module: the compiled step, whose arguments are donated.
      peak: its memory as the compiler plans it; what goes in is part of it.
      batch: ShapeDtypeStructs with shardings.
      limit: bytes that a program may use.
    """
    shapes, shardings = spec.abstract, spec.shardings
    arguments = {
        'parameters': shard_bytes(shapes.params, shardings.params),
        'optimizer': shard_bytes(shapes.opt_state, shardings.opt_state),
        'other_state': shard_bytes(shapes.others, shardings.others),
        'batch': shard_bytes(batch, jax.tree.map(lambda leaf: leaf.sharding, batch)),
    }
    peak = max(peak, sum(arguments.values()))
    free = peak - sum(arguments.values())
    saved, gradients = kept(module)
    saved = min(saved, free)
    gradients = min(gradients, free - saved)
    temporaries = free - saved - gradients
    return estimates.Memory(
        **arguments, gradients=gradients, saved=saved, temporaries=temporaries, peak=peak, limit=limit
    )


def shard_bytes(shapes: PyTree, shardings: PyTree) -> int:
    """Bytes that one device holds of a tree of arrays."""
    leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    sizes = (jax.ShapeDtypeStruct(where.shard_shape(leaf.shape), leaf.dtype) for leaf, where in leaves)
    return sum(shard.size * shard.dtype.itemsize for shard in sizes)


class Made(NamedTuple):
    """Bytes that a part of the step makes, and the instructions that read them."""

    phase: str
    bytes: int
    readers: frozenset[str]  # Phases.


def kept(module: hlo.Module) -> tuple[int, int]:
    """Bytes of HBM that the forward pass leaves for the backward pass, and the backward pass for the update."""
    made = list(_made(module, module.entry))
    saved = sum(each.bytes for each in made if each.phase == FORWARD and BACKWARD in each.readers)
    gradients = sum(each.bytes for each in made if each.phase == BACKWARD and UPDATE in each.readers)
    return saved, gradients


class Scope(NamedTuple):
    """A computation, and who uses what in it."""

    module: hlo.Module
    computation: hlo.Computation
    uses: dict[str, list[hlo.Instruction]]

    @classmethod
    def of(cls, module: hlo.Module, name: str) -> 'Scope':
        """The computation of that name."""
        uses: dict[str, list[hlo.Instruction]] = {}
        for each in module.computations[name].values():
            for operand in each.operands:
                uses.setdefault(operand, []).append(each)
        return cls(module, module.computations[name], uses)


def _made(module: hlo.Module, name: str) -> Iterator[Made]:
    """What the instructions of a computation make; also of the loop over microbatches, which holds whole passes."""
    scope = Scope.of(module, name)
    for each in scope.computation.values():
        body, phase = each.attribute('body') if each.opcode == 'while' else None, _phase(each)
        if body is not None and phase == UPDATE and _holds_passes(module, body):
            yield from _made(module, body)
            phase = BACKWARD
        if each.opcode in NOT_MADE:
            continue
        for index, array in enumerate(hlo.arrays(each.type)):
            if array.space == 0 and (body is None or _changes(module, body, index)):
                element = index if each.type.startswith('(') else None
                readers = frozenset(_phase(reader) for reader in _readers(scope, each.name, element))
                yield Made(phase, array.bytes, readers)


def _phase(each: hlo.Instruction) -> str:
    """The part of the step that an instruction belongs to, by the name that JAX's differentiation gave it."""
    found = OPERATION.search(each.attributes)
    operation = found[1] if found else ''
    if 'transpose(' in operation:
        return BACKWARD
    return FORWARD if 'jvp(' in operation else UPDATE


def _holds_passes(module: hlo.Module, body: str) -> bool:
    return any(_phase(each) == BACKWARD for each in module.computations[body].values())


def _changes(module: hlo.Module, body: str, index: int) -> bool:
    """Whether a loop changes an element of its state, which otherwise is only read."""
    computation, root = module.computations[body], module.root(body)
    if root.opcode != 'tuple' or index >= len(root.operands):
        return True
    element = computation[root.operands[index]]
    while element.opcode in ('bitcast', 'copy', 'copy-done', 'copy-start'):
        element = computation[element.operands[0]]
    if element.opcode != 'get-tuple-element':
        return True
    source = computation[element.operands[0]]
    return source.opcode != 'parameter' or int(element.attribute('index') or -1) != index


def _readers(scope: Scope, name: str, element: int | None) -> Iterator[hlo.Instruction]:
    """The instructions that read a result, or one element of it, through copies, tuples and loops that keep it."""
    seen, waiting = set(), [(name, element)]
    while waiting:
        here, place = waiting.pop()
        if (here, place) in seen:
            continue
        seen.add((here, place))
        for user in scope.uses.get(here, ()):
            if user.opcode not in SAME:
                yield user
            waiting += _passed_on(scope.module, user, here, place)


def _passed_on(module: hlo.Module, user: hlo.Instruction, name: str, place: int | None) -> list[tuple[str, int | None]]:
    """Where a value that an instruction uses is found in its result: name, and element if that is a tuple."""
    if user.opcode == 'get-tuple-element':
        return [(user.name, None)] if place in (None, int(user.attribute('index') or 0)) else []
    if user.opcode == 'tuple':
        return [(user.name, index) for index, operand in enumerate(user.operands) if operand == name]
    if user.opcode == 'while' and place is not None and not _changes(module, user.attribute('body') or '', place):
        return [(user.name, place)]
    return [(user.name, place)] if user.opcode in SAME else []
