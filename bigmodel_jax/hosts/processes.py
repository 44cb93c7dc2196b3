"""Exchange between the processes of a run, one on each host: whether they agree, and what went wrong where.

Process 0, the first, writes what is written once. Every process must call these functions in the same order. With one
process they do nothing but what they are given to do.
"""

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

# JAX shows its key-value store nowhere else. It works before the devices do, and waits without using them.
from jax._src import distributed

from bigmodel_jax import config, differences

# The first may prepare data for hours. That a process died is told by its heartbeat, not by this.
WAIT_MS = 24 * 3_600_000

# How long a process that failed waits for the others to come to the same point and say how they fared. They may be
# waiting for it at an exchange within what it did; then it fails alone, and tells them so as it ends.
SETTLE_MS = 20_000

T = TypeVar('T')

_numbers = itertools.count()  # Of the exchanges of this process; the same on all.


class CollectiveError(config.InputError):
    """An error that every process knows of and raises, so that the first alone need say it."""


def count() -> int:
    """How many processes there are. Unlike jax.process_count() it does not start the devices."""
    return distributed.global_state.num_processes


def index() -> int:
    """The number of this process, from 0 on. Unlike jax.process_index() it does not start the devices."""
    return distributed.global_state.process_id


def is_first() -> bool:
    """Whether this process is the one that writes what is written only once."""
    return index() == 0


def _store() -> Any:
    return distributed.global_state.client


def exchange(value: Any) -> list[Any]:
    """The values that the processes give, in the order of their numbers. JSON-ready and small."""
    return _exchange(value, next(_numbers), WAIT_MS)


def _exchange(value: Any, number: int, wait_ms: int) -> list[Any]:
    if count() == 1:
        return [value]
    client, key = _store(), f'bigmodel_jax/{number}'
    client.key_value_set(f'{key}/{index()}', json.dumps(value))
    if is_first():
        texts = [client.blocking_key_value_get(f'{key}/{i}', wait_ms) for i in range(count())]
        client.key_value_set(f'{key}/all', f'[{",".join(texts)}]')
    return json.loads(client.blocking_key_value_get(f'{key}/all', wait_ms))


def from_first(value: Any) -> Any:
    """The value that the first process gives, on every process. JSON-ready."""
    if count() == 1:
        return value
    client, key = _store(), f'bigmodel_jax/{next(_numbers)}'
    if is_first():
        client.key_value_set(key, json.dumps(value))
    return json.loads(client.blocking_key_value_get(key, WAIT_MS))


def publish(subject: str, value: Any) -> None:
    """Publishes a JSON-ready value to the other processes, in place of the last one. Any thread may, at any time."""
    _store().key_value_set(f'bigmodel_jax/{subject}/{index()}', json.dumps(value), allow_overwrite=True)


def published(subject: str) -> dict[int, Any]:
    """The last value of each process that published one; waits for none."""
    found = _store().key_value_dir_get(f'bigmodel_jax/{subject}')
    return {int(key.rpartition('/')[2]): json.loads(value) for key, value in found}


def run_on_all(action: Callable[[], T]) -> T:
    """The result of `action`, run on all processes at once.

    Raises:
      CollectiveError: it raised InputError on any of them; on all, with the words of each.
      InputError: it raised that here, and the others did not come to its end in time; they wait for this process.
    """
    if count() == 1:
        return action()
    number = next(_numbers)  # Before the exchanges of the action, of which this process may not come to all.
    result, problem = _try(action)
    _settle(problem, number)
    return result


def first_then_others(action: Callable[[], T]) -> T:
    """The result of `action`, run on the first process and then on the others, which find what it prepared.

    Raises:
      CollectiveError: it raised InputError on any of them.
    """
    result: Any = on_first(action)
    return run_on_all(lambda: result if is_first() else action())


def on_first(action: Callable[[], T]) -> T | None:
    """The result of `action`, run on the first process alone; None on the others, which wait for it.

    Raises:
      CollectiveError: it raised InputError; on all.
    """
    if count() == 1:
        return action()
    result, problem = _try(action) if is_first() else (None, None)
    problem = from_first(problem)
    if problem is not None:
        raise CollectiveError(problem)
    return result


def check_same(facts: Mapping[str, Any], advice: str) -> None:
    """Checks that every process has the same `facts`, which are JSON-ready.

    Raises:
      CollectiveError: one has others; names the process, the fact, and both values. On all.
    """
    theirs = from_first(facts)
    found = differences.between(theirs, json.loads(json.dumps(facts)))
    lines = '\n'.join(f'  {each}' for each in found[:8])
    problem = f'differs from host 0. Host 0 -> here:\n{lines}\n{advice}' if found else None
    _settle(problem, next(_numbers))


def _try(action: Callable[[], T]) -> tuple[Any, str | None]:
    """The result of `action`, or the words of its InputError."""
    try:
        return action(), None
    except config.InputError as error:
        return None, str(error)


def _settle(problem: str | None, number: int) -> None:
    """Raises CollectiveError on every process if any has a problem."""
    try:
        problems = _exchange(problem, number, WAIT_MS if problem is None else SETTLE_MS)
    except jax.errors.JaxRuntimeError:
        if problem is None:
            raise
        raise config.InputError(problem) from None
    if len(set(problems)) == 1 and problem is not None:
        raise CollectiveError(problem)
    hosts: dict[str, list[str]] = {}
    for host, text in enumerate(problems):
        if text is not None:
            hosts.setdefault(text, []).append(str(host))
    if hosts:
        raise CollectiveError('\n'.join(f'host {", ".join(numbers)}: {text}' for text, numbers in hosts.items()))
