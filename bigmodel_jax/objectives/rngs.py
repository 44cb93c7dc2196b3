"""Named random streams, whose keys follow from the seed, the step and the name."""

import dataclasses
from collections.abc import Iterator, Mapping

import jax

from bigmodel_jax import config
from bigmodel_jax.data import counter_rng

# What the key of each stream is folded with; 'dropout' has the key of the step itself. Microbatches are numbered from 0
# and folded into the same keys, so the constants are larger than any such number: the names in ASCII.
FOLDED_WITH: Mapping[str, int | None] = {
    'dropout': None,
    'mask': 0x6D61736B,
    'noise': 0x6E6F6973,
    'timestep': 0x74696D65,
}
EVALUATION = 0x6576616C  # Folded into the seed, so that an evaluation shares no key with a step of training.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rngs(Mapping[str, jax.Array]):
    """The keys of some of the streams, by name: `rngs['noise']`.

    Args:
      key: of a step, or of a microbatch of one.
      names: the streams; those that an objective declares in `streams`.
    """

    key: jax.Array
    names: tuple[str, ...] = dataclasses.field(default=('dropout',), metadata={'static': True})

    def __getitem__(self, name: str) -> jax.Array:
        """The key of a stream.

        Raises:
          InputError: there is no such stream, or it is not declared.
        """
        check(name)
        if name not in self.names:
            raise config.InputError(
                f'The random stream {name!r} is not declared: the objective declares {listed(self.names)}. Set '
                f'`streams = {(*self.names, name)!r}` in its class.'
            )
        constant = FOLDED_WITH[name]
        return self.key if constant is None else jax.random.fold_in(self.key, constant)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def fold_in(self, number: jax.Array | int) -> 'Rngs':
        """The streams of one part of a batch, such as a microbatch."""
        return dataclasses.replace(self, key=jax.random.fold_in(self.key, number))


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
