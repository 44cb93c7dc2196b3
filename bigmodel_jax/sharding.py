"""Where arrays live: mesh shapes, rule tables from logical to mesh axes, constraints. No other file knows the mesh.

Layers name logical axes ('embed', 'heads', 'batch' ...). A rule table maps each to mesh axes:

  data    replicas of the model, each with its part of the batch
  fsdp    the batch too, with parameters and optimizer state split over it (Rajbhandari et al., 2020, ZeRO stage 3)
  tensor  heads, feed-forward width and vocabulary (Shoeybi et al., 2019, Megatron-LM)

One table serves every mesh: an axis of size 1 splits nothing.
"""

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from bigmodel_jax import config

AXES = ('data', 'fsdp', 'tensor')

Rules = tuple[tuple[str, tuple[str, ...]], ...]
LogicalAxes = tuple[str | None, ...]

# Logical axis -> mesh axes. Within one array the first dimension that asks for a mesh axis gets it: the batch of an
# activation takes 'fsdp', so its 'embed' stays whole; a weight has no batch, so its 'embed' is split.
STANDARD: Rules = (
    ('batch', ('data', 'fsdp')),
    ('embed', ('fsdp',)),
    ('heads', ('tensor',)),
    ('kv_heads', ('tensor',)),
    ('hidden', ('tensor',)),
    ('vocab', ('tensor',)),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshShape:
    """Devices along each mesh axis, and the rule table. `data=-1` takes the devices that the others leave."""

    data: int = -1
    fsdp: config.Positive = 1
    tensor: config.Positive = 1
    rules: Rules = STANDARD

    def sizes(self, devices: int) -> dict[str, int]:
        """The size of each axis on `devices` devices.

        Raises:
          InputError: the axes do not multiply to a number of devices that is there.
        """
        inner = self.fsdp * self.tensor
        if self.data == 0 or self.data < -1:
            raise config.InputError(f'mesh.data={self.data}: use -1 (all that is left) or a positive number.')
        data = max(devices // inner, 1) if self.data == -1 else self.data
        needed = data * inner
        shape = f'mesh data={data} x fsdp={self.fsdp} x tensor={self.tensor}'
        if needed > devices:
            raise config.InputError(
                f'{shape} needs {needed} devices, but this machine has {devices}. Use a smaller mesh '
                f'(--set mesh.fsdp=1), or --simulate-devices {needed} to try it on the CPU.'
            )
        if self.data == -1 and needed != devices:
            raise config.InputError(f'{shape} uses {needed} of {devices} devices; fsdp x tensor must divide {devices}.')
        return {'data': data, 'fsdp': self.fsdp, 'tensor': self.tensor}

    def build(self, devices: Sequence[jax.Device] | None = None) -> 'Place':
        """The mesh on `devices` (default: all)."""
        devices = jax.devices() if devices is None else devices
        sizes = self.sizes(len(devices))
        used = list(devices)[: math.prod(sizes.values())]
        mesh = jax.make_mesh(tuple(sizes.values()), AXES, devices=used, axis_types=(jax.sharding.AxisType.Auto,) * 3)
        return Place(mesh=mesh, rules=self.rules)


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
        table, taken, entries = dict(self.rules), set(), []
        for logical in axes:
            free = tuple(axis for axis in table.get(logical or '', ()) if axis not in taken)
            taken.update(free)
            entries.append(free if len(free) > 1 else free[0] if free else None)
        return PartitionSpec(*entries)

    def sharding(self, axes: LogicalAxes) -> NamedSharding:
        return NamedSharding(self.mesh, self.spec(axes))

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def shards(self, logical: str) -> int:
        """Into how many parts the rule table cuts a logical axis."""
        return math.prod(self.mesh.shape[axis] for axis in dict(self.rules).get(logical, ()))

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
            sizes = ' x '.join(f'{axis}={self.mesh.shape[axis]}' for axis in dict(self.rules)['batch'])
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


def shards(logical: str) -> int:
    """Into how many parts the mesh in use cuts a logical axis; 1 outside `use`."""
    place = _place.get()
    return 1 if place is None else place.shards(logical)


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
