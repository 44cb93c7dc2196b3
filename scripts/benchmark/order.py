"""What the order of the examples costs: microseconds for an id, of batches of 256, ours beside Grain's shuffle.

python scripts/benchmark/order.py
"""

import argparse
import time

import grain
import numpy as np
import rich.console
import rich.table

from bigmodel_jax.data import order

COUNTS = (10, 100, 569, 1_797, 10_000, 60_000, 70_000, 1_000_000, 10**9)
BATCH, BATCHES = 256, 20


def ours(count: int) -> float:
    """Seconds for an id."""
    begin = time.perf_counter()
    for k in range(BATCHES):
        order.ids_at(np.arange(k * BATCH, (k + 1) * BATCH), count, 7)
    return (time.perf_counter() - begin) / (BATCHES * BATCH)


def grains(count: int) -> float:
    """Seconds for an id; of one batch, as it can take seconds."""
    shuffled = grain.MapDataset.range(count).seed(7).shuffle().repeat()
    shuffled[0]
    begin = time.perf_counter()
    for position in range(BATCH):
        shuffled[position]
    return (time.perf_counter() - begin) / BATCH


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    table = rich.table.Table('examples', 'ours, us', "Grain's, us", 'times')
    for count in COUNTS:
        mine, theirs = ours(count) * 1e6, grains(count) * 1e6
        table.add_row(f'{count:,}', f'{mine:.2f}', f'{theirs:.1f}', f'{theirs / mine:.1f}')
    rich.console.Console().print(table)


if __name__ == '__main__':
    main()
