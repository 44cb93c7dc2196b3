"""What the chips say to one another: the collectives of a compiled program, with the mesh axes they run over."""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from bigmodel_jax.plan import estimates
from bigmodel_jax.plan.compiled import hlo

KINDS: tuple[estimates.Kind, ...] = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
OPCODES: dict[str, estimates.Kind] = {kind: kind for kind in KINDS}
OPCODES |= {f'{kind}-start': kind for kind in KINDS}
OPCODES |= {'ragged-all-to-all': 'all-to-all'}
# Groups are printed in four ways: {{0,1},{2,3}}; [2,4]<=[8]; [4,2]<=[2,4]T(1,0); mesh['a'=2,'b'=4] {'b'}.
LISTED = re.compile(r'replica_groups=\{((?:\{[\d,]*\},?)*)\}')
IOTA = re.compile(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?')
MESH = re.compile(
    r'replica_groups=mesh\[(?P<axes>[^\]]*)\]'
    r'(?:, device_ids=\((?:\[(?P<iota>[\d,]+)\](?:T\((?P<transpose>[\d,]+)\))?|(?P<ids>[\d,]+))\))?'
    r' \{(?P<chosen>[^}]*)\}'
)
AXIS_SIZE = re.compile(r"'?([^',=]+)'?=(\d+)")
AXIS = re.compile(r"'?([^',:]+)'?(?::\((\d+)\)(\d+))?")
PAIRS = re.compile(r'source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}')
# Between slices the runtime of the hosts carries the bytes: rendezvous="all-reduce.1_0".
BETWEEN_SLICES = re.compile(r'_xla_host_transfer_rendezvous="([a-z-]+)')
MEGASCALE = 'xla_megascale_runtime'


class DeviceLayout(NamedTuple):
    """The mesh as the compiler numbers its devices: in order, the last axis fastest."""

    mesh: tuple[tuple[str, int], ...]  # Name and size of each axis.
    slices: int = 1  # Slices of a pod, joined along `across`.
    across: str = 'data'

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(size for _, size in self.mesh)

    def one_slice(self) -> 'DeviceLayout':
        """The mesh within one slice: the compiler writes one program for each, and numbers its own devices only."""
        mesh = tuple((name, size // self.slices if name == self.across else size) for name, size in self.mesh)
        return DeviceLayout(mesh)

    def slice_of(self) -> np.ndarray:
        """The number of each device's slice, [devices]."""
        places = np.indices(self.sizes).reshape(len(self.mesh), -1)
        across = [name for name, _ in self.mesh].index(self.across) if self.slices > 1 else 0
        return places[across] * self.slices // self.sizes[across]


def collectives(module: hlo.Module, times: Mapping[str, int], layout: DeviceLayout) -> tuple[estimates.Collective, ...]:
    """Every collective that is executed, in the order of the text.

    Args:
      times: executions of each computation; see hlo.executions().
    """
    return tuple(_found(module, times, layout))


def _found(module: hlo.Module, times: Mapping[str, int], layout: DeviceLayout) -> Iterator[estimates.Collective]:
    wrapped = {
        name
        for computation in module.computations.values()
        for each in computation.values()
        if each.opcode in ('async-start', 'call-start')
        for name in each.called
    }
    for name, computation in module.computations.items():
        if not times.get(name):
            continue
        starts = hlo.starts(computation)
        for each in computation.values():
            if each.opcode == 'recv' and MEGASCALE in each.attributes:
                yield _between_slices(each, times[name], layout)
            opcode = OPCODES.get(each.opcode)
            if opcode is None or hlo.goes_on(computation, each):
                continue
            kind, size_bytes = _result(module, name, each, opcode)
            axes, group, over_dcn = reach(each.attributes, layout)
            yield estimates.Collective(
                kind=kind,
                axes=axes,
                group=group,
                bytes=size_bytes,
                times=times[name],
                asynchronous=starts or each.opcode.endswith('-start') or name in wrapped,
                over_dcn=over_dcn,
            )


def _between_slices(each: hlo.Instruction, times: int, layout: DeviceLayout) -> estimates.Collective:
    found = BETWEEN_SLICES.search(each.attributes)
    kind = OPCODES.get(found[1], 'collective-permute') if found else 'collective-permute'
    return estimates.Collective(
        kind=kind,
        axes=(layout.across,),
        group=layout.slices,
        bytes=hlo.arrays(each.type)[0].bytes,
        times=times,
        asynchronous=True,
        over_dcn=True,
    )


def _result(module: hlo.Module, name: str, each: hlo.Instruction, kind: estimates.Kind) -> tuple[estimates.Kind, int]:
    """The kind, and the bytes of the result. The TPU compiler writes a reduce-scatter as an all-reduce and a slice."""
    root = module.root(name)
    if kind == 'all-reduce' and root.opcode == 'dynamic-slice' and root.operands[0] == each.name:
        return 'reduce-scatter', hlo.size_bytes(root.type)
    if each.opcode.endswith('-start') and kind != 'all-reduce':
        # The type lists the operands, the results, and the flags of the transfer.
        count = len(each.operands)
        return kind, sum(array.bytes for array in hlo.arrays(each.type)[count : 2 * count])
    return kind, hlo.size_bytes(each.type)


@functools.lru_cache(maxsize=4_096)
def reach(attributes: str, layout: DeviceLayout) -> tuple[tuple[str, ...], int, bool]:
    """The mesh axes of a collective (() if unknown), the devices in a group, and whether groups span slices.

    Args:
      attributes: what stands behind the operands in the text.
    """
    devices = math.prod(layout.sizes)
    groups = _groups(attributes, devices)
    if groups is not None and layout.slices > 1 and groups.max(initial=0) < devices // layout.slices:
        return reach(attributes, layout.one_slice())
    if groups is None or groups.max(initial=0) >= devices:
        return (), 0 if groups is None else groups.shape[1], False
    places = np.array(np.unravel_index(groups, layout.sizes))  # [axis, group, device]
    moves = (places != places[:, :, :1]).any(axis=(1, 2))
    axes = tuple(name for (name, _), moving in zip(layout.mesh, moves) if moving)
    slice_of = layout.slice_of()[groups]
    is_permute = PAIRS.search(attributes) is not None
    group = math.prod(size for name, size in layout.mesh if name in axes) if is_permute else groups.shape[1]
    return axes, group, bool((slice_of != slice_of[:, :1]).any())


def _groups(attributes: str, devices: int) -> np.ndarray | None:
    """[groups, devices of a group], or [pairs, 2] of a permutation; None if the text does not say."""
    if found := PAIRS.search(attributes):
        return np.array(re.findall(r'\d+', found[1]), int).reshape(-1, 2)
    if found := MESH.search(attributes):
        return _mesh_groups(found)
    if found := IOTA.search(attributes):
        return _iota(found[2], found[3]).reshape(_numbers(found[1]))
    if found := LISTED.search(attributes):
        listed = [_numbers(group) for group in re.findall(r'\{([\d,]+)\}', found[1])]
        is_even = len({len(group) for group in listed}) <= 1
        return np.array(listed or [list(range(devices))], int) if is_even else None
    return None


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(',') if number]


def _iota(sizes: str, transpose: str | None) -> np.ndarray:
    array = np.arange(math.prod(_numbers(sizes))).reshape(_numbers(sizes))
    return array.transpose(_numbers(transpose)) if transpose else array


def _mesh_groups(found: re.Match[str]) -> np.ndarray:
    """The groups of mesh['a'=2,'b'=4] {'b'}. An axis may be meant in part: of 'b':(2)2, two outer parts stay apart."""
    named = [(name, int(size)) for name, size in AXIS_SIZE.findall(found['axes'])]
    sizes = [size for _, size in named]
    if found['iota']:
        ids = _iota(found['iota'], found['transpose']).reshape(-1)
    else:
        ids = np.array(_numbers(found['ids']) if found['ids'] else range(math.prod(sizes)))
    places = np.indices(sizes).reshape(len(sizes), -1)
    # What is left of a device's place once the chosen axes are taken out names its group.
    apart, group = places.copy(), 1
    for name, before, part in AXIS.findall(found['chosen']):
        axis = [other for other, _ in named].index(name)
        size = int(part) if part else sizes[axis]
        after = sizes[axis] // (size * int(before or 1))
        apart[axis] -= places[axis] // after % size * after
        group *= size
    order = np.argsort(np.ravel_multi_index(tuple(apart), sizes), kind='stable')
    return ids[order].reshape(-1, group)
