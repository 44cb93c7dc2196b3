"""The statistics of sweeps on simulated sweeps and ladders and on 271 public runs: what is promised of them, measured.

Prints every figure, and ends with status 1 if a promise is not kept. Without --all, a tenth of
the draws where they take time: of resampled seeds, replays and ladders.

Example: python scripts/benchmark/sweep_statistics.py --all
"""

import argparse
import dataclasses
import itertools
import pathlib
import platform
import sys
import time

import numpy as np
import scipy

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / 'tests'))

from bigmodel_jax.sweeps.scaling import observations, parametric
from bigmodel_jax.sweeps.statistics import halving
from sweeps.scaling import planted, test_chinchilla
from sweeps.statistics import simulated, track3

BROKEN: list[str] = []


def promise(kept: bool, what: str) -> str:
    """'' for a promise that was kept; otherwise it is noted, and the line says so."""
    if not kept:
        BROKEN.append(what)
    return '' if kept else f'   <- {what}'


def simulations(sweeps: int) -> None:
    """Coverage and false verdicts by noise and number of seeds."""
    print(f'\n{sweeps:,} simulated sweeps of 4 arms (two without an effect, 0.5 and -2 of the noise of a run)')
    print('noise             seeds  t covers  bootstrap covers  false: all null, half null  large effect found')
    for noise in simulated.NOISES:
        for seeds in (3, 5, 10):
            found = simulated.rates(noise, sweeps=sweeps, seeds=seeds)
            kept = ''
            if noise is simulated.normal:
                kept += promise(abs(found.coverage - 0.95) <= 0.015, 'coverage within 95 +- 1.5%')
            if noise is not simulated.skewed_arms_only:
                kept += promise(max(found.false_of_nulls, found.false_of_mixed) <= 0.05, 'false verdicts <= 5%')
            print(
                f'{noise.__name__:17} {seeds:5}  {found.coverage:8.1%}  {found.bootstrap:16.1%}  '
                f'{found.false_of_nulls:15.1%}  {found.false_of_mixed:9.1%}  {found.found:18.1%}{kept}'
            )

    bca = simulated.bca_covers(simulated.normal, comparisons=1_000, seeds=5)
    print(f'a BCa bootstrap covers {bca:.1%} for 5 seeds of normal noise')


def halves(splits: int) -> None:
    """Random halves of the seeds of one submission."""
    print(f'\nhalves of one submission called different, of {splits:,} splits')
    print('submission                                     n  ours   with the degrees of freedom of Welch')
    for (name, _), values in track3.finals(8).items():
        ours = track3.splits_called_different(values, splits)
        welch = track3.splits_called_different(values, splits, welch=True)
        kept = promise(ours <= 0.05, 'at most 5% of the splits')
        print(f'{name[:44]:44} {values.size:3} {ours:6.1%} {welch:6.1%}{kept}')


def needed(draws: int) -> None:
    """Seeds needed, computed and found by resampling."""
    pairs = track3.seeds_needed(3, 60, draws=draws)
    ratios = np.array([found.computed / found.resampled for found in pairs.values()])
    kept = promise(bool(np.all((ratios <= 1.5) & (ratios >= 1 / 1.5))), 'within a factor of 1.5')
    print(f'\nseeds needed, computed / found by resampling, {len(pairs)} pairs of submissions that need 3 to 60:')
    print(f'median {np.median(ratios):.2f}, from {ratios.min():.2f} to {ratios.max():.2f}{kept}')
    few = track3.from_few(draws)
    inside = np.mean((few <= 1.5) & (few >= 1 / 1.5))
    low, middle, high = np.quantile(few, [0.1, 0.5, 0.9], method='inverted_cdf')
    print(f'from 5 seeds of each: within 1.5 in {inside:.0%}; 80% from {low:.2f} to {high:.2f}, median {middle:.2f}')


def replays(draws: int) -> None:
    """Early stopping on the curves."""
    parts = {look: track3.caught_up(round(look * track3.GRID)) for look in (0.125, 0.25, 0.5, 0.75, 0.9)}
    print('\nparts of the expected gain that 95% of the arms behind caught up at most, by the part of training:')
    print(', '.join(f'{look:g}: {part:.3f}' for look, part in parts.items()))
    for steps, of in ((None, 'each submission to the end of its own schedule'), (2_900, 'the first 2,900 steps')):
        print(f'\nearly stopping, {draws} draws each, {of}')
        print('catch_up  arms  seeds  best arm stopped  steps saved  arms stopped')
        for catch_up, arms, seeds in itertools.product((0.25, 0), (2, 4, 8), (3, 5)):
            rule = halving.SuccessiveHalving(catch_up=catch_up)
            found = track3.replay(rule, steps=steps, arms=arms, seeds=seeds, draws=draws)
            kept = promise(not catch_up or found.wrong <= 0.05, 'best arm stopped in at most 5%')
            print(
                f'{catch_up:8} {arms:5} {seeds:6}  {found.wrong:16.1%}  {found.saved:11.1%}'
                f'  {found.stopped:12.1%}{kept}'
            )


def predictions(ladders: int) -> None:
    """Coverage of the intervals that a scaling law predicts for runs larger than those that it was fitted to."""
    runs = test_chinchilla.runs()
    law = parametric.fit(runs)
    residuals = np.log(runs.losses) - np.log(law.loss(runs.parameters, runs.tokens))
    residuals -= np.median(residuals)

    def as_published(noise: np.ndarray, seed: int) -> observations.Observations:
        added = np.exp(np.random.default_rng(seed).choice(noise, len(runs)))
        return dataclasses.replace(runs, losses=law.loss(runs.parameters, runs.tokens) * added)

    normal = planted.normal_noise()
    designs = {
        '42 small runs, normal noise': (planted.isoflop, planted.LAW, normal, 1e21),
        '20 small runs, normal noise': (
            lambda seed: planted.isoflop(seed, budgets=5, sizes=5),
            planted.LAW,
            normal,
            1e21,
        ),
        '226 of Hoffmann et al., their noise': (lambda seed: as_published(residuals, seed), law, residuals, 2e21),
    }
    print(f'\nintervals of predictions on {ladders} simulated ladders each')
    for name, (ladder, of, noise, above) in designs.items():
        found = [planted.covered(ladder(seed), of, noise, above_flops=above, draws=60) for seed in range(ladders)]
        kept = promise(abs(np.mean(found) - 0.95) <= 0.03, 'intervals of predictions cover 95 +- 3%')
        print(f'{name:36} {np.mean(found):6.1%} +- {np.std(found) / ladders**0.5:.1%}{kept}')


def main() -> int:
    """Runs all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--all', action='store_true', help='as many draws as the promises are made for')
    part = 1 if parser.parse_args().all else 10
    start = time.perf_counter()
    print(f'Python {platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__}')
    simulations(20_000)
    halves(2_000)
    needed(2_000 // part)
    replays(300 // part)
    predictions(30 // part)
    print(f'\n{time.perf_counter() - start:.0f} s. ' + (f'Not kept: {sorted(set(BROKEN))}' if BROKEN else 'All kept.'))
    return 1 if BROKEN else 0


if __name__ == '__main__':
    sys.exit(main())
