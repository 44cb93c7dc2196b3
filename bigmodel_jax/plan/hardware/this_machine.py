"""What this machine's CPU can do, measured."""

import functools
import time

import numpy as np

SIZE = 768  # Of the matrices by which its rate is measured.
REPEATS = 5


@functools.cache
def flops() -> float:
    """Float32 FLOP/s in products of large matrices, which no training reaches."""
    a = np.ones((SIZE, SIZE), np.float32)
    a @ a  # The first one starts the threads.
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * SIZE**3 / min(seconds)
