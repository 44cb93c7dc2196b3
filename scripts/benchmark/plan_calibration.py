"""What plan predicts beside what others have published: the rows that the factors were fitted to, and those kept apart.

python scripts/benchmark/plan_calibration.py
"""

import statistics

import rich.console
import rich.table

from bigmodel_jax.parallel import torus
from bigmodel_jax.plan import roofline
from bigmodel_jax.plan.hardware import calibration, published


def main() -> None:
    """Prints one line for each published step time, and the error of each half."""
    rows = published.rows()
    _, held_out = calibration.halves(rows)
    table = rich.table.Table(box=None)
    for name in ('model', 'slice', 'mesh', 'published s', 'predicted s', 'ratio', 'used to', 'guessed'):
        table.add_column(name)
    ratios: dict[bool, list[float]] = {True: [], False: []}
    for row in rows:
        predicted_s = roofline.step_time(row.counts, row.slice, row.mesh).seconds
        ratio, kept_apart = row.seconds / predicted_s, any(row is each for each in held_out)
        ratios[kept_apart].append(abs(ratio - 1))
        use = 'bound' if kept_apart else 'fit'
        mesh = torus.shape_text(row.mesh)
        times = f'{row.seconds:.2f}', f'{predicted_s:.2f}', f'{ratio:.2f}'
        table.add_row(row.model, str(row.slice), mesh, *times, use, ', '.join(row.guessed))
    console = rich.console.Console(width=120, highlight=False)
    console.print(table)
    for kept_apart, errors in ratios.items():
        name = 'kept apart' if kept_apart else 'fitted'
        console.print(
            f'{name}: {len(errors)} rows, median error {statistics.median(errors):.0%}, worst {max(errors):.0%}'
        )


if __name__ == '__main__':
    main()
