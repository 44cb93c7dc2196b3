"""Whether arrays are what the data declares: their lengths, shapes and dtypes, ids within their bounds, no nan."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bigmodel_jax import config

IGNORED = -100  # How Hugging Face marks a label that does not count.


def problems_of_lengths(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """What is wrong with the number of examples of some arrays."""
    scalars = [name for name, array in arrays.items() if not np.ndim(array)]
    if scalars:
        return [f'{scalars[0]!r} is one number, not an array with a row for each example.']
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        found = ', '.join(f'{name!r} {length}' for name, length in lengths.items())
        return [f'Every array must have a row for each example, but their lengths differ: {found}.']
    return [] if any(lengths.values()) else ['The arrays hold no example.']


def problems_of_fields(fields: Mapping[str, Any], declared: Mapping[str, Any]) -> list[str]:
    """Where the fields of opened data are not those that its config declared; both by name."""
    found = []
    for name, (shape, dtype, below) in declared.items():
        if name not in fields:
            found.append(f'{name!r} is declared, but the examples have only {", ".join(sorted(fields))}.')
            continue
        shape_here, dtype_here, below_here = fields[name]
        if tuple(shape) != tuple(shape_here):
            found.append(
                f'{name!r} is declared with the shape {list(shape)} of an example, but has {list(shape_here)}.'
            )
        if np.dtype(dtype) != np.dtype(dtype_here):
            found.append(
                f'{name!r} is declared as {np.dtype(dtype)}, but is {np.dtype(dtype_here)}; '
                f'convert it with .astype(np.{np.dtype(dtype)}).'
            )
        if None not in (below, below_here) and below_here > below:
            found.append(f'{name!r} is declared to stay below {below}, but reaches {below_here - 1}.')
    return found


def problem_of_values(name: str, array: np.ndarray, below: int | None, ids: np.ndarray | None = None) -> str | None:
    """The first value of a field that may not stand there; None if there is none.

    Args:
      array: [n, ...], of n examples.
      below: what integers must stay below, if that is known.
      ids: [n]: the numbers of the examples; None: 0 .. n - 1.
    """
    if not array.size:
        return None
    if np.issubdtype(array.dtype, np.floating):
        # A sum is quick to take, and not finite if a number is not; it may also overflow.
        if np.isfinite(array.sum(dtype=np.float64)) or np.isfinite(array).all():
            return None
        wrong, rule = ~np.isfinite(array), 'which is not a finite number'
    elif below is not None and np.issubdtype(array.dtype, np.integer):
        if array.min() >= 0 and array.max() < below:
            return None
        wrong, rule = (array < 0) | (array >= below), f'but must be at least 0 and below {below}'
    else:
        return None
    example, *place = (int(i) for i in np.argwhere(wrong)[0])
    value = array[(example, *place)]
    number = example if ids is None else int(ids[example])
    at = f' at {place}' if place else ''
    advice = (
        f' Labels of {IGNORED} do not count in Hugging Face; here write any id, such as 0, and a weight of 0.'
        if value == IGNORED
        else ''
    )
    return f'{name!r} is {value} in example {number}{at}, {rule}.{advice}'


def problem_of_blanks(weights: np.ndarray, rows: int) -> str | None:
    """Why a batch may have nothing that counts: its loss, a mean over nothing, would be nan.

    Args:
      weights: [n, ...], of all examples.
      rows: of a batch.
    """
    blank = np.asarray(~weights.reshape(len(weights), -1).any(axis=1))
    if blank.sum() < min(rows, len(weights)):
        return None
    return (
        f'{blank.sum()} of the {len(blank)} examples, such as example {int(np.argmax(blank))}, do not count, as all '
        f"their 'weights' are 0. A batch of {rows} may hold no others, and then has no loss; leave these examples out."
    )


def refuse(problems: list[str]) -> None:
    """Raises one InputError for all problems, if there are any."""
    if len(problems) == 1:
        raise config.InputError(f'The data does not fit: {problems[0]}')
    if problems:
        raise config.InputError('The data does not fit:\n' + '\n'.join(f'  {problem}' for problem in problems))
