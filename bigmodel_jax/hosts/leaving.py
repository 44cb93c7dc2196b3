"""How a process that fails ends: it tells the others why, so that all of them end soon and say which host failed.

The first failure is kept in the key-value store that the processes share, and a thread of each process waits for it
there. Process 0 serves the store, and JAX aborts every process that loses it: process 0 ends last, whoever failed.
"""

import atexit
import contextlib
import json
import os
import sys
import threading
import time
from typing import Any

import jax

# JAX shows its key-value store nowhere else. A thread may wait for it while the devices compute.
from jax._src import distributed

from bigmodel_jax.hosts import processes
from bigmodel_jax.storage import appending

FAILURE, LEFT = 'bigmodel_jax/failure', 'left'
LISTEN_S = 0.5  # Between two looks for a failure.
# How long process 0 waits for the others to end. One that was killed never says that it does.
LAST_S = 5.0
SETTLE_S = 0.25  # What a process takes to end once it has said that it does.
POLL_S = 0.02
# A process that lost another one is told within this time why that one ended, if it could still say so.
TOLD_S = 2.0

# Held by the thread that says how this process ends; never released.
_ending = threading.Lock()
_ended = threading.Event()  # Set when the interpreter ends.


def listen() -> None:
    """Starts the thread that ends this process when another one fails; once the processes have found each other."""
    thread = threading.Thread(target=_listen, name='failures', daemon=True)
    thread.start()
    # Python ends a thread that is in a call of the store while the interpreter ends, and the whole process with it.
    atexit.register(_stop_listening, thread)


def _stop_listening(thread: threading.Thread) -> None:
    _ended.set()
    thread.join(10)


def _listen() -> None:
    found: list[tuple[str, str]] = []
    while not found and not _ended.wait(LISTEN_S):
        try:
            found = _client().key_value_dir_get(FAILURE)
        except jax.errors.JaxRuntimeError:
            return  # Process 0 is gone.
    if found:
        failure = json.loads(found[0][1])
        _ending.acquire()
        appending.say(f'stopped: host {failure["host"]} failed: {failure["reason"]}')
        _end(failure['status'])


def tell(reason: str, status: int) -> None:
    """Tells the other processes why this one fails; from here on only this thread says anything of it.

    Does not return in a process that is already saying why another one failed.

    Args:
      reason: on one line, or a few.
      status: with which all of them end.
    """
    if processes.count() == 1:
        return
    _ending.acquire()
    failure = json.dumps({'host': processes.index(), 'reason': reason, 'status': status})
    with _without_store():  # Another one may have failed first, or nobody serves the store any more.
        _client().key_value_set(f'{FAILURE}/first', failure)


def await_reason() -> None:
    """Waits for the reason of a process that this one lost; ends this process if it comes."""
    time.sleep(TOLD_S)


def leave(status: int) -> int:
    """Ends this process at once if there are others, which tell() has told, and otherwise returns `status`.

    Leaving in the usual way would wait for the others, which may be waiting for this one.
    """
    if processes.count() > 1:
        _end(status)
    return status


def _end(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    with _without_store():
        processes.publish(LEFT, True)
        if processes.is_first():
            _outlast()
    os._exit(status)


def _outlast() -> None:
    """Returns when the other processes have ended, or have had the time to."""
    deadline = time.monotonic() + LAST_S
    while len(processes.published(LEFT)) < processes.count() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    time.sleep(SETTLE_S)


def _client() -> Any:
    return distributed.global_state.client


def _without_store() -> contextlib.AbstractContextManager[None]:
    """Leaves out what the store cannot do: it may never have been reached, or be gone."""
    return contextlib.suppress(jax.errors.JaxRuntimeError, AttributeError)
