"""Ends a process when the one that started it ends, even if that was killed."""

import os
import signal
import sys
import threading
import time

from bigmodel_jax.hosts import simulation

POLL_S = 1.0


def end_with(parent: int) -> None:
    """From now on this process is killed when its parent ends.

    On Linux by the kernel and at once; elsewhere by a thread that looks every POLL_S seconds.

    Args:
      parent: the number of the process that should be the parent; one that has ended already is noticed by it.
    """
    if sys.platform == 'linux':
        simulation.end_with_parent()
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.platform != 'linux':
        threading.Thread(target=_watch, args=(parent,), name='parent', daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGKILL)
