"""Weak scaling by compilation: Llama-2-7B with two sequences of 4,096 for each chip, from 64 to 4,096 chips of v5p.

python scripts/benchmark/weak_scaling.py                             all slices, then all depths; minutes each
python scripts/benchmark/weak_scaling.py --slices v5p:4x4x4 --depths some

Memory and traffic of a chip should stay flat or fall; compile time should not follow the chips, nor the depth.
"""

import argparse
import sys

import jax
import rich.console
import rich.table

from bigmodel_jax import config, experiment_file
from bigmodel_jax.console import quantities
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.plan import plan as planning
from bigmodel_jax.plan.hardware import slices

EXPERIMENT = 'experiments/pods.py:sweep/llama2_7b_v5p'
SLICES = ('v5p:4x4x4', 'v5p:4x8x8', 'v5p:8x8x16', 'v5p:16x16x16')
DEPTHS = (8, 16, 32)
ROWS_PER_CHIP = 2


def main() -> None:
    """Prints one line for each slice, and for each depth on the first of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--slices', nargs='*', default=SLICES, metavar='SLICE')
    parser.add_argument('--depths', nargs='*', type=int, default=DEPTHS, metavar='LAYERS')
    options = parser.parse_args()
    jax.config.update('jax_platforms', 'cpu')
    base = experiment_file.load(EXPERIMENT)
    on = [slices.parse(name) for name in options.slices]
    table = rich.table.Table(box=None)
    for name in ('slice', 'chips', 'layers', 'peak per chip', 'moved per chip and step', 'compile s', 'compile CPU s'):
        table.add_column(name, justify='left' if name == 'slice' else 'right')
    for each in on:
        add_row(table, each, base, DEPTHS[-1])
    for layers in options.depths:
        add_row(table, slices.parse(SLICES[0]), base, layers)
    rich.console.Console(width=120, highlight=False).print(table)


def add_row(table: rich.table.Table, on: slices.Slice, base: Experiment, layers: int) -> None:
    """Compiles one setting."""
    changes = {'mesh.fsdp': on.size, 'data.batch': ROWS_PER_CHIP * on.size, 'model.layers': layers}
    experiment = config.vary(base, changes)
    plan = planning.make(experiment, on, say=lambda message: print(message, file=sys.stderr))
    program = plan.program
    moved = sum(each.bytes * each.times for each in program.counts.collectives)
    table.add_row(
        str(on),
        f'{on.chips:,}',
        str(layers),
        quantities.size(program.memory.peak),
        quantities.size(moved),
        f'{program.compile_seconds:.0f}',
        f'{program.compile_cpu_seconds:.0f}',
    )


if __name__ == '__main__':
    main()
