"""Fewer numbers that look the same: thinned and smoothed curves. NumPy alone, but for one filter of SciPy."""

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

BUCKETS = 240  # A curve keeps the lowest and highest value in each: spikes survive, and a long run stays small.

# The places, as indices, and the values of the smoothed curve; None where it has too few values to be smoothed.
Smoother = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray] | None]


def thin(steps: np.ndarray, values: np.ndarray, buckets: int = BUCKETS) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and highest value of each of `buckets` parts, and the ends; all, if there are few. [n] -> [m] each."""
    count = len(steps)
    if count <= 2 * buckets:
        return steps, values
    size = -(-count // buckets)
    padded = np.full(size * -(-count // size), np.nan)
    padded[:count] = values
    parts = padded.reshape(-1, size)
    finite, starts = np.isfinite(parts), size * np.arange(len(parts))
    # A part without any finite value leaves a gap in the curve, by its first one.
    lowest = np.where(finite, parts, np.inf).argmin(axis=1) + starts
    highest = np.where(finite, parts, -np.inf).argmax(axis=1) + starts
    indices = np.unique(np.concatenate([lowest, highest, [0, count - 1]]))
    return steps[indices], values[indices]


def medians(values: np.ndarray, *, points: int = 2 * BUCKETS) -> tuple[np.ndarray, np.ndarray] | None:
    """smooth() in windows of a thirtieth of the values; None where that is less than three."""
    window = len(values) // 30
    return smooth(values, window=window, points=points) if window >= 3 else None


def smooth(values: np.ndarray, *, window: int, points: int = 2 * BUCKETS) -> tuple[np.ndarray, np.ndarray]:
    """Medians in windows, which a spike does not move, at up to `points` places: their indices and values, [m] each.

    Args:
      values: [n]; what is not finite is left out.
      window: shrinks towards the ends, so that these are not pulled inwards.
    """
    indices = np.unique(np.linspace(0, len(values) - 1, points).round().astype(int))
    halves = np.minimum(np.minimum(indices, len(values) - 1 - indices), window // 2)
    found = np.empty(len(indices))
    whole = halves == window // 2
    if window // 2 and whole.any():
        found[whole] = _median(sliding_window_view(values, 2 * (window // 2) + 1)[indices[whole] - window // 2])
    for i in np.flatnonzero(~whole if window // 2 else np.ones_like(whole)):
        found[i] = _median(values[None, indices[i] - halves[i] : indices[i] + halves[i] + 1])[0]
    return indices, found


def _median(rows: np.ndarray) -> np.ndarray:
    """Of the finite values of each row [m, n]; nan for a row without any."""
    finite = np.isfinite(rows)
    if finite.all():
        return np.median(rows, axis=1)
    return np.array([np.median(row[known]) if known.any() else np.nan for row, known in zip(rows, finite)])


def exponential(weight: float) -> Smoother:
    """A moving average with exponentially falling weights, from 0 to below 1, without its bias at the start.

    What is not finite is left out. Source: TensorBoard's smoothing, and Kingma and Ba (2015), section 3.
    """

    def smoother(values: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        indices = np.flatnonzero(np.isfinite(values))
        if len(indices) < 3:
            return None
        from scipy import signal  # Only here: it takes a moment to import.

        averaged = signal.lfilter([1 - weight], [1, -weight], values[indices])
        return indices, averaged / (1 - weight ** np.arange(1, len(indices) + 1))

    return smoother


def measured(values: np.ndarray) -> None:
    """The Smoother that leaves the values as they were measured."""
