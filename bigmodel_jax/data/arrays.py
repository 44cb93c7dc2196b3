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
    """Where the fields of opened data are not those that its config declared; both batches.Field by name."""
    found = []
    for name, field in declared.items():
        problems = _of_one(name, field, fields, {each: fields[each].shape for each in fields})
        found += problems
        if problems:
            continue
        here = fields[name]
        if field.axes != here.axes:
            found.append(f'{name!r} is declared with axes={field.axes}, but its examples have axes={here.axes}.')
        if field.upper_bound is not None and here.upper_bound is not None and here.upper_bound > field.upper_bound:
            found.append(f'{name!r} is declared to stay below {field.upper_bound}, but reaches {here.upper_bound - 1}.')
    return found


def problems_of_shapes(arrays: Mapping[str, np.ndarray], fields: Mapping[str, Any]) -> list[str]:
    """Where arrays [n, ...] of n examples do not have the shapes and dtypes that `fields` says; both by name."""
    shapes = {name: array.shape[1:] for name, array in arrays.items()}
    return [problem for name, field in fields.items() for problem in _of_one(name, field, arrays, shapes)]


def _of_one(name: str, field: Any, found: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What is wrong with the shape and dtype of the field `name` among what was found."""
    if name not in found:
        return [f'{name!r} is declared, but the examples have only {", ".join(sorted(found))}.']
    problems, dtype = [], found[name].dtype
    if field.shape != tuple(shapes[name]):
        problems.append(
            f'{name!r} is declared with the shape {list(field.shape)} of an example, but has {list(shapes[name])}.'
        )
    if field.dtype != dtype:
        problems.append(
            f'{name!r} is declared as {field.dtype}, but is {dtype}; convert it with .astype(np.{field.dtype}).'
        )
    return problems


def problems_of_arrays(arrays: Mapping[str, np.ndarray], fields: Mapping[str, Any]) -> list[str]:
    """What is wrong with arrays [n, ...] that hold all examples, each of which a field must describe."""
    unknown = [
        f'{name!r} is not described by any field of the data ({", ".join(sorted(fields))}); declare it or leave it out.'
        for name in sorted(arrays.keys() - fields.keys())
    ]
    values = (
        problem_of_values(name, arrays[name], field.upper_bound) for name, field in fields.items() if name in arrays
    )
    return [*unknown, *problems_of_shapes(arrays, fields), *(problem for problem in values if problem)]


def problem_of_values(
    name: str, array: np.ndarray, upper_bound: int | None, ids: np.ndarray | None = None
) -> str | None:
    """The first value of a field that is not allowed; None if there is none.

    Args:
      array: [n, ...], of n examples.
      upper_bound: that integers must be less than, if it is known.
      ids: [n]: the numbers of the examples; None: 0 .. n - 1.
    """
    if not array.size:
        return None
    if np.issubdtype(array.dtype, np.floating):
        # A sum is quick to take, and not finite if a number is not; it may also overflow.
        if np.isfinite(array.sum(dtype=np.float64)) or np.isfinite(array).all():
            return None
        wrong, rule = ~np.isfinite(array), 'which is not a finite number'
    elif upper_bound is not None and np.issubdtype(array.dtype, np.integer):
        if array.min() >= 0 and array.max() < upper_bound:
            return None
        wrong, rule = (array < 0) | (array >= upper_bound), f'but must be at least 0 and below {upper_bound}'
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


def problems_of_weights(fields: Mapping[str, Any]) -> list[str]:
    """What is wrong with the weights among the fields of data, each a batches.Field by name."""
    found = []
    if 'weights' in fields:
        found.append(
            "'weights' is not a field that anything reads. Leave it out if it is 1 for every example: batches add "
            "'example_weights' themselves. Call a mask of positions 'loss_weights', and weights of whole examples "
            "'example_weights'."
        )
    of_examples, of_positions = (fields.get(name) for name in ('example_weights', 'loss_weights'))
    if of_examples is not None and (of_examples.shape or of_examples.dtype != np.float32):
        found.append("'example_weights' should be one number of an example: Field((), np.dtype(np.float32), ()).")
    if of_positions is not None and (not of_positions.shape or of_positions.dtype != np.float32):
        found.append(
            "'loss_weights' should have a number for each position that is predicted, such as "
            "Field((T,), np.dtype(np.float32), ('length',))."
        )
    return found


def problem_of_blanks(counts: np.ndarray, rows: int) -> str | None:
    """Why a batch may have nothing that counts: its loss, a mean over nothing, would be nan.

    Args:
      counts: [n] bool, of all examples: whether a weight is not 0.
      rows: of a batch.
    """
    blank = ~counts
    if blank.sum() < min(rows, len(counts)):
        return None
    return (
        f'{blank.sum()} of the {len(blank)} examples, such as example {int(np.argmax(blank))}, do not count, as all '
        f'their weights are 0. A batch of {rows} may hold no others, and then has no loss; leave these examples out.'
    )


def refuse(problems: list[str]) -> None:
    """Raises one InputError for all problems, if there are any."""
    if len(problems) == 1:
        raise config.InputError(f'The data does not fit: {problems[0]}')
    if problems:
        raise config.InputError('The data does not fit:\n' + '\n'.join(f'  {problem}' for problem in problems))
