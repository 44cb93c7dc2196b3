"""Every array of a training state: shape, dtype, logical axes, where it lies, and what it costs a device."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from rich import text

from bigmodel_jax.console import quantities
from bigmodel_jax.optim.parameter_groups import FROZEN

PyTree = Any

COLUMNS = ('array', 'shape', 'dtype', 'axes', 'split over', 'bytes', 'per device', 'copies', 'training')
NUMBERS = COLUMNS[5:8]

# Below this, replicating an array costs nothing worth a warning.
SMALL_BYTES = 2**20
LARGE_PART = 0.01  # Of all parameters.
ADVICE = 'If memory is short, give mesh.fsdp or mesh.tensor more devices, or one of their axes a rule in mesh.rules.'

PLAIN = (
    'Arrays of plain Flax layers, which name no axes: {count}. Each of two or more dimensions is split along the '
    "largest one that divides, over the mesh axes of the rule for 'embed', and is subject to weight decay unless its "
    'name ends in bias or scale; every other one is replicated and does not decay.'
)


class ArrayRow(NamedTuple):
    """One array."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    axes: tuple[str | None, ...] | None  # Logical; None where none are known.
    spec: tuple[Any, ...]  # The mesh axis, several, or None, for each dimension.
    size_bytes: int
    device_bytes: int
    copies: int  # Devices that hold each of its elements.
    training: str = ''  # Of a parameter: whether it is frozen or decays, and its multiple of the learning rate.

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def rows(
    abstract: PyTree, axes: PyTree | None, shardings: PyTree, *, training: Mapping[str, str] | None = None
) -> list[ArrayRow]:
    """The arrays of a tree.

    Args:
      abstract: tree of arrays or ShapeDtypeStructs.
      axes: the same tree with a tuple of logical axes for each; None if they have none, as an optimizer's state.
      shardings: the same tree with the NamedSharding of each.
      training: path -> ArrayRow.training.
    """
    found: list[ArrayRow] = []

    def add(path: Any, leaf: Any, place: Any, names: tuple[str | None, ...] | None = None) -> None:
        row, how = _row(path, leaf, names, place), training or {}
        # A weight in few bits consists of several arrays, below its own path.
        found.append(row._replace(training=how.get(row.path) or how.get(row.path.rpartition('.')[0], '')))

    # Maps over the structure of `abstract`, so that the tuples of logical axes count as leaves.
    jax.tree_util.tree_map_with_path(add, abstract, shardings, *([] if axes is None else [axes]))
    return found


def _row(path: Any, leaf: Any, axes: tuple[str | None, ...] | None, place: Any) -> ArrayRow:
    shard = place.shard_shape(leaf.shape)
    pieces = math.prod(-(-size // part) for size, part in zip(leaf.shape, shard) if part)
    entries = tuple(place.spec)
    return ArrayRow(
        path=jax.tree_util.keystr(path, simple=True, separator='.'),
        shape=tuple(leaf.shape),
        dtype=str(leaf.dtype),
        axes=axes,
        spec=(*entries, *[None] * (len(leaf.shape) - len(entries))),
        size_bytes=math.prod(leaf.shape) * leaf.dtype.itemsize,
        device_bytes=math.prod(shard) * leaf.dtype.itemsize,
        copies=place.num_devices // pieces,
    )


def replicated(groups: Mapping[str, Sequence[ArrayRow]]) -> list[str]:
    """A line for each large array of which several devices hold the same elements.

    Large is more than 1% of the parameters, and more than 1 MiB.

    Args:
      groups: name -> rows; one must be called 'parameters'.
    """
    limit = max(SMALL_BYTES, LARGE_PART * sum(row.size_bytes for row in groups['parameters']))
    return [
        f'{group}/{row.path}, {quantities.size(row.size_bytes)}: {row.copies} copies, '
        + (f'split over {_axes_text(row.spec)} only' if any(row.spec) else 'split over nothing')
        for group, members in groups.items()
        for row in members
        if row.copies > 1 and row.size_bytes > limit
    ]


def render(groups: Mapping[str, Sequence[ArrayRow]]) -> text.Text:
    """Tables and warnings for rich.console.Console.print(..., soft_wrap=True): no path is ever cut.

    Args:
      groups: name -> rows, such as 'parameters', 'optimizer state', 'model state'.
    """
    every = [row for members in groups.values() for row in members]
    shown = text.Text()
    for name, members in groups.items():
        if members:
            shown.append(f'{name}: {_total(members)}\n', style='bold').append(_table(members)).append('\n')
    shown.append(f'All together: {_total(every)}', style='bold')
    plain = [row for row in groups.get('parameters', ()) if row.shape and not any(row.axes or ())]
    if plain:
        shown.append(f'\n{PLAIN.format(count=len(plain))}')
    large = replicated(groups)
    if large:
        shown.append(f'\nWARNING: several devices hold the same large arrays. {ADVICE}', style='bold red')
    for line in large:
        shown.append(f'\n  {line}', style='red')
    return shown


def _table(members: Sequence[ArrayRow]) -> text.Text:
    lines = [COLUMNS, *map(_cells, members)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    shown = text.Text()
    for number, cells in enumerate(lines):
        padded = [
            cell.rjust(width) if column in NUMBERS else cell.ljust(width)
            for column, cell, width in zip(COLUMNS, cells, widths)
        ]
        shown.append(f'  {padded[0]}', style='cyan' if number else 'dim')
        shown.append(f'  {"  ".join(padded[1:]).rstrip()}\n', style='' if number else 'dim')
    return shown


def _cells(row: ArrayRow) -> tuple[str, ...]:
    shape = ' x '.join(map(str, row.shape)) or 'scalar'
    sizes = (quantities.size(row.size_bytes), quantities.size(row.device_bytes), str(row.copies))
    return (row.path, shape, row.dtype, _axes_text(row.axes), _axes_text(row.spec), *sizes, row.training)


def _total(members: Sequence[ArrayRow]) -> str:
    elements, size_bytes, device_bytes = (
        sum(getattr(row, field) for row in members) for field in ('elements', 'size_bytes', 'device_bytes')
    )
    frozen = sum(row.elements for row in members if row.training == FROZEN)
    shares = f'; {quantities.whole(elements - frozen)} trained, {quantities.whole(frozen)} frozen' if frozen else ''
    return (
        f'{quantities.whole(elements)} numbers in {len(members)} arrays, {quantities.size(size_bytes)}, '
        f'{quantities.size(device_bytes)} on each device{shares}'
    )


def _axes_text(axes: Sequence[Any] | None) -> str:
    """('embed', None) -> 'embed, -'; a dimension over several mesh axes as 'data x fsdp'."""
    if axes is None:
        return ''
    return ', '.join('-' if axis is None else axis if isinstance(axis, str) else ' x '.join(axis) for axis in axes)
