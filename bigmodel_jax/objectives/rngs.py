"""Named random streams, whose keys follow from the seed, the step and the name."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bigmodel_jax import config
from bigmodel_jax.data import batches, counter_rng

# What the key of each stream is folded with; 'dropout' has the key of the step itself. Microbatches are numbered from 0
# and folded into the same keys, so the constants are larger than any such number: the names in ASCII.
FOLDED_WITH: Mapping[str, int | None] = {
    'dropout': None,
    'mask': 0x6D61736B,
    'noise': 0x6E6F6973,
    'timestep': 0x74696D65,
    'condition': 0x636F6E64,
}
EVALUATION = 0x6576616C  # Folded into the seed, so that an evaluation shares no key with a step of training.


class RowIds(NamedTuple):
    """Which example each row of a batch is, so that what is drawn for it does not depend on where it is computed.

    Attributes:
      key: of the step, or of the evaluation; the same for all microbatches and devices.
      ids: [B, n] uint32, folded into it one after the other.
    """

    key: jax.Array
    ids: jax.Array

    @classmethod
    def numbered(cls, key: jax.Array, first: jax.Array | int, rows: int) -> 'RowIds':
        """Rows with the numbers `first`, `first` + 1 ..."""
        return cls(key, (jnp.uint32(first) + jnp.arange(rows, dtype=jnp.uint32))[:, None])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rngs(Mapping[str, jax.Array]):
    """The keys of some of the streams, by name: `rngs['noise']`.

    Args:
      key: of a step, or of a microbatch of one.
      names: the streams; those that an objective declares in `streams`.
      rows: of the batch, for of_rows(); None: they are numbered from 0, with the key of the step.
    """

    key: jax.Array
    names: tuple[str, ...] = dataclasses.field(default=('dropout',), metadata={'static': True})
    rows: RowIds | None = None

    def __getitem__(self, name: str) -> jax.Array:
        """The key of a stream.

        Raises:
          InputError: there is no such stream, or it is not declared.
        """
        return self._folded(self.key, name)

    def of_rows(self, name: str, count: int) -> jax.Array:
        """[B] keys of a stream, one for each of the `count` rows of the batch.

        Each follows from the seed, the step and the example, and in an evaluation from the seed and the example:
        whatever the mesh, the microbatches and, in an evaluation, the size of its batches.

        Raises:
          InputError: as of rngs[name].
        """
        rows = RowIds.numbered(self.key, 0, count) if self.rows is None else self.rows
        key = self._folded(rows.key, name)

        def of_row(ids: jax.Array) -> jax.Array:
            found = key
            for number in range(rows.ids.shape[1]):
                found = jax.random.fold_in(found, ids[number])
            return found

        return jax.vmap(of_row)(rows.ids)

    def _folded(self, key: jax.Array, name: str) -> jax.Array:
        check(name)
        if name not in self.names:
            raise config.InputError(
                f'The random stream {name!r} is not declared: the objective declares {listed(self.names)}. Set '
                f'`streams = {(*self.names, name)!r}` in its class.'
            )
        constant = FOLDED_WITH[name]
        return key if constant is None else jax.random.fold_in(key, constant)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def fold_in(self, number: jax.Array | int) -> 'Rngs':
        """The streams of one part of a batch, such as a microbatch."""
        return dataclasses.replace(self, key=jax.random.fold_in(self.key, number))


def of_evaluation(seed: int, number: jax.Array | int, streams: tuple[str, ...], rows: int) -> Rngs:
    """The streams of batch `number` of an evaluation, whose batches have so many rows."""
    whole = jax.random.fold_in(counter_rng.key(seed), EVALUATION)
    return Rngs(evaluation_key(seed, number), streams, RowIds.numbered(whole, number * rows, rows))


def of_training(
    batch: Mapping[str, jax.Array], key: jax.Array, step_key: jax.Array, streams: tuple[str, ...]
) -> tuple[dict[str, jax.Array], Rngs]:
    """What an objective reads of a batch, or of a part of one, and its streams.

    Args:
      batch: with or without the hashes of its rows.
      key, step_key: of this part, and of the step.
    """
    seen = {name: value for name, value in batch.items() if name != batches.ROW_HASH}
    if batches.ROW_HASH not in batch:
        return seen, Rngs(key, streams)
    return seen, Rngs(key, streams, RowIds(step_key, batch[batches.ROW_HASH]))


def draws(streams: tuple[str, ...]) -> bool:
    """Whether an objective of these streams draws random numbers itself, and may ask for those of rows."""
    return any(name != 'dropout' for name in streams)


def evaluation_key(seed: int, number: jax.Array | int) -> jax.Array:
    """The key of batch `number` of an evaluation: the same at every step of training, so that steps compare."""
    return jax.random.fold_in(jax.random.fold_in(counter_rng.key(seed), EVALUATION), number)


def check(name: str) -> None:
    """Raises InputError if there is no random stream of this name."""
    if name not in FOLDED_WITH:
        raise config.InputError(f'There is no random stream {name!r}; the streams are {listed(FOLDED_WITH)}.')


def listed(names: Mapping[str, object] | tuple[str, ...]) -> str:
    """'dropout, noise'."""
    return ', '.join(names) or 'none'
