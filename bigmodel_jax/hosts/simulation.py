"""Several hosts on one machine: real processes that compute together, each with its own simulated devices."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO

GRACE_S = 10.0  # What the other processes have to end by themselves when one has failed.
POLL_S = 0.05
NOISE = '[Gloo]'  # Each process reports each connection that it makes.
# What hosts/preemption.py listens to; this file does not import JAX, which takes seconds.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
PR_SET_PDEATHSIG = 1  # prctl(2).
ENDS_WITH_PARENT = sys.platform == 'linux'  # Whether end_with_parent() can be used.


def run(command: Sequence[str], *, hosts: int, devices: int) -> int:
    """Runs `command` once for each host, and leaves no process behind.

    What they print is passed on, each line after its host. SIGNALS go to all of them. When one fails, the others have
    GRACE_S seconds to find out, and are killed then.

    Args:
      command: what every host runs, without what tells it which host it is.
      devices: simulated CPU devices of each host.

    Returns:
      The exit status: 0, or that of the first that failed.
    """
    started: list[subprocess.Popen[bytes]] = []
    with _forwarding(started), ending(started):
        for flags in told(hosts=hosts, devices=devices):
            started.append(_start([*command, *flags]))
        readers = [reader for host, process in enumerate(started) for reader in _readers(host, process)]
        failed = _wait(started)
        if failed is None:
            status = 0
        else:
            status = started[failed].returncode
            _wait_for_all(started, time.monotonic() + GRACE_S)
            left = [str(host) for host, process in enumerate(started) if process.poll() is None]
            if left or len({process.returncode for process in started}) > 1:
                kill = f'; killing host {", ".join(left)}' if left else ''
                _say(f'host {failed} ended first, {_words(status)}{kill}')
    for reader in readers:
        reader.join()
    return 128 - status if status < 0 else status


def told(*, hosts: int, devices: int) -> list[list[str]]:
    """The command-line flags that tell each host its devices, its number and the address of the first host.

    Args:
      devices: simulated CPU devices of each host.
    """
    common = ['--simulate-devices', str(devices), '--coordinator', f'127.0.0.1:{free_port()}']
    return [[*common, '--processes', str(hosts), '--process', str(host)] for host in range(hosts)]


def free_port() -> int:
    """A TCP port of this machine that nothing uses."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C on the terminal reaches it through us alone, and once.
        preexec_fn=end_with_parent if ENDS_WITH_PARENT else None,
    )


def end_with_parent() -> None:
    """Ends this process when its parent ends, even if that is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def _forwarding(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Within this context the signals that end a program go to `processes` instead."""

    def forward(number: int, _: object) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ending(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Kills what still runs when the context ends, with the processes that it started."""
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Returns the number of the first process that fails, or None when all have ended well."""
    while True:
        statuses = [process.poll() for process in processes]
        failed = [host for host, status in enumerate(statuses) if status]
        if failed:
            # Of those found at once, one that was killed is the cause rather than a consequence.
            return min(failed, key=lambda host: (statuses[host] or 0, host))
        if None not in statuses:
            return None
        time.sleep(POLL_S)


def _wait_for_all(processes: Sequence[subprocess.Popen[bytes]], deadline: float) -> None:
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(POLL_S)


def _readers(host: int, process: subprocess.Popen[bytes]) -> list[threading.Thread]:
    """Threads that pass on what a process prints, until it closes its end."""
    pairs = ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
    threads = [threading.Thread(target=_pass_on, args=(source, target, host), daemon=True) for source, target in pairs]
    for thread in threads:
        thread.start()
    return threads


def _pass_on(source: IO[bytes], target: IO[str], host: int) -> None:
    for line in source:
        text = line.decode(errors='replace').rstrip('\n')
        if not text.startswith(NOISE):
            target.write(f'host {host} | {text}\n')  # In one piece, so that lines of several hosts do not mix.
            target.flush()


def _words(status: int) -> str:
    return f'killed by {signal.Signals(-status).name}' if status < 0 else f'with exit status {status}'


def _say(message: str) -> None:
    sys.stderr.write(f'simulate_hosts: {message}\n')
    sys.stderr.flush()
