"""Which weights an adapter belongs to: the digest of the base model."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.interop import family, rules
from bigmodel_jax.interop.files import stored_arrays

Slices = Iterable[tuple[tuple[int, ...], np.ndarray]]
SHOWN = 12  # Digits of a digest in a message.


def digest(shapes: Mapping[str, rules.Shape], slices: Callable[[str], Slices]) -> str:
    """SHA-256, in hexadecimal, of parameters in float32: run_directory.digest.digest() of {path: array}.

    Args:
      shapes: of each parameter, by its path.
      slices: the slices of the parameter at a path with their indices in its leading axes, each once.
    """
    result = hashlib.sha256()
    for path, shape in sorted(shapes.items()):
        sums = stored_arrays.TensorChecksums(shape)
        for index, part in slices(path):
            sums.add(index, np.ascontiguousarray(part, np.float32))
        plain, weighted = sums.pair
        result.update(f'{path} float32 {tuple(shape)} {plain} {weighted}\n'.encode())
    return result.hexdigest()


def recorded(sessions: Sequence[Mapping[str, Any]], shapes: Mapping[str, rules.Shape]) -> str | None:
    """digest() of the weights with which a run began, as it recorded them; None if they were others than `shapes`.

    Args:
      sessions: Run.environment.
    """
    start = next((each['start'] for each in sessions if 'start' in each), {})
    drawn = shapes.keys() & set(start.get('by_chance', ()))
    if drawn or start.get('parameters') != len(shapes):
        return None
    found: str | None = start.get('digest')
    return found


def shared_shapes(known: family.Family, model: Any) -> dict[str, rules.Shape]:
    """Path -> shape of the parameters that every kind of file of a model has: without heads that may be absent."""
    tables = [each.shapes(known.sizes(model)) for each in known.tables(model)]
    return {path: shape for path, shape in tables[0].items() if all(path in each for each in tables)}


def check(wanted: str | None, found: str, *, adapter: object, base: object) -> str | None:
    """A sentence where an adapter does not say of which weights it is.

    Raises:
      InputError: it is of other weights.
    """
    if wanted is None:
        return (
            f'{adapter} does not say to which weights it belongs, as no adapter of PEFT does; only the names and '
            'shapes were compared with the base model.'
        )
    if wanted != found:
        raise config.InputError(
            f'{adapter} was trained on other weights than those of {base}: the digest of its base is '
            f'{wanted[:SHOWN]}..., and that of these {found[:SHOWN]}.... Pass the base model with which it was trained.'
        )
    return None
