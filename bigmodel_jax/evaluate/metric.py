"""Which way a metric is better, and which of several values is the best: one answer for whatever compares metrics."""

import math
from collections.abc import Mapping
from typing import Literal, TypeVar

Direction = Literal['lower', 'higher']
Directions = Mapping[str, Direction | None]  # Metric -> the direction in which it is better; None: not declared.

K = TypeVar('K')

# Names that mean the same in every objective and evaluation. Others are declared where they are measured.
KNOWN: Mapping[str, Direction] = {
    'loss': 'lower',
    'nll': 'lower',
    'nsp_nll': 'lower',
    'perplexity': 'lower',
    'bits_per_byte': 'lower',
    'accuracy': 'higher',
    'nsp_accuracy': 'higher',
    'bleu': 'higher',
    'exact_match': 'higher',
    'f1': 'higher',
    'matthews': 'higher',
    'pearson': 'higher',
    'spearman': 'higher',
}


def known(name: str) -> Direction | None:
    """The direction of a metric whose name says it; None for any other name.

    A name that ends in '_loss' is that of a loss, such as the auxiliary losses of layers.
    """
    return 'lower' if name.endswith('_loss') else KNOWN.get(name)


def is_better(new: float, old: float, direction: Direction) -> bool:
    """Whether `new` is strictly better than `old`. A number is better than nan or an infinity, which never are."""
    if not math.isfinite(new):
        return False
    if not math.isfinite(old):
        return True
    return new < old if direction == 'lower' else new > old


def best(values: Mapping[K, float], direction: Direction) -> K | None:
    """The key of the best value, and of equal values the last; None if no value is a finite number."""
    found: K | None = None
    for key, value in values.items():
        if math.isfinite(value) and (found is None or not is_better(values[found], value, direction)):
            found = key
    return found
