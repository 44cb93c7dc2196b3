"""The links of a slice: along which dimensions of its torus each mesh axis runs, and how long a collective takes there.

A torus of n chips in a ring moves an all-gather of s bytes in s (n - 1) / n / (links x bandwidth): one link each way
along a dimension that wraps around, one link in all along a dimension that does not. Mesh axes that span several
dimensions use the links of all of them at once. Source: 'How to Scale Your Model' (jax-ml.github.io/scaling-book,
'Sharded matrices'), whose formulas these are.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from bigmodel_jax import config
from bigmodel_jax.parallel import sharding, torus
from bigmodel_jax.plan import estimates
from bigmodel_jax.plan.hardware import slices

Laid = Mapping[str, tuple[int, ...]]  # Mesh axis -> the dimensions of the torus that it runs along.


# ---- the torus --------------------------------------------------------------------------------------------------


def dimensions(on: slices.Slice, mesh: Mapping[str, int], across: str = 'data') -> Laid:
    """The dimensions of a slice's torus that each mesh axis runs along: indices of `on.shape`.

    The choice of jax.experimental.mesh_utils: the innermost axis first, each as many dimensions as multiply to its
    size. A device per core is one dimension more. {} for a machine, whose chips hang on one switch.

    Raises:
      InputError: an axis is not a product of whole dimensions; names the sizes that are.
    """
    if on.chip.torus == 0:
        return {}
    sizes = list(on.shape) + ([on.chip.devices] if on.chip.devices > 1 else [])
    within = dict(mesh) | {across: mesh[across] // on.count}
    free = dict(enumerate(sizes))
    found: dict[str, tuple[int, ...]] = {}
    for axis in reversed(sharding.AXES):
        size = within.get(axis, 1)
        choice = _choose(free, size)
        if choice is None:
            raise config.InputError(
                f'mesh {torus.shape_text(within)} cannot be laid on a slice of {"x".join(map(str, sizes))}: '
                f'{axis}={size} is not the product of whole dimensions that are left; an axis of this slice may be '
                f'{", ".join(map(str, torus.products(sizes)))}.'
            )
        found[axis] = choice
        for index in choice:
            del free[index]
    return found


def _choose(free: Mapping[int, int], size: int) -> tuple[int, ...] | None:
    if size == 1:
        return ()
    open_dimensions = [index for index, length in free.items() if length > 1]
    for count in (3, 2, 1):
        for choice in itertools.combinations(open_dimensions, count):
            if math.prod(free[index] for index in choice) == size:
                return choice
    return None


# ---- collectives ------------------------------------------------------------------------------------------------


def seconds(collectives: Sequence[estimates.Collective], on: slices.Slice, laid: Laid) -> tuple[float, float]:
    """Seconds of the asynchronous collectives of a step, and of those that the computation waits for."""
    times = [(each.asynchronous, collective_s(each, on, laid)) for each in collectives]
    hidden = sum(time_s for asynchronous, time_s in times if asynchronous)
    return hidden, sum(time_s for asynchronous, time_s in times if not asynchronous)


def collective_s(each: estimates.Collective, on: slices.Slice, laid: Laid) -> float:
    """Seconds of all executions of a collective in a step.

    Args:
      laid: the dimensions of each mesh axis, as dimensions() gives them.
    """
    if each.over_dcn:
        return each.times * _over_dcn_s(each, on, laid)
    return each.times * _within_s(each, each.bytes, on, laid)


def _over_dcn_s(each: estimates.Collective, on: slices.Slice, laid: Laid) -> float:
    """In two stages: within the slice on its links, then each chip its own part between the slices."""
    inner = max(each.group // on.count, 1)
    own = each.bytes / inner if each.kind == 'all-reduce' else each.bytes
    between = _traffic(each.kind, own, on.count) / on.chip.dcn_bandwidth
    if inner == 1:
        return between
    return between + _within_s(dataclasses.replace(each, group=inner), each.bytes, on, laid)


def _within_s(each: estimates.Collective, size_bytes: float, on: slices.Slice, laid: Laid) -> float:
    if each.group <= 1:
        return 0.0
    bandwidth = on.chip.link_bandwidth
    if on.chip.torus == 0:
        return _traffic(each.kind, size_bytes, each.group) / (on.chip.links * bandwidth)
    used = _used(each, on, laid)
    if each.kind == 'collective-permute':
        return size_bytes / bandwidth
    if each.kind == 'all-to-all':
        return _all_to_all_s(size_bytes, used, on)
    return _traffic(each.kind, size_bytes, each.group) / (count(used, on) * bandwidth)


def _traffic(kind: estimates.Kind, size_bytes: float, group: int) -> float:
    """Bytes that one chip must send, from the bytes of the result that it holds."""
    part = (group - 1) / group
    factors = {
        'all-gather': part,
        'reduce-scatter': group * part,
        'all-reduce': 2 * part,
        'all-to-all': part,
        'collective-permute': 1.0,
    }
    return size_bytes * factors[kind]


def _used(each: estimates.Collective, on: slices.Slice, laid: Laid) -> tuple[int, ...]:
    """The dimensions that a collective runs along; the longest alone where its axes are not known."""
    found = tuple(index for axis in each.axes for index in laid.get(axis, ()) if index < len(on.shape))
    return found or (max(range(len(on.shape)), key=lambda index: on.shape[index]),)


def count(used: tuple[int, ...], on: slices.Slice) -> int:
    """How many links of a chip a collective along these dimensions keeps busy in one direction."""
    return sum(2 if on.wrap[index] else 1 for index in used if on.shape[index] > 1) or 1


def _all_to_all_s(size_bytes: float, used: tuple[int, ...], on: slices.Slice) -> float:
    """By the bisection of the longest dimension: half of what a chip holds crosses it."""
    longest = max(used, key=lambda index: on.shape[index])
    per_cut = 8 if on.wrap[longest] else 4
    return size_bytes * on.shape[longest] / (per_cut * on.chip.link_bandwidth)
