"""Bytes that a compiled program moves between its memory (HBM) and the chip."""

from collections.abc import Mapping

from bigmodel_jax.plan.compiled import hlo

# These move nothing: they rename, they start what another instruction ends, or they contain what is counted by itself.
STILL = {
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional', 'call', 'after-all',
    'opt-barrier', 'partition-id', 'replica-id', 'iota', 'async-start', 'async-update', 'call-start', 'call-update',
}  # fmt: skip
PARTS = {'dynamic-slice', 'gather', 'slice'}  # They read no more than they return.
HBM = 0


def hbm_bytes(module: hlo.Module, times: Mapping[str, int]) -> float:
    """Bytes read and written in one execution of the program, loops as often as they run.

    Every instruction reads its operands and writes its result once, as far as they lie in HBM and not on the chip; a
    fusion that takes a slice of an operand reads the slice, and one that changes part of an array in place writes the
    part. What an asynchronous collective brings is written where it starts; the fusions beside it only hand it on. A
    kernel that reads a block twice is taken to read it once, so that the sum is a lower bound.

    Args:
      times: executions of each computation; see hlo.executions().
    """
    total = 0.0
    for name, count in hlo.owners(module, times).items():
        computation = module.computations[name]
        moved = sum(_moved(module, computation, each) for each in computation.values())
        total += count * moved
    return total


def _moved(module: hlo.Module, computation: hlo.Computation, each: hlo.Instruction) -> int:
    if each.opcode in STILL or each.opcode.endswith('-done') or 'AllocateBuffer' in each.attributes:
        return 0
    if each.opcode == 'fusion' and each.called and hlo.ends(module.computations[each.called[0]]):
        return 0
    if each.opcode in PARTS:
        return _in_hbm(each.type) * 2
    if each.opcode.endswith('-start'):
        # Operands, results and flags stand in the type of the result.
        return _in_hbm(each.type)
    if each.opcode == 'dynamic-update-slice':
        return 2 * _in_hbm(computation[each.operands[1]].type)
    reads = [_in_hbm(computation[name].type) if name in computation else 0 for name in each.operands]
    if each.opcode != 'fusion' or not each.called:
        return sum(reads) + _in_hbm(each.type)
    shares, written = _fusion(module, each.called[0])
    read = sum(min(whole, shares.get(index, whole)) for index, whole in enumerate(reads))
    return read + min(_in_hbm(each.type), written)


def _in_hbm(type_text: str) -> int:
    return sum(array.bytes for array in hlo.arrays(type_text) if array.space == HBM)


def _fusion(module: hlo.Module, name: str) -> tuple[dict[int, int], int]:
    """Of a fusion: the bytes it reads of those parameters that it reads in part, and the bytes it writes at most."""
    computation = module.computations[name]
    uses: dict[str, list[hlo.Instruction]] = {}
    for each in computation.values():
        for operand in each.operands:
            uses.setdefault(operand, []).append(each)
    shares = {}
    for each in computation.values():
        if each.opcode == 'parameter':
            used = [_used(module, computation, each.name, user) for user in _through(uses, each.name)]
            if used and None not in used:
                shares[int(each.argument)] = sum(filter(None, used))
    root = module.root(name)
    roots = [computation[operand] for operand in root.operands] if root.opcode == 'tuple' else [root]
    return shares, sum(_written(module, computation, each) for each in roots)


def _through(uses: Mapping[str, list[hlo.Instruction]], name: str) -> list[hlo.Instruction]:
    """Who uses a value, looking through changes of its name."""
    found = []
    for user in uses.get(name, ()):
        found += _through(uses, user.name) if user.opcode == 'bitcast' else [user]
    return found


def _used(module: hlo.Module, computation: hlo.Computation, name: str, user: hlo.Instruction) -> int | None:
    """Bytes of a parameter that one user reads; None if all of it."""
    places = [place for place, operand in enumerate(user.operands) if _source(computation, operand) == name]
    if user.opcode == 'tuple' or hlo.goes_on(computation, user):
        return 0
    if user.opcode in PARTS and places == [0]:
        return hlo.size_bytes(user.type)
    if user.opcode == 'dynamic-update-slice' and places == [0]:
        return 0
    if user.opcode == 'fusion':
        shares, _ = _fusion(module, user.called[0])
        parts = [shares.get(place) for place in places]
        return None if None in parts else sum(filter(None, parts))
    return None


def _source(computation: hlo.Computation, name: str) -> str:
    while computation[name].opcode == 'bitcast':
        name = computation[name].operands[0]
    return name


def _written(module: hlo.Module, computation: hlo.Computation, root: hlo.Instruction) -> int:
    """Bytes that a result of a fusion writes: of an array that is changed in place, the part."""
    root = computation[_source(computation, root.name)]
    if root.opcode == 'parameter' or hlo.goes_on(computation, root):
        return 0
    if root.opcode == 'dynamic-update-slice':
        return hlo.size_bytes(computation[root.operands[1]].type)
    return _fusion(module, root.called[0])[1] if root.opcode == 'fusion' else hlo.size_bytes(root.type)
