"""Where arrays live: mesh shapes, rule tables from logical to mesh axes, constraints. No other file knows the mesh.

Layers name logical axes ('embed', 'heads', 'batch' ...). A rule table maps each to mesh axes:

  pipeline  the layers, in stages (Huang et al., 2018, GPipe)
  data      replicas of the model, each with its part of the batch
  fsdp      the batch too, with parameters and optimizer state split over it (Rajbhandari et al., 2020, ZeRO stage 3)
  expert    the batch too; the experts of a routed layer live on different devices (Lepikhin et al., 2020, GShard)
  sequence  the positions of each row, for long rows (Liu et al., 2023, ring attention)
  tensor    heads, feed-forward width and vocabulary (Shoeybi et al., 2019, Megatron-LM), and between the layers the
            positions (Korthikanti et al., 2022, sequence parallelism)

One table serves every mesh: an axis of size 1 splits nothing. Several slices of a pod are joined along one axis, `data`
or `pipeline`, by the data-centre network (DCN); the other axes stay on the links within a slice (ICI).
"""

import collections
import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import NamedSharding, PartitionSpec

from bigmodel_jax import config

# From the outermost, whose neighbours may be far apart, to the innermost, which speak most.
AXES = ('pipeline', 'data', 'fsdp', 'expert', 'sequence', 'tensor')

Rules = tuple[tuple[str, tuple[str, ...]], ...]
LogicalAxes = tuple[str | None, ...]

# Logical axis -> mesh axes. Within one array the first dimension that asks for a mesh axis gets it: the batch of an
# activation takes 'fsdp', so its 'embed' stays whole; a weight has no batch, so its 'embed' is split.
STANDARD: Rules = (
    ('layers', ('pipeline',)),
    ('batch', ('data', 'fsdp', 'expert')),
    ('length', ('sequence',)),
    ('experts', ('expert',)),
    ('embed', ('fsdp', 'expert', 'sequence')),
    ('heads', ('tensor',)),
    ('kv_heads', ('tensor',)),
    ('hidden', ('tensor',)),
    ('vocab', ('tensor',)),
    # The positions of the stream between the layers, where nothing mixes them.
    ('stream', ('sequence', 'tensor')),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshShape:
    """Devices along each mesh axis, and the rule table. `data=-1` takes the devices that the others leave.

    `slices` slices of a pod are joined along `across`, whose size counts all of them.
    """

    data: int = -1
    fsdp: config.Positive = 1
    expert: config.Positive = 1
    sequence: config.Positive = 1
    tensor: config.Positive = 1
    pipeline: config.Positive = 1
    slices: config.Positive = 1
    across: Literal['data', 'pipeline'] = 'data'
    rules: Rules = STANDARD

    def sizes(self, devices: int) -> dict[str, int]:
        """The size of each axis on `devices` devices, in the order of AXES.

        Raises:
          InputError: the axes do not multiply to a number of devices that is there.
        """
        if self.data == 0 or self.data < -1:
            raise config.InputError(f'mesh.data={self.data}: use -1 (all that is left) or a positive number.')
        given = {axis: getattr(self, axis) for axis in AXES}
        inner = math.prod(size for axis, size in given.items() if axis != 'data')
        given['data'] = max(devices // inner, 1) if self.data == -1 else self.data
        needed = inner * given['data']
        if needed > devices:
            raise config.InputError(
                f'mesh {shape_text(given)} needs {needed} devices, but there are {devices}. Use a smaller mesh '
                f'(--set mesh.fsdp=1), or --simulate-devices {needed} to try it on the CPU.'
            )
        if self.data == -1 and needed != devices:
            raise config.InputError(
                f'mesh {shape_text(given)} uses {needed} of {devices} devices; '
                f'the axes other than data multiply to {inner}, which must divide {devices}.'
            )
        if given[self.across] % self.slices:
            raise config.InputError(
                f'mesh.slices={self.slices} does not divide mesh.{self.across}={given[self.across]}, the axis across '
                f'the slices; use a multiple of {self.slices} for it.'
            )
        return given

    def build(self, devices: Sequence[jax.Device] | None = None) -> 'Place':
        """The mesh on `devices` (default: all).

        Raises:
          InputError: the mesh cannot be laid on these devices.
        """
        devices = jax.devices() if devices is None else devices
        sizes = self.sizes(len(devices))
        within = sizes | {self.across: sizes[self.across] // self.slices}
        shape = tuple(within.values())
        blocks = [_lay(shape, group) for group in _by_slice(list(devices)[: math.prod(sizes.values())], self.slices)]
        grid = np.concatenate(blocks, axis=AXES.index(self.across))
        axis_types = (jax.sharding.AxisType.Auto,) * len(AXES)
        return Place(mesh=jax.sharding.Mesh(grid, AXES, axis_types=axis_types), rules=self.rules)


def shape_text(sizes: Mapping[str, int]) -> str:
    """A mesh as people write it: 'data 4 x tensor 2'; axes of size 1 are left out."""
    return ' x '.join(f'{axis} {size}' for axis, size in sizes.items() if size > 1) or '1 device'


def _by_slice(devices: list[jax.Device], slices: int) -> list[list[jax.Device]]:
    """The devices of each slice; where the devices do not know of slices, equal blocks of them."""
    groups = collections.defaultdict(list)
    for device in devices:
        # On CPU and GPU it counts hosts.
        groups[getattr(device, 'slice_index', 0) if device.platform == 'tpu' else 0].append(device)
    if len(groups) == 1:
        size = len(devices) // slices
        return [devices[start : start + size] for start in range(0, len(devices), size)]
    if len(groups) != slices:
        raise config.InputError(
            f'mesh.slices={slices}, but the devices are {len(groups)} slices of a pod; set mesh.slices={len(groups)}.'
        )
    return [groups[index] for index in sorted(groups)]


def _lay(shape: tuple[int, ...], devices: list[jax.Device]) -> np.ndarray:
    """The devices of one slice as a grid whose neighbours are neighbours in the slice's torus.

    Raises:
      InputError: the torus cannot be cut like that: each mesh axis must be a product of whole torus dimensions.
    """
    if devices[0].platform != 'tpu':
        return np.array(devices).reshape(shape)
    try:
        return mesh_utils.create_device_mesh(shape, devices, contiguous_submeshes=False)
    except NotImplementedError as error:
        torus = [max(place) + 1 for place in zip(*(device.coords for device in devices))]
        dimensions = [size for size in torus if size > 1]
        raise config.InputError(
            f'mesh {shape_text(dict(zip(AXES, shape)))} cannot be laid on a slice of {"x".join(map(str, dimensions))}: '
            'each axis must be the product of whole dimensions of the torus, such as '
            f'{", ".join(map(str, _products(dimensions)))}.'
        ) from error


def _products(dimensions: Sequence[int]) -> list[int]:
    """The sizes that a mesh axis may have: products of some of the dimensions."""
    found = {1}
    for size in dimensions:
        found |= {size * other for other in found}
    return sorted(found - {1})


@dataclasses.dataclass(frozen=True)
class Place:
    """A mesh and its rule table: turns logical axes into shardings."""

    mesh: jax.sharding.Mesh
    rules: Rules

    def __post_init__(self) -> None:
        for logical, axes in self.rules:
            unknown = [axis for axis in axes if axis not in AXES]
            if unknown:
                known = config.nearest(unknown[0], AXES)
                raise config.InputError(f'mesh.rules: {logical!r} names the mesh axis {unknown[0]!r}.{known}')

    def spec(self, axes: LogicalAxes) -> PartitionSpec:
        """The mesh axes of each dimension."""
        taken, entries = set(), []
        for logical in axes:
            free = tuple(axis for axis in self.names(logical or '') if axis not in taken)
            taken.update(free)
            entries.append(free if len(free) > 1 else free[0] if free else None)
        return PartitionSpec(*entries)

    def sharding(self, axes: LogicalAxes) -> NamedSharding:
        return NamedSharding(self.mesh, self.spec(axes))

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def platform(self) -> str:
        """'cpu', 'gpu' or 'tpu'; of the devices in the mesh, which need not be those of this machine."""
        return self.mesh.devices.flat[0].platform

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each mesh axis."""
        return dict(self.mesh.shape)

    def names(self, logical: str) -> tuple[str, ...]:
        """The mesh axes that cut a logical axis, without those of size 1."""
        return tuple(axis for axis in dict(self.rules).get(logical, ()) if self.mesh.shape[axis] > 1)

    def shards(self, logical: str) -> int:
        """Into how many parts the rule table cuts a logical axis."""
        return math.prod(self.mesh.shape[axis] for axis in self.names(logical))

    def check(self, name: str, shape: tuple[int, ...], axes: LogicalAxes) -> None:
        """Raises InputError if a dimension does not divide over the mesh axes that the rules give it."""
        for size, logical, entry in zip(shape, axes, self.spec(axes)):
            names = (entry,) if isinstance(entry, str) else entry or ()
            parts = math.prod(self.mesh.shape[axis] for axis in names)
            if size % parts:
                raise config.InputError(
                    f'{name}: axis {logical!r} of {size} does not divide over {" x ".join(names)} = {parts} devices; '
                    f'use a multiple of {parts}, a smaller mesh, or a rule table without {logical!r}.'
                )

    def batch_sharding(self, rank: int) -> NamedSharding:
        """Sharding of an input array: its first dimension is the batch."""
        return self.sharding(('batch', *[None] * (rank - 1)))

    def put_batch(self, batch: Mapping[str, np.ndarray], rows: int) -> dict[str, jax.Array]:
        """The global batch on the devices, from the rows that this process holds.

        Args:
          batch: name -> array whose first dimension is this process's rows, in order.
          rows: rows of the global batch.
        """
        return {
            name: jax.make_array_from_process_local_data(
                self.batch_sharding(value.ndim), value, (rows, *value.shape[1:])
            )
            for name, value in batch.items()
        }

    def local_rows(self, rows: int) -> slice:
        """Which rows of a global batch of `rows` this process must read.

        Raises:
          InputError: the batch does not divide over the mesh.
        """
        parts = self.shards('batch')
        if rows % parts:
            sizes = ' x '.join(f'{axis}={self.mesh.shape[axis]}' for axis in self.names('batch'))
            raise config.InputError(
                f'data.batch={rows} does not divide over the {parts} batch shards of the mesh ({sizes}); '
                f'use a multiple of {parts}, such as {-(-rows // parts) * parts}, or a smaller mesh.'
            )
        placed = self.batch_sharding(1).addressable_devices_indices_map((rows,)).values()
        mine = [index[0].indices(rows) for index in placed if index is not None]
        return slice(min(start for start, _, _ in mine), max(stop for _, stop, _ in mine))


_place: contextvars.ContextVar[Place | None] = contextvars.ContextVar('place', default=None)


@contextlib.contextmanager
def use(place: Place) -> Iterator[Place]:
    """Within this context constrain() applies `place`'s rule table."""
    token = _place.set(place)
    try:
        yield place
    finally:
        _place.reset(token)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """`x` laid out as the rules say for its logical axes. Outside `use` it is `x`, so that a layer works alone."""
    place = _place.get()
    if place is None or place.mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, place.sharding(axes))


def current() -> Place | None:
    """The place in use; None outside `use`."""
    return _place.get()


def shards(logical: str) -> int:
    """Into how many parts the mesh in use cuts a logical axis; 1 outside `use`."""
    place = _place.get()
    return 1 if place is None else place.shards(logical)


def on_each(
    function: Callable[..., Any], *, inputs: tuple[LogicalAxes | None, ...], outputs: Any
) -> Callable[..., Any]:
    """`function` run by every device on its own part of the arrays, where it may speak to others by the names of mesh
    axes (jax.lax.ppermute ...). For what the compiler cannot split by itself: custom kernels, sorting, rings.

    Outside `use`, and on one device, it is `function`.

    Args:
      inputs: the logical axes of each argument; None for an argument that is None.
      outputs: the logical axes of what it returns: one tuple of names, or a tuple of such tuples.
    """
    place = _place.get()
    if place is None or place.mesh.size == 1:
        return function

    def spec(axes: Any) -> Any:
        if axes is None or all(name is None or isinstance(name, str) for name in axes):
            return place.spec(axes or ())
        return tuple(spec(each) for each in axes)

    in_specs = tuple(spec(axes) for axes in inputs)
    # Kernels do not say over which axes their results vary, so that check is off.
    return jax.shard_map(function, mesh=place.mesh, in_specs=in_specs, out_specs=spec(outputs), check_vma=False)


def tree_shardings(place: Place, abstract: Any, axes: Any) -> Any:
    """The sharding of every array of a tree, checked.

    Args:
      abstract: tree of arrays or ShapeDtypeStructs.
      axes: the same tree with a tuple of logical axes for each.
    """

    def one(path: Any, leaf: Any, names: LogicalAxes) -> NamedSharding:
        place.check(jax.tree_util.keystr(path, simple=True, separator='/'), leaf.shape, names)
        return place.sharding(names)

    return jax.tree_util.tree_map_with_path(one, abstract, axes)


def state_shardings(place: Place, opt_state: Any, params: Any, shardings: Any) -> Any:
    """Shardings of an optimizer's state: whatever has the path and shape of a parameter lies where that parameter lies.

    The rest (counters, factored statistics) is replicated.

    Args:
      opt_state: abstract optimizer state.
      params: abstract parameters, whose tree the state repeats (moments, momentum).
      shardings: sharding of each parameter.
    """
    flat = jax.tree_util.tree_leaves_with_path(params)
    known = {tuple(path): (leaf.shape, place_of) for (path, leaf), place_of in zip(flat, jax.tree.leaves(shardings))}

    def one(path: Any, leaf: Any) -> NamedSharding:
        for start in range(len(path)):
            shape, place_of = known.get(tuple(path[start:]), (None, None))
            if shape == leaf.shape:
                return place_of
        return place.replicated

    return jax.tree_util.tree_map_with_path(one, opt_state)
