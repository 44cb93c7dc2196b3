"""271 public runs of one benchmark: splits of equal seeds, resampled power, and replays of early stopping."""

import csv
import functools
import gzip
import itertools
import pathlib
from typing import NamedTuple

import numpy as np

from bigmodel_jax.sweeps.statistics import designs, estimates, halving, power

DATA = pathlib.Path(__file__).parent / 'data' / 'track3.csv.gz'
# The rule of the benchmark: 0.004 is 3.09 standard deviations of 0.0013, which a one-sided test at 0.001 asks for.
THRESHOLD, TARGET, LOSS_PER_STEP, CONFIDENCE = 0.004, 3.28, 0.0045 / 100, 0.998
KNOWN_SD = THRESHOLD / 3.0902323061678132
GRID = 40  # Points of a curve in a replay.


@functools.cache
def submissions() -> dict[tuple[str, int], list[dict[int, float]]]:
    """The curves of the runs, by submission and number of steps."""
    runs: dict[tuple[str, int], dict[str, dict[int, float]]] = {}
    with gzip.open(DATA, 'rt') as file:
        for row in csv.DictReader(file):
            curves = runs.setdefault((row['record'], int(row['total_steps'])), {})
            curves.setdefault(row['run'], {})[int(row['step'])] = float(row['val_loss'])
    return {key: list(curves.values()) for key, curves in runs.items()}


def finals(fewest: int = 1) -> dict[tuple[str, int], np.ndarray]:
    """The last validation losses of the submissions of at least so many runs."""
    return {
        key: np.array([curve[max(curve)] for curve in curves])
        for key, curves in submissions().items()
        if len(curves) >= fewest
    }


def splits_called_different(values: np.ndarray, splits: int, *, welch: bool = False) -> float:
    """The share of random splits of equal seeds into halves that a 95% test calls different."""
    rng = np.random.default_rng(0)
    drawn = values[np.argsort(rng.random((splits, values.size)), axis=1)]
    estimate = estimates.independent(drawn[:, : values.size // 2], drawn[:, values.size // 2 :])
    if welch:
        estimate = estimate._replace(dof=estimate.noise_dof)
    return float(np.mean(estimate.p_value() <= 0.05))


class Needed(NamedTuple):
    """How many seeds of each are needed: as computed, and the fewest that suffice when real seeds are resampled."""

    computed: int
    resampled: int


def seeds_needed(fewest: int, most: int, *, draws: int) -> dict[tuple, Needed]:
    """Of every pair of submissions of 8 or more runs that needs `fewest` to `most` seeds."""
    found = {}
    for (one, x), (other, y) in itertools.combinations(finals(8).items(), 2):
        n = computed(x, y)
        if n is not None and fewest <= n <= most:
            found[one, other] = Needed(n, resampled_need(x, y, draws=draws, most=3 * n))
    return found


def computed(x: np.ndarray, y: np.ndarray) -> int | None:
    """What the package says of two sets of seeds."""
    return power.seeds_needed(x.mean() - y.mean(), designs.independent_noise(x, y), level=0.05)


def resampled_need(x: np.ndarray, y: np.ndarray, *, draws: int, most: int) -> int:
    """The fewest seeds of each, drawn with replacement, that a 95% test calls different in 80% of the draws."""
    low, high = 1, most
    while high - low > 1:
        n = (low + high) // 2
        rng = np.random.default_rng(n)
        estimate = estimates.independent(rng.choice(x, (draws, n)), rng.choice(y, (draws, n)))
        low, high = (low, n) if np.mean(estimate.p_value() <= 0.05) >= power.POWER else (n, high)
    return high


def from_few(draws: int, seeds: int = 5) -> np.ndarray:
    """Seeds needed as computed from 5 seeds of each, divided by those computed from all; inf for none at all."""
    rng = np.random.default_rng(0)
    pairs = [
        (x, y, n)
        for x, y in itertools.combinations(finals(8).values(), 2)
        if (n := computed(x, y)) is not None and 3 <= n <= 60
    ]
    ratios = []
    for _ in range(draws):
        x, y, n = pairs[rng.integers(len(pairs))]
        guess = computed(rng.choice(x, seeds, replace=False), rng.choice(y, seeds, replace=False))
        ratios.append(np.inf if guess is None else guess / n)
    return np.array(ratios)


# ---- early stopping -----------------------------------------------------------------------------------------------


@functools.cache
def replayable(steps: int | None) -> list[list[dict[int, float]]]:
    """The curves of submissions of 5 or more whole runs, at 40 equal steps.

    Args:
      steps: cut there; None for a submission's own end, so that every curve is at the end of its schedule.
    """
    found = []
    for curves in submissions().values():
        whole = [curve for curve in curves if len(curve) >= 10]
        if len(whole) >= 5:
            found.append([_on_grid(curve, steps or max(curve)) for curve in whole])
    return found


def _on_grid(curve: dict[int, float], last: int) -> dict[int, float]:
    steps = sorted(curve)
    at = np.linspace(0, last, GRID + 1)[1:]
    return dict(enumerate(np.interp(at, steps, [curve[step] for step in steps]).tolist(), 1))


def caught_up(at: int) -> float:
    """Of the submissions that are behind another at a step of the grid, how much 95% of them catch up at most.

    In parts of what the other one is expected to gain, as bigmodel_jax.sweeps.statistics.halving extrapolates it.
    """
    means = [
        {step: np.mean([curve[step] for curve in curves]) for step in range(1, GRID + 1)} for curves in replayable(None)
    ]
    start = int((1 - halving.RECENT) * at)
    parts = []
    for one, other in itertools.permutations(means, 2):
        if one[at] > other[at]:
            expected = (other[start] - other[at]) / (at - start) * (GRID - at)
            parts.append((one[at] - other[at] - one[GRID] + other[GRID]) / expected)
    return float(np.quantile(parts, 0.95))


class Replay(NamedTuple):
    """What a rule did: in how many draws it stopped the arm that ends best, and the parts of all steps and arms."""

    wrong: float
    saved: float
    stopped: float


def replay(rule: halving.SuccessiveHalving, *, steps: int | None, arms: int, seeds: int, draws: int) -> Replay:
    """Draws `arms` submissions and `seeds` runs of each, and lets the rule stop them."""
    rng = np.random.default_rng(arms * 100 + seeds)
    pool = replayable(steps)
    wrong, saved, stopped = 0, 0, 0
    for _ in range(draws):
        chosen = {
            str(index): dict(enumerate(pool[index][run] for run in rng.choice(len(pool[index]), seeds, replace=False)))
            for index in rng.choice(len(pool), arms, replace=False)
        }
        stops = halving.early_stops(chosen, rule, total_steps=GRID, direction='lower')
        best = min(chosen, key=lambda arm: np.mean([curve[GRID] for curve in chosen[arm].values()]))
        wrong += best in stops
        saved += sum(stop.saved_steps(GRID) for stop in stops.values())
        stopped += len(stops)
    return Replay(wrong / draws, saved / (draws * arms * seeds * GRID), stopped / (draws * arms))
