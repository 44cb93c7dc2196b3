"""Batches: batch k is a pure function of (seed, k), whatever the number of hosts; the position to save is one integer.

A `Data` config builds `Batches`: random-access `Examples` in an order that is a stateless permutation of (seed, epoch).
Every batch is a dict of arrays whose first axis is the batch. `Batches` add `example_weights` [B] float32, which is 0
where an example is padding; data whose positions do not all count also has `loss_weights` [B, T] float32.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import arrays as checking
from bigmodel_jax.data import order

Batch = dict[str, np.ndarray]
ROW_HASH = 'row_hash'  # The field in which the rows on the devices say which examples they are; see row_hashes().
EXAMPLE_WEIGHTS, LOSS_WEIGHTS = 'example_weights', 'loss_weights'
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio.
Rows = slice | np.ndarray  # Of a batch, counted from 0; an array has their numbers, [n] int64.


@dataclasses.dataclass(frozen=True)
class Field:
    """One array of a batch: `Field((T,), np.dtype(np.int32), ('length',), vocab)` are token ids of shape [B, T].

    Raises:
      InputError: `axes` does not name every dimension of `shape`.
    """

    shape: tuple[int, ...]  # Of one example, without the batch axis.
    dtype: np.dtype
    axes: tuple[str, ...]  # What each dimension is: ('length',), ('height', 'width', 'channels'), ('features',), ().
    upper_bound: int | None = None  # Of integers: each is at least 0 and less than this; None if it is not known.

    def __post_init__(self) -> None:
        object.__setattr__(self, 'shape', tuple(self.shape))
        object.__setattr__(self, 'dtype', np.dtype(self.dtype))
        named = isinstance(self.axes, tuple | list) and all(isinstance(axis, str) for axis in self.axes)
        if not named or len(self.axes) != len(self.shape):
            raise config.InputError(
                f'Field: axes={self.axes!r} should be a tuple with a name for each of the {len(self.shape)} dimensions '
                f"of shape={self.shape}: ('length',) for a sequence, ('height', 'width', 'channels') for an image, "
                "('features',) for a vector, () for one number."
            )
        object.__setattr__(self, 'axes', tuple(self.axes))

    def sizes(self, axis: str) -> tuple[int, ...]:
        """The sizes of the dimensions called `axis`; () if there is none."""
        return tuple(size for size, name in zip(self.shape, self.axes) if name == axis)


def batch_fields(fields: Mapping[str, Field]) -> dict[str, Field]:
    """The fields of a batch: those of its data, and `example_weights`.

    Raises:
      InputError: the data has `weights`, which could be of examples or of positions, or others that are not as they
        should be.
    """
    checking.refuse(checking.problems_of_weights(fields))
    return {**fields, EXAMPLE_WEIGHTS: Field((), np.dtype(np.float32), ())}


class Units(NamedTuple):
    """What throughput counts: `Units('tokens', 1_024)` are 1,024 tokens in each example."""

    name: str  # In the plural, as in 'images_per_s'.
    per_example: float


class Examples:
    """Random access to fixed-shape examples. Subclasses say how one is read."""

    fields: Mapping[str, Field]
    fingerprint: Mapping[str, Any]  # JSON-ready: what the data is (name, version, size, hash of the content).
    tokenizer: Any = None  # The data.tokenizer.Tokenizer of text; a run stores it.
    fitted: Any = None  # The data.tabular.fitting.FittedValues of a table; a run stores them.
    views: int = 1  # So many successive examples show one thing, and an evaluation may average their predictions.

    def __len__(self) -> int:
        raise NotImplementedError

    def gather(self, indices: np.ndarray, epochs: np.ndarray, seed: int) -> Batch:
        """The examples at `indices` [n], stacked.

        Args:
          indices: [n] int64, each in [0, len).
          epochs: [n] int64, the pass over the data that each belongs to; with seed and index, the key of augmentation.
          seed: the experiment's seed.
        """
        raise NotImplementedError

    def problems(self, declared: Mapping[str, Field]) -> list[str]:
        """Where the examples are not what their Data declares, as far as that can be told without reading them all."""
        return checking.problems_of_fields(self.fields, declared)


class ArrayExamples(Examples):
    """Examples that fit in memory: a dict of arrays with a common first axis.

    Args:
      fields: what the arrays are, each by its name.

    Raises:
      InputError: the arrays are not what `fields` says, there are none, or a number is not finite.
    """

    def __init__(
        self, arrays: Mapping[str, np.ndarray], fields: Mapping[str, Field], *, fingerprint: Mapping[str, Any]
    ):
        checking.refuse(checking.problems_of_lengths(arrays) if arrays else ['There is no array.'])
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        count = len(next(iter(arrays.values())))
        self._arrays, self.fields, self._count = arrays, fields, count
        self.fingerprint = {**fingerprint, 'examples': count}
        checking.refuse(checking.problems_of_weights(fields) or checking.problems_of_arrays(arrays, fields))

    def __len__(self) -> int:
        return self._count

    def gather(self, indices: np.ndarray, epochs: np.ndarray, seed: int) -> Batch:
        return {name: array[indices] for name, array in self._arrays.items()}

    def problems(self, declared: Mapping[str, Field]) -> list[str]:
        bounds = {name: field.upper_bound for name, field in declared.items() if name in self._arrays}
        found = [checking.problem_of_values(name, self._arrays[name], bound) for name, bound in bounds.items()]
        return super().problems(declared) + [problem for problem in found if problem]

    def blanks(self, rows: int) -> str | None:
        """Why a batch of `rows` may have no loss; None if every batch has one."""
        counts = np.ones(self._count, bool)
        for name in (EXAMPLE_WEIGHTS, LOSS_WEIGHTS):
            if name in self._arrays:
                counts &= self._arrays[name].reshape(self._count, -1).any(axis=1)
        return checking.problem_of_blanks(counts, rows)


class Batches:
    """The batches of a run.

    Args:
      examples: what to read.
      rows: examples in one global batch.
      seed: of the order and of the augmentation.
    """

    def __init__(self, examples: Examples, *, rows: int, seed: int):
        if not len(examples):
            raise config.InputError(f'The data holds no example: {dict(examples.fingerprint)}.')
        self.examples, self.rows, self.seed = examples, rows, seed

    @property
    def fields(self) -> Mapping[str, Field]:
        """The arrays of a batch."""
        return batch_fields(self.examples.fields)

    def _positions(self, index: int, rows: Rows | None) -> np.ndarray:
        """[n] int64: where the rows of batch `index` stand in the whole stream of examples."""
        positions = np.arange(index * self.rows, (index + 1) * self.rows)
        return positions if rows is None else positions[rows]

    def ids_at(self, positions: np.ndarray) -> np.ndarray:
        """[n] int64: the examples at `positions` [n] of the stream."""
        return order.ids_at(positions, len(self.examples), self.seed)

    def epochs_at(self, positions: np.ndarray) -> np.ndarray:
        """[n] int64: the pass over its data that each example at `positions` [n] of the stream belongs to."""
        return positions // len(self.examples)

    def ids(self, step: int, rows: Rows | None = None) -> np.ndarray:
        """[n] int64: the ids of the examples in the training batch of `step` (the first step is 0), in order."""
        return self.ids_at(self._positions(step, rows))

    def training(self, step: int, rows: Rows | None = None) -> Batch:
        """The batch of training step `step`, the first being 0; only its `rows` if given."""
        return self.read(step, self.ids(step, rows), rows)

    def read(self, step: int, ids: np.ndarray, rows: Rows | None = None) -> Batch:
        """As training(), for a caller who already knows ids(step, rows)."""
        return self._gather(ids, self.epochs_at(self._positions(step, rows)))

    def _gather(self, ids: np.ndarray, epochs: np.ndarray) -> Batch:
        """The examples of a batch with their weights, checked: an id out of bounds would be clamped on the devices.

        Raises:
          InputError: they are not what `fields` says.
        """
        try:
            batch = self.examples.gather(ids, epochs, self.seed)
        except Exception as error:
            error.add_note(f'while reading the examples {", ".join(map(str, ids[:8].tolist()))} ... of a batch')
            raise
        batch = {EXAMPLE_WEIGHTS: np.ones(len(ids), np.float32), **batch}
        found: list[str | None] = [*checking.problems_of_shapes(batch, self.fields)] or [
            checking.problem_of_values(name, batch[name], field.upper_bound, ids)
            for name, field in self.fields.items()
            if field.upper_bound is not None
        ]
        checking.refuse([problem for problem in found if problem])
        return batch

    def row_hashes(self, ids: np.ndarray, rows: Rows | None = None) -> np.ndarray:
        """[n, 2] uint32: a hash of each row's place in its batch and example; their sum is the batch's certificate.

        Sums modulo 2^32 do not depend on the order, so that each host hashes its own rows.

        Args:
          ids: [n] int64, of `rows`.
        """
        places = np.arange(self.rows) if rows is None else np.arange(self.rows)[rows]
        mixed = ids.astype(np.uint64) * GOLDEN + mix(places.astype(np.uint64))
        return mix(mixed).view(np.uint32).reshape(-1, 2)

    @property
    def steps_per_pass(self) -> int:
        """Batches in one pass over all examples in order; the last may be partly padding."""
        return -(-len(self.examples) // self.rows)

    def eval_batch(self, index: int, rows: Rows | None = None) -> Batch:
        """Batch `index` of one pass over all examples in order; rows past the end repeat the last with weight 0."""
        positions = self._positions(index, rows)
        inside = positions < len(self.examples)
        batch = self._gather(np.minimum(positions, len(self.examples) - 1), np.zeros_like(positions))
        return batch | {EXAMPLE_WEIGHTS: batch[EXAMPLE_WEIGHTS] * inside.astype(np.float32)}


def mix(x: np.ndarray) -> np.ndarray:
    """[n] uint64 -> [n] uint64, each bit of which depends on every bit. Source: splitmix64 (Steele et al., 2014)."""
    x = x + GOLDEN  # Modulo 2^64, as all here.
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Data:
    """Interface of the configs that make batches."""

    batch: int  # Rows of the global batch.

    @property
    def fields(self) -> Mapping[str, Field]:
        """The arrays of the examples, as far as they are known without preparing or even having the data.

        `loss_weights` [T], where there is one, says how much each target counts. `example_weights` is not among them,
        unless examples should count differently.
        """
        raise NotImplementedError

    @property
    def units(self) -> Units:
        """What throughput counts."""
        return Units('examples', 1)

    @property
    def units_per_step(self) -> float:
        """How many units a global batch holds."""
        return self.batch * self.units.per_example

    def build(self, seed: int) -> Batches:
        """Prepares what is not prepared yet, and opens it.

        Raises:
          InputError: a file or data set is missing, empty or unreadable.
        """
        raise NotImplementedError

    def open(self, seed: int) -> Batches:
        """As build(), and checks the result against `fields`.

        Raises:
          InputError: as build() does; or the examples have other shapes, dtypes or bounds.
        """
        checking.refuse(checking.problems_of_weights(self.fields))
        built = self.build(seed)
        checking.refuse(built.examples.problems(self.fields))
        return built
