"""Continues with another optimizer: the state that both have is kept, and the rest is initialized."""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from bigmodel_jax import config

COUNTER = 'count'  # What Optax calls the number of updates, by which a schedule knows where it is.

Arrays = dict[str, tuple[tuple[int, ...], str]]  # Path -> shape and dtype.


def check_same(wanted: Arrays, stored: Arrays, where: str) -> None:
    """Raises InputError if the arrays stored in a checkpoint are not those of the experiment."""
    problems = [f'  {name}: not in the checkpoint' for name in wanted if name not in stored]
    problems += [f'  {name}: not in this experiment' for name in stored if name not in wanted]
    for name in wanted.keys() & stored.keys():
        if wanted[name] != stored[name]:
            problems.append(
                f'  {name}: {_text(stored[name])} in the checkpoint, {_text(wanted[name])} in this experiment'
            )
    if problems:
        more = f'\n  ... and {len(problems) - 8} more' if len(problems) > 8 else ''
        raise config.InputError(
            f'{where} holds another model or optimizer:\n'
            + '\n'.join(sorted(problems)[:8])
            + more
            + '\nUse the experiment it was made with, or another directory.'
        )


def _text(array: tuple[tuple[int, ...], str]) -> str:
    return f'{array[1]}{list(array[0])}'


def matched(wanted: Arrays, stored: Arrays) -> dict[str, str]:
    """Name in the new state -> name in the stored one, of the arrays of equal shape and dtype that stand for the same.

    They have the same path, apart from the numbers in it: these only say how the parts of an optimizer are nested.
    """
    found = {name: name for name in wanted if stored.get(name) == wanted[name]}
    new, old = (_by_kind(names) for names in (wanted, stored))
    for kind, names in new.items():
        there = old.get(kind, [])
        if len(names) == len(there) and not any(name in found for name in names):
            found |= {name: own for name, own in zip(names, there) if wanted[name] == stored[own]}
    return found


def _by_kind(names: Iterable[str]) -> dict[tuple[str, ...], list[str]]:
    kinds: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        kinds.setdefault(_kind(name), []).append(name)
    return kinds


def _kind(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.split('.') if not part.isdigit())


def completed(found: Mapping[str, jax.Array], initial: Mapping[str, jax.Array], step: int) -> dict[str, jax.Array]:
    """The arrays that were found, and for the rest those of the initial state; its counters of updates say `step`."""
    return {name: found[name] if name in found else _begun(name, array, step) for name, array in initial.items()}


def _begun(name: str, array: jax.Array, step: int) -> jax.Array:
    if _kind(name)[-1] != COUNTER or array.ndim or not jnp.issubdtype(array.dtype, jnp.integer):
        return array
    return jax.jit(lambda x: jnp.full_like(x, step), out_shardings=array.sharding)(array)


def sentence(names: Iterable[str]) -> str:
    """A sentence about the arrays that are initialized anew."""
    parts = dict.fromkeys('.'.join(_kind(name)[:2]) for name in names if _kind(name)[-1] != COUNTER)
    return f'the optimizer begins anew with {", ".join(parts)}' if parts else 'the state of the optimizer is kept'
