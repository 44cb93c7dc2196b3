"""Labels as text in a file, and the class numbers that a model is trained on."""

from collections.abc import Callable, Sequence

import numpy as np

from bigmodel_jax import config

SHOWN = 12  # Labels in a message.


def names(found: tuple[str, ...], classes: int) -> tuple[str, ...]:
    """The given names of the labels, in the order of their numbers; empty if the labels are numbers themselves.

    Raises:
      InputError: there are not as many as `classes`.
    """
    if found and len(set(found)) != len(found):
        raise config.InputError(f'data.labels={found} names a label twice.')
    if found and len(found) != classes:
        shown = ', '.join(map(repr, found[:SHOWN]))
        raise config.InputError(f'data.classes={classes}, but there are {len(found)} labels: {shown}.')
    return found


def numbers(written: Sequence[str], where: Callable[[int], str]) -> np.ndarray:
    """[n] float32: labels that are numbers, to be predicted as such."""
    return np.array([_number(label, where, i) for i, label in enumerate(written)], np.float32)


def _number(label: str, where: Callable[[int], str], row: int) -> float:
    try:
        number = float(label)
    except ValueError as error:
        raise config.InputError(
            f'{where(row)}: the label {label!r} is not a number, but data.classes=1 asks for numbers.'
        ) from error
    if not np.isfinite(number):
        raise config.InputError(f'{where(row)}: the label is {label}; remove the row, or say what it should be.')
    return number


def ids(
    written: Sequence[str], where: Callable[[int], str], *, classes: int, names: tuple[str, ...] = ()
) -> np.ndarray:
    """[n] int32, each below `classes`.

    Raises:
      InputError: a label is none of `names` or, without names, no number below `classes`.
    """
    known = {name: i for i, name in enumerate(names or map(str, range(classes)))}
    if not names:
        written = [label.lstrip('0') or '0' if label.isdecimal() else label for label in written]
    for row, label in enumerate(written):
        if label not in known:
            raise _unknown(label, where(row), written, classes=classes, names=names)
    return np.array([known[label] for label in written], np.int32)


def _unknown(
    label: str, where: str, written: Sequence[str], *, classes: int, names: tuple[str, ...]
) -> config.InputError:
    if names:
        shown = ', '.join(map(repr, names[:SHOWN])) + (' ...' if len(names) > SHOWN else '')
        return config.InputError(f'{where}: the label {label!r} is not one of {shown}, which data.labels names.')
    advice = (
        'Test sets of GLUE have no labels (-1): use the validation split; otherwise set data.classes, or the column of '
        'the label.'
    )
    found = sorted(set(written))
    if len(found) <= SHOWN and not all(each.lstrip('-').isdecimal() for each in found):
        advice = f'For labels that are text, name them: classes={len(found)}, labels={tuple(found)}.'
    return config.InputError(f'{where}: the label {label!r} is not one of 0 to {classes - 1}. {advice}')
