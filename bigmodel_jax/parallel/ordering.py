"""The order of operations that need not wait for one another, where the compiler's own order takes more memory."""

from typing import Any

import jax

from bigmodel_jax.parallel import sharding

PyTree = Any


def one_by_one(first: PyTree, second: PyTree) -> tuple[PyTree, PyTree]:
    """Both as they are. On TPU whatever uses `second` then waits until `first` is computed.

    In a backward pass the gradient of a matrix comes first: the activations that only it reads are then free before
    those of the next gradient are made. The TPU compiler would make them together, in one fusion. On other platforms
    nothing changes.
    """
    place = sharding.current()
    if place is None or place.platform != 'tpu':
        return first, second
    after: tuple[PyTree, PyTree] = jax.lax.optimization_barrier((first, second))
    return after
