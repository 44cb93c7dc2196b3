"""The sizes that an exported program leaves open: rows, lengths, and slots of a cache."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jax import export as jax_export

from bigmodel_jax import config
from bigmodel_jax.data import batches

ROWS, LENGTH, SOURCE_LENGTH, SLOTS = 'rows', 'length', 'source_length', 'slots'
MEANING = {
    ROWS: 'rows of a batch',
    LENGTH: 'tokens of a row',
    SOURCE_LENGTH: 'tokens of a row of the source',
    SLOTS: 'slots of the cache: the prompt and all new tokens',
    'predictions': 'positions of a row that are predicted',
}
OPEN_AXES = ('length', 'predictions')  # Of the fields of a batch; the other axes, as of an image, are fixed.


@dataclasses.dataclass(frozen=True)
class FixedSizes:
    """Sizes that a person fixes, where a model has no program for all of them."""

    rows: int | None = None  # None: any number.
    length: int | None = None  # Of rows of tokens, and of the cache.

    def of(self, name: str) -> int | None:
        """The size of a dimension; None if it is open."""
        return self.rows if name == ROWS else self.length

    def __bool__(self) -> bool:
        return self.rows is not None or self.length is not None


def dimension_of(field: str, axis: str) -> str:
    """The name of an open axis of a field: the source of a translation is as long as it is."""
    return SOURCE_LENGTH if axis == 'length' and field.startswith('source') else axis


class OpenSizes:
    """The dimensions of the arguments of one program, as symbols that share their constraints.

    Args:
      longest: how many tokens the model reads at most; None if nothing limits them.
    """

    def __init__(self, names: tuple[str, ...], fixed: FixedSizes, longest: int | None):
        self.open = tuple(name for name in names if fixed.of(name) is None)
        limits = [f'{name} >= 1' for name in self.open]
        limits += [f'{name} <= {longest}' for name in self.open if name != ROWS and longest is not None]
        if SLOTS in self.open and LENGTH in self.open:
            limits.append(f'{SLOTS} >= {LENGTH}')
        symbols = jax_export.symbolic_shape(', '.join(self.open), constraints=limits) if self.open else ()
        self._sizes: dict[str, Any] = {name: fixed.of(name) for name in names} | dict(zip(self.open, symbols))

    def __getitem__(self, name: str) -> Any:
        """A symbol or a number."""
        return self._sizes[name]

    def array(self, shape: tuple[str | int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        """An array with open dimensions, which are given by name."""
        return jax.ShapeDtypeStruct([self._sizes.get(each, each) for each in shape], dtype)  # type: ignore[arg-type]


def shape_of(name: str, field: batches.Field) -> tuple[str | int, ...]:
    """The shape of a field of a batch, with the names of its open dimensions."""
    inner = [
        dimension_of(name, axis) if axis in OPEN_AXES else size for size, axis in zip(field.shape, field.axes)
    ]  # fmt: skip
    return (ROWS, *inner)


def names_in(shapes: Mapping[str, tuple[str | int, ...]]) -> tuple[str, ...]:
    """The names of the open dimensions of some shapes."""
    return tuple(dict.fromkeys(each for shape in shapes.values() for each in shape if isinstance(each, str)))


def check(fixed: FixedSizes, longest: int | None) -> None:
    """Raises InputError for a fixed length that the model cannot read."""
    if fixed.length is not None and longest is not None and fixed.length > longest:
        raise config.InputError(f'--length {fixed.length}: the model reads at most {longest} tokens.')
