"""What a step of five large models costs on the slices of a pod: ours beside MaxText's, both compiled by libtpu.

python scripts/benchmark/pods.py                             all five; minutes each, the first time
python scripts/benchmark/pods.py --rows llama2_7b_v5p ...    some of them
python scripts/benchmark/pods.py --fast                      by formula, without the compiler

The first table has the same setting on both sides: full rematerialisation, mesh and batch as in experiments/pods.py.
The second leaves mesh, microbatches and rematerialisation to `plan --search`, within the memory of the same chips.
"""

import argparse
import dataclasses
import sys

import jax
import rich.console
import rich.table

from bigmodel_jax import config, experiment_file
from bigmodel_jax.console import quantities
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.parallel import torus
from bigmodel_jax.plan import plan as planning
from bigmodel_jax.plan import search
from bigmodel_jax.plan.hardware import slices

EXPERIMENTS = 'experiments/pods.py:sweep/'
# The best few by formula that are compiled until one fits.
TRIED = 3
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Theirs:
    """MaxText 0.2.4, its step compiled ahead of time; per chip."""

    slice: str
    peak: float  # GiB.
    gathered: float  # GiB of results in a step, as often as they are executed.
    reduced: float  # By all-reduce, and what reduce-scatters leave on the chip.
    permuted: float
    compile_cpu_s: float


# Compiled with jax 0.12.0.1 and libtpu 0.0.52, Python 3.12: AdamW, float32 state, bfloat16 computation, full remat,
# splash attention, scanned layers, no flags. The compile time of the first row is with jax 0.10.2 and libtpu 0.0.42.1.
MAXTEXT = {
    'llama2_7b_v5p': Theirs('v5p:4x4x4', 9.59, 24.4, 12.3, 0.0, 138),
    'llama2_7b_v5e': Theirs('v5e:16x16', 4.13, 24.4, 12.3, 0.0, 143),
    'gpt3_175b_v5p': Theirs('v5p:8x8x8', 30.89, 658.7, 41.1, 3_381.8, 124),
    'mixtral_8x7b_v5p': Theirs('v5p:4x4x8', 17.41, 175.8, 86.7, 0.0, 146),
    'llama3_8b_v6e': Theirs('v6e:16x16', 7.49, 27.0, 14.0, 0.0, 183),
}
VERSIONS = 'MaxText 0.2.4, jax 0.12.0.1, libtpu 0.0.52'


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', nargs='+', choices=MAXTEXT, default=list(MAXTEXT), metavar='ROW')
    parser.add_argument('--fast', action='store_true', help='by formula, without the compiler')
    options = parser.parse_args()
    jax.config.update('jax_platforms', 'cpu')
    console = rich.console.Console(width=150, highlight=False)
    plans, picked = {}, {}
    for name in options.rows:
        experiment, on = experiment_file.load(EXPERIMENTS + name), slices.parse(MAXTEXT[name].slice)
        plans[name] = planning.make(experiment, on, fast=options.fast, say=say)
        picked[name] = pick(experiment, on, fast=options.fast)
    console.print(beside(plans))
    versions = ', '.join(f'{package} {version}' for package, version in plans[options.rows[0]].program.versions.items())
    console.print(f'ours: {versions}; theirs: {VERSIONS}; (+) all-reduce and what reduce-scatters leave on the chip\n')
    console.print(gains(plans, picked))


def say(message: str) -> None:
    print(message, file=sys.stderr)


def pick(experiment: Experiment, on: slices.Slice, *, fast: bool) -> planning.Plan | None:
    """The plan of the best choice that fits, compiled unless `fast`; None if none of the first few does."""
    result = search.search(experiment, [on], say=say)
    for choice in result.ranked[:TRIED]:
        found = planning.make(config.vary(experiment, choice.settings), on, fast=fast, say=say)
        if found.fits:
            return found
    return None


def moved(plan: planning.Plan, *kinds: str) -> float:
    """GiB of results of some kinds of collectives, in a step on a chip."""
    return sum(each.bytes * each.times for each, _ in plan.transfers if each.kind in kinds) / GIB


def beside(plans: dict[str, planning.Plan]) -> rich.table.Table:
    """Ours / theirs in every column."""
    table = rich.table.Table(title='The same setting: ours / theirs, per chip and step', box=None, title_justify='left')
    for name in ('', 'slice', 'peak GiB', 'all-gather GiB', 'reduced GiB (+)', 'permuted GiB', 'compile CPU s'):
        table.add_column(name, justify='left' if name in ('', 'slice') else 'right')
    table.add_column('step, roofline', justify='right')
    for name, plan in plans.items():
        theirs, cpu_s = MAXTEXT[name], plan.program.compile_cpu_seconds
        table.add_row(
            name,
            theirs.slice,
            f'{plan.program.memory.peak / GIB:.2f} / {theirs.peak:.2f}',
            f'{moved(plan, "all-gather"):.1f} / {theirs.gathered:.1f}',
            f'{moved(plan, "all-reduce", "reduce-scatter"):.1f} / {theirs.reduced:.1f}',
            f'{moved(plan, "collective-permute"):,.1f} / {theirs.permuted:,.1f}',
            f'{"-" if cpu_s is None else f"{cpu_s:.0f}"} / {theirs.compile_cpu_s:.0f}',
            f'{plan.time.seconds:.2f} s',
        )
    return table


def gains(plans: dict[str, planning.Plan], picked: dict[str, planning.Plan | None]) -> rich.table.Table:
    """What the memory that full rematerialisation leaves empty is worth."""
    title = 'Full rematerialisation, and what plan --search picks on the same chips'
    table = rich.table.Table(title=title, box=None, title_justify='left')
    for name in ('', 'full: peak', 'step', 'picked', 'peak', 'step', 'time less'):
        table.add_column(name, justify='right' if name in ('full: peak', 'peak', 'step', 'time less') else 'left')
    for name, full in plans.items():
        best = picked[name]
        shown = [name, quantities.size(full.program.memory.peak), f'{full.time.seconds:.2f} s']
        if best is not None:
            micro = f', {best.microbatches} microbatches' if best.microbatches > 1 else ''
            shown += [
                f'{torus.shape_text(best.program.mesh)}, remat {best.remat}{micro}',
                quantities.size(best.program.memory.peak),
                f'{best.time.seconds:.2f} s',
                f'{1 - best.time.seconds / full.time.seconds:.0%}',
            ]
        table.add_row(*shown)
    return table


if __name__ == '__main__':
    main()
