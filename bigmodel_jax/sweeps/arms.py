"""Helpers that make the arms of a sweep from one experiment: named changes, a grid, one factor at a time."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bigmodel_jax import config
from bigmodel_jax.experiment import Experiment

Arms = dict[str, Experiment]
Values = Sequence[Any] | Mapping[str, Any]  # The values of a field, named by themselves or by their keys.


def named(base: Experiment, changes: Mapping[str, Mapping[str, Any]]) -> Arms:
    """An arm for each name, with its changes: `named(base, {'baseline': {}, 'wide': {'model.width': 256}})`.

    Raises:
      InputError: a path does not exist.
    """
    return {arm: config.vary(base, {**each, 'name': arm}, origin=f'arm {arm}') for arm, each in changes.items()}


def grid(base: Experiment, factors: Mapping[str, Values]) -> Arms:
    """An arm for each combination of values: `grid(base, {'model.layers': [2, 4], 'model.width': [64, 128]})`.

    The arms are named 'layers=2,width=64': by the shortest end of each path that tells the paths apart.

    Args:
      factors: path of a field -> its values, or {'name of the value': value} where the value is a config.

    Raises:
      InputError: a path does not exist, or two values of a field would have the same name.
    """
    short = _short(list(factors))
    levels = [[(path, *level) for level in _levels(path, values)] for path, values in factors.items()]
    combinations = itertools.product(*levels)
    return named(
        base,
        {
            ','.join(f'{short[path]}={label}' for path, label, _ in chosen): {path: value for path, _, value in chosen}
            for chosen in combinations
        },
    )


def one_at_a_time(base: Experiment, factors: Mapping[str, Values]) -> Arms:
    """'baseline', and an arm for each value of each field with all other fields as in `base`.

    Args, Raises: as grid(). A value that `base` has already makes no arm of its own.
    """
    found: Arms = named(base, {'baseline': {}})
    for path, values in factors.items():
        varied = grid(base, {path: values})
        same = {'name': 'baseline'}
        found |= {arm: each for arm, each in varied.items() if config.vary(each, same) != found['baseline']}
    return found


def _levels(path: str, values: Values) -> Iterable[tuple[str, Any]]:
    """(name, value) of each value of a field."""
    labels = list(values) if isinstance(values, Mapping) else [_label(value) for value in values]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise config.InputError(
            f'{path}: two values would both be named {twice[0]!r}. Name them: '
            f"{{'{path}': {{'first': ..., 'second': ...}}}}."
        )
    return zip(labels, values.values() if isinstance(values, Mapping) else values)


def _label(value: Any) -> str:
    """A value as a part of an arm's name: 2, 0.001, True, Gated."""
    return type(value).__name__ if config.is_config(value) else str(value).replace(' ', '')


def _short(paths: Sequence[str]) -> dict[str, str]:
    """For each path its shortest end that no other path ends in."""
    parts = {path: path.split('.') for path in paths}

    def ends(path: str, count: int) -> str:
        return '.'.join(parts[path][-count:])

    def count(path: str) -> int:
        others = [other for other in paths if other != path]
        enough = (n for n in range(1, len(parts[path]) + 1) if all(ends(other, n) != ends(path, n) for other in others))
        return next(enough, len(parts[path]))

    return {path: ends(path, count(path)) for path in paths}
