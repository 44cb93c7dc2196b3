"""Communication between corresponding threads of the processes, while other threads communicate as well."""

import itertools
import json
from typing import Any

# JAX shows its key-value store nowhere else. It needs no devices, so that a thread may wait while these compute.
from jax._src import distributed

from bigmodel_jax.hosts import processes

_numbers = itertools.count()  # Of the channels of this process; the same on all.


class Channel:
    """An exchange between the processes that has its own order, so that one thread of each may use it at any time.

    Every process must make its channels in the same order, and use each the same number of times.

    Args:
      wait_s: how long one process waits for another.
    """

    def __init__(self, wait_s: float):
        self._key, self._round, self._wait_ms = f'bigmodel_jax/channel{next(_numbers)}', 0, int(wait_s * 1e3)

    def exchange(self, value: Any) -> list[Any]:
        """The values that the processes give, in the order of their numbers. JSON-ready and small.

        Raises:
          JaxRuntimeError: a process did not answer in time.
        """
        if processes.count() == 1:
            return [value]
        client: Any = distributed.global_state.client
        key = f'{self._key}/{self._round}'
        client.key_value_set(f'{key}/{processes.index()}', json.dumps(value))
        texts = [client.blocking_key_value_get(f'{key}/{number}', self._wait_ms) for number in range(processes.count())]
        if processes.is_first() and self._round:
            # Who has come to this round has read the last one.
            client.key_value_delete(f'{self._key}/{self._round - 1}/')
        self._round += 1
        return [json.loads(text) for text in texts]
