"""What the chips must say to one another in a step, by formula: from the shapes, the rule table and the mesh alone."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from bigmodel_jax.parallel import sharding
from bigmodel_jax.plan import estimates
from bigmodel_jax.plan.hardware import slices
from bigmodel_jax.train import placement

# Whose weight gathers libtpu 0.0.52 makes asynchronous by itself; on v5p and v6e it leaves every one synchronous, and
# on none does it hide the reduction of gradients. XLA:GPU hides both.
HIDES_GATHERS = ('v5e', 'a100', 'h100', 'h200')
HIDES_REDUCTIONS = ('a100', 'h100', 'h200')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weight:
    """One parameter as it lies on the mesh."""

    name: str
    shape: tuple[int, ...]
    axes: sharding.LogicalAxes
    entries: tuple[tuple[str, ...], ...]  # The mesh axes of each dimension.
    itemsize: int  # As it is stored.

    @property
    def layers(self) -> int:
        """How many layers share the array."""
        return self.shape[self.axes.index('layers')] if 'layers' in self.axes else 1

    @property
    def leaves_stream(self) -> bool:
        """Whether its product enters the stream: a matrix of a layer that tensor parallelism cuts along its inputs."""
        return 'layers' in self.axes and self.axes[-1] == 'embed' and any('tensor' in each for each in self.entries)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FormulaInputs:
    """What the formulas need to know of a step beside its weights."""

    place: sharding.ShardingContext
    on: slices.Slice
    tokens: int  # Of one microbatch, on all chips.
    width: int
    microbatches: int
    itemsize: int  # Of an activation.
    again: bool  # The forward pass is computed again in the backward pass.
    across: str
    chosen: int  # Experts per token.
    heads_width: int  # Channels of queries, keys, values and outputs of one layer together.

    @property
    def stream_bytes(self) -> float:
        """The stream between two layers, of the positions that one group of tensor-parallel chips shares."""
        return self.tokens * self.width * self.itemsize / (self.place.shards('batch') * self.place.shards('length'))

    @property
    def passes(self) -> int:
        return 3 if self.again else 2

    def over_dcn(self, axes: Sequence[str]) -> bool:
        return self.on.count > 1 and self.across in axes

    def group(self, axes: Sequence[str]) -> int:
        return math.prod(self.place.sizes[axis] for axis in axes)


def weights(place: sharding.ShardingContext, params: Any, axes: Any) -> list[Weight]:
    """The parameters of a spec as they lie on `place`."""
    found = []
    flat = jax.tree_util.tree_leaves_with_path(params)
    for (path, leaf), names in zip(flat, jax.tree.leaves(axes, is_leaf=lambda node: isinstance(node, tuple))):
        name = jax.tree_util.keystr(path, simple=True, separator='.')
        itemsize = np.dtype(leaf.dtype).itemsize
        entries = cuts(place, placement.with_default(place, leaf.shape, names))
        found.append(Weight(name=name, shape=leaf.shape, axes=names, entries=entries, itemsize=itemsize))
    return found


def cuts(place: sharding.ShardingContext, names: sharding.LogicalAxes) -> tuple[tuple[str, ...], ...]:
    """The mesh axes that cut each dimension of an array."""
    return tuple((entry,) if isinstance(entry, str) else tuple(entry or ()) for entry in place.spec(names))


def gathered(weight: Weight, place: sharding.ShardingContext) -> tuple[str, ...]:
    """The mesh axes over which a weight must be gathered before it is used: those that the activations need."""
    busy = {*place.names('batch'), *place.names('length')}
    pairs = zip(weight.axes, weight.entries)
    return tuple(axis for logical, entry in pairs for axis in entry if axis in busy and logical != 'experts')


def whole_bytes(weight: Weight, setting: FormulaInputs) -> float:
    """One layer of a gathered weight on one chip, in the dtype of the computation."""
    over = gathered(weight, setting.place)
    kept = [axis for entry in weight.entries for axis in entry if axis not in over and axis != 'pipeline']
    return math.prod(weight.shape) / setting.group(kept) * setting.itemsize / weight.layers


def own_bytes(weight: Weight, place: sharding.ShardingContext) -> int:
    """Of one chip's part of a parameter, as it is stored."""
    parts = math.prod(place.sizes[axis] for entry in weight.entries for axis in entry)
    return math.prod(weight.shape) * weight.itemsize // parts


def collectives(found: Sequence[Weight], setting: FormulaInputs) -> tuple[estimates.Collective, ...]:
    """Every collective of a step by formula, equal ones joined."""
    totals: dict[tuple[Any, ...], float] = {}
    for each in _all(found, setting):
        key = (each.kind, each.axes, each.group, each.times, each.asynchronous, each.over_dcn)
        totals[key] = totals.get(key, 0.0) + each.bytes
    names = ('kind', 'axes', 'group', 'times', 'asynchronous', 'over_dcn')
    return tuple(estimates.Collective(bytes=round(size), **dict(zip(names, key))) for key, size in totals.items())


def _all(found: Sequence[Weight], setting: FormulaInputs) -> Iterator[estimates.Collective]:
    for weight in found:
        yield from _of_weight(weight, setting)
    products = sum(weight.leaves_stream for weight in found)
    layers = max((weight.layers for weight in found), default=1) // setting.place.shards('layers')
    yield from _of_stream(products, layers, setting)
    experts = [entry for weight in found for name, entry in zip(weight.axes, weight.entries) if name == 'experts']
    if any('expert' in entry for entry in experts):
        size, times = setting.stream_bytes * setting.chosen, 2 * setting.passes * layers * setting.microbatches
        yield _one(setting, 'all-to-all', ('expert',), size=size, times=times)


def _of_weight(weight: Weight, setting: FormulaInputs) -> Iterator[estimates.Collective]:
    """A weight is gathered for each pass over its layer; its gradient is reduced once."""
    place, chip = setting.place, setting.on.chip.name
    times = weight.layers // (place.shards('layers') if 'layers' in weight.axes else 1) * setting.microbatches
    over, whole = gathered(weight, place), whole_bytes(weight, setting)
    used = {axis for entry in weight.entries for axis in entry}
    # The chips that hold the same part and see other tokens.
    copies = tuple(axis for axis in (*place.names('batch'), *place.names('length')) if axis not in used)
    part, hidden = whole / setting.group(over), chip in HIDES_REDUCTIONS
    if over:
        yield _one(setting, 'all-gather', over, size=whole, times=2 * times, hidden=chip in HIDES_GATHERS)
        # Over the whole slice at once libtpu reduces everywhere and cuts afterwards; over a part of it, it scatters.
        scatters = any(size > 1 for axis, size in place.sizes.items() if axis not in (*over, setting.across))
        kind: estimates.Kind = 'reduce-scatter' if scatters else 'all-reduce'
        yield _one(setting, kind, over, size=part if scatters else whole, times=times, hidden=hidden)
    if copies:
        yield _one(setting, 'all-reduce', copies, size=part, times=times, hidden=hidden)
    if place.pipeline_rounds > 1 and 'layers' in weight.axes:
        # To the stages of its chunks, and its gradient back.
        size = own_bytes(weight, place) / weight.itemsize * setting.itemsize
        yield _one(setting, 'all-to-all', ('pipeline',), size=size, times=2 * setting.microbatches)


def _of_stream(products: int, layers: int, setting: FormulaInputs) -> Iterator[estimates.Collective]:
    """Between tensor-parallel products, around the attention of cut rows, and from stage to stage."""
    sizes, times = setting.place.sizes, layers * setting.microbatches
    if sizes['tensor'] > 1 and products:
        each = products * times * setting.passes
        yield _one(setting, 'all-gather', ('tensor',), size=setting.stream_bytes, times=each)
        yield _one(setting, 'reduce-scatter', ('tensor',), size=setting.stream_bytes / sizes['tensor'], times=each)
    if sizes['sequence'] > 1:
        vectors = setting.stream_bytes / setting.width * setting.heads_width / sizes['tensor']
        yield _one(setting, 'all-to-all', ('sequence',), size=vectors, times=times * setting.passes)
    if sizes['pipeline'] > 1:
        # What fills the pipeline goes forward and back through every boundary, in each round.
        times = 2 * setting.place.pipeline_rounds * setting.microbatches
        yield _one(setting, 'collective-permute', ('pipeline',), size=setting.stream_bytes, times=times)


def _one(
    setting: FormulaInputs, kind: estimates.Kind, axes: Sequence[str], *, size: float, times: int, hidden: bool = False
) -> estimates.Collective:
    return estimates.Collective(
        kind=kind,
        axes=tuple(axes),
        group=setting.group(axes),
        bytes=round(size),
        times=times,
        asynchronous=hidden,
        over_dcn=setting.over_dcn(axes),
    )
