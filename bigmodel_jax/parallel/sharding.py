"""Where arrays live: mesh shapes, rule tables from logical to mesh axes, constraints. No other file knows the mesh.

Layers name logical axes ('embed', 'heads', 'batch' ...). A rule table maps each to mesh axes:

  pipeline  the layers, in stages (Huang et al., 2018, GPipe)
  data      replicas of the model, each with its part of the batch
  fsdp      the batch too, with parameters and optimizer state split over it (Rajbhandari et al., 2020, ZeRO stage 3)
  expert    the batch too; the experts of a routed layer live on different devices (Lepikhin et al., 2020, GShard)
  sequence  the positions of each row, for long rows (Liu et al., 2023, ring attention)
  tensor    heads, feed-forward width and vocabulary (Shoeybi et al., 2019, Megatron-LM), and between the layers the
            positions (Korthikanti et al., 2022, sequence parallelism)

One table serves every mesh: an axis of size 1 splits nothing. Several slices of a pod are joined along `data` or
`pipeline` by the data-centre network (DCN); the other axes stay on the links within a slice (ICI).
"""

import contextlib
import contextvars
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from bigmodel_jax import config
from bigmodel_jax.parallel import torus

AXES = torus.AXES
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
    # While attention sees whole rows of fewer heads.
    ('all_heads', ('tensor', 'sequence')),
    ('hidden', ('tensor',)),
    ('vocab', ('tensor',)),
    # The positions of the residual stream between the layers, where nothing mixes them.
    ('residual_length', ('sequence', 'tensor')),
    # Rows that meet no others in any layer, for what is done by each replica alone (parallel/pipeline.py).
    ('replica', ('data', 'fsdp')),
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
    pipeline_parts: config.Positive | None = None  # Microbatches in the pipeline; None: up to four for each stage.
    pipeline_rounds: config.Positive = 1  # How often each passes every stage; more than 1 is the interleaved schedule.

    def sizes(self, devices: int) -> dict[str, int]:
        """The size of each axis on `devices` devices, in the order of AXES.

        Raises:
          InputError: the axes do not multiply to a number of devices that is there.
        """
        given = {axis: getattr(self, axis) for axis in AXES}
        return torus.settled(given, devices, slices=self.slices, across=self.across)

    def build(self, devices: Sequence[jax.Device] | None = None) -> 'ShardingContext':
        """The mesh on `devices` (default: all).

        Raises:
          InputError: the mesh cannot be laid on these devices.
        """
        sizes = self.sizes(len(jax.devices() if devices is None else devices))
        if devices is None:
            devices = jax.devices()
            torus.check_every_process(devices[: math.prod(sizes.values())], sizes)
        shape = tuple((sizes | {self.across: sizes[self.across] // self.slices}).values())
        groups = torus.by_slice(list(devices)[: math.prod(sizes.values())], self.slices)
        blocks = [torus.lay(shape, group) for group in groups]
        grid = np.concatenate(blocks, axis=AXES.index(self.across))
        axis_types = (jax.sharding.AxisType.Auto,) * len(AXES)
        mesh = jax.sharding.Mesh(grid, AXES, axis_types=axis_types)
        return self._context(mesh)

    def abstract(self, devices: int, platform: str) -> 'ShardingContext':
        """The sharding context of devices that need not exist: programs can be traced and compiled for it, not run.

        Raises:
          InputError: as of sizes().
        """
        sizes = tuple(self.sizes(devices).values())
        axis_types = (jax.sharding.AxisType.Auto,) * len(AXES)
        mesh: Any = jax.sharding.AbstractMesh(sizes, AXES, axis_types=axis_types)
        return self._context(mesh, platform)

    def _context(self, mesh: Any, platform: str = '') -> 'ShardingContext':
        parts, rounds = self.pipeline_parts, self.pipeline_rounds
        return ShardingContext(
            mesh=mesh, rules=self.rules, abstract_platform=platform, pipeline_parts=parts, pipeline_rounds=rounds
        )


@dataclasses.dataclass(frozen=True)
class ShardingContext:
    """A mesh and its rule table: turns logical axes into shardings."""

    mesh: jax.sharding.Mesh
    rules: Rules
    manual: tuple[str, ...] = ()  # Mesh axes that per_device.shard_map() has split already; it splits no more.
    abstract_platform: str = ''  # The platform where there are no devices; see MeshShape.abstract().
    pipeline_parts: int | None = None
    pipeline_rounds: int = 1

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
        return self.abstract_platform or self.mesh.devices.flat[0].platform

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each mesh axis."""
        return dict(self.mesh.shape)

    def rings(self, axis: str) -> tuple[int, ...]:
        """The torus dimensions that a mesh axis runs along; see torus.rings()."""
        if self.abstract_platform:
            return (self.mesh.shape[axis],)
        lines = np.moveaxis(self.mesh.devices, AXES.index(axis), -1).reshape(-1, self.mesh.shape[axis])
        return torus.rings(list(lines[0]))

    def names(self, logical: str) -> tuple[str, ...]:
        """The mesh axes that shard a logical axis, without those of size 1."""
        axes = dict(self.rules).get(logical, ())
        return tuple(axis for axis in axes if self.mesh.shape[axis] > 1 and axis not in self.manual)

    def shards(self, logical: str) -> int:
        """The number of shards of a logical axis."""
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

    def fit(self, size: int, entry: Any) -> tuple[str, ...] | None:
        """The mesh axes of an entry of a spec, without the innermost ones that do not divide a dimension of `size`."""
        names = (entry,) if isinstance(entry, str) else entry or ()
        while size % math.prod(self.mesh.shape[axis] for axis in names):
            names = names[:-1]
        return names or None

    def batch_sharding(self, rank: int) -> NamedSharding:
        """Sharding of an input array: its first dimension is the batch."""
        return self.sharding(('batch', *[None] * (rank - 1)))

    def put_batch(self, batch: Mapping[str, np.ndarray], rows: int) -> dict[str, jax.Array]:
        """The global batch of `rows` on the devices, from the rows of this process: local_rows(), in that order."""
        mine = self.local_rows(rows)

        def part(value: np.ndarray, index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(rows)
            first = np.searchsorted(mine, start)
            return value[first : first + stop - start]

        return {
            name: jax.make_array_from_callback(
                (rows, *value.shape[1:]), self.batch_sharding(value.ndim), functools.partial(part, value)
            )
            for name, value in batch.items()
        }

    def local_rows(self, rows: int) -> np.ndarray:
        """Which rows of a global batch of `rows` this process must read: [n] int64, ascending, each once.

        They need not follow one another: a host's chips are neighbours in the torus, not along the batch.

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
        if self.abstract_platform:
            return np.arange(rows)
        placed = self.batch_sharding(1).addressable_devices_indices_map((rows,)).values()
        ranges = sorted({index[0].indices(rows)[:2] for index in placed if index is not None})
        return np.array([row for start, stop in ranges for row in range(start, stop)], np.int64)

    def of_each_process(self, number: int) -> jax.Array:
        """[devices] int32: at each device, the `number` that its process gives."""
        everywhere = NamedSharding(self.mesh, PartitionSpec(AXES))
        return jax.make_array_from_callback((self.mesh.size,), everywhere, lambda _: np.array([number], np.int32))


_place: contextvars.ContextVar[ShardingContext | None] = contextvars.ContextVar('place', default=None)


@contextlib.contextmanager
def use(place: ShardingContext) -> Iterator[ShardingContext]:
    """Within this Python context constrain() applies the rule table of `place`."""
    token = _place.set(place)
    try:
        yield place
    finally:
        _place.reset(token)


def constrain(x: jax.Array, *axes: Any) -> jax.Array:
    """`x` with a sharding constraint: that of its logical axes. Outside `use` it is `x`, so that a layer works alone.

    A last `...` leaves the other dimensions to the compiler. Mesh axes that do not divide a dimension (one token of a
    decoder, the last rows of a test set) are left out: those devices hold copies.
    """
    place = _place.get()
    if place is None or place.mesh.size == 1 or len(place.manual) == len(AXES):
        return x
    free = x.ndim - len(axes) + 1 if axes[-1:] == (...,) else 0
    fitted = [place.fit(size, entry) for size, entry in zip(x.shape, place.spec(axes[:-1] if free else axes))]
    spec = PartitionSpec(*fitted, *[PartitionSpec.UNCONSTRAINED] * free)
    # Within shard_map() the mesh is known, and only the axes that are left may be named.
    return jax.lax.with_sharding_constraint(x, spec if place.manual else NamedSharding(place.mesh, spec))


def current() -> ShardingContext | None:
    """The sharding context in use; None outside `use`."""
    return _place.get()


def shards(logical: str) -> int:
    """The number of shards of a logical axis on the mesh in use; 1 outside `use`."""
    place = _place.get()
    return 1 if place is None else place.shards(logical)


def even(logical: str, size: int) -> str:
    """`logical` if its devices can share `size` evenly; '' where each needs all of it, such as one row or token."""
    return '' if size % shards(logical) else logical


def names(*logical: str) -> tuple[str, ...]:
    """The mesh axes that shard some logical axes on the mesh in use, each once; none outside `use`."""
    place = _place.get()
    return () if place is None else tuple(dict.fromkeys(axis for each in logical for axis in place.names(each)))


def restricted(spec: PartitionSpec, axes: tuple[str, ...]) -> PartitionSpec:
    """`spec` without the mesh axes that are not in `axes`."""
    entries = [(entry,) if isinstance(entry, str) else entry or () for entry in spec]
    return PartitionSpec(*(tuple(name for name in entry if name in axes) or None for entry in entries))
