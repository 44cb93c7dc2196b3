"""A fork server: runs the command line of this package on simulated hosts, starting each in a fraction of the time.

Most of the seconds that a process takes to start go into importing libraries. The server imports them once, without
touching a device, and forks a process for each host, which goes on as if it had imported them itself. For tests and
chaos on Linux; a run on a pod starts its processes in the usual way.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pathlib
import random
import runpy
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from bigmodel_jax.hosts import simulation
from bigmodel_jax.reproduce.chaos import shim
from bigmodel_jax.run_directory import code
from bigmodel_jax.storage import waits

POLL_S = 0.01
# What a run imports only once it needs it.
LATE = (
    'bigmodel_jax.cli.completion',
    'bigmodel_jax.cli.train',
    'bigmodel_jax.console.output',
    'jax.experimental.multihost_utils',
    'jaxlib.mlir.dialects.builtin',
    'jaxlib.mlir.dialects.mhlo',
    'tensorboardX',
    'tensorboardX.event_file_writer',
)


class Child:
    """A process that runs one command; made by Zygote.run()."""

    def __init__(self, zygote: 'Zygote', pid: int, output: pathlib.Path):
        self._zygote, self._status = zygote, None
        self.pid, self.output = pid, output

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        if self._status is None:
            self._status = self._zygote._ask({'status': self.pid})
        return self._status

    def kill(self) -> None:
        """SIGKILL, to it and to what it started."""
        # The server alone reaps it, when asked by poll(); so its number cannot be another's by now.
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            os.kill(self.pid, signal.SIGKILL)  # It may be too young to have a group of its own.


class Zygote:
    """The fork server, as a context manager; leaving it kills what it started, and so does the death of this process.

    Args:
      environment: variables that its processes have besides those of this one.
    """

    def __init__(self, environment: Mapping[str, str] | None = None):
        self._environment = {**os.environ, **(environment or {})}
        self._server: subprocess.Popen[str] | None = None

    def __enter__(self) -> 'Zygote':
        self._server = subprocess.Popen(
            [sys.executable, '-m', __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
            start_new_session=True,  # Ctrl-C on the terminal is for this process.
            preexec_fn=simulation.end_with_parent,
        )
        self._answer()  # It is ready.
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.kill()  # Its processes end with it.
        self._server.communicate()

    def run(
        self,
        arguments: Sequence[str],
        *,
        hosts: int,
        devices: int,
        output: pathlib.Path,
        own: Sequence[Sequence[str]] = (),
        orders: Mapping[int, Sequence[str | int]] = {},
    ) -> list[Child]:
        """Starts `python -m bigmodel_jax` with these arguments as on several hosts; returns at once.

        Args:
          arguments: of every host, without what tells it which host it is: ['train', 'experiments/gpt2.py', ...].
          devices: simulated CPU devices of each host.
          output: a directory; what host i prints goes to its file host<i>.txt.
          own: arguments that each host has besides.
          orders: host -> the fault that it meets, as chaos/shim.py takes it.

        Returns:
          The processes, in the order of the hosts.
        """
        output.mkdir(parents=True, exist_ok=True)
        children = []
        for host, flags in enumerate(simulation.told(hosts=hosts, devices=devices)):
            path = output / f'host{host}.txt'
            path.touch()  # So that the caller can read it before the process has begun to print.
            flags += own[host] if own else ()
            request = {'arguments': [*arguments, *flags], 'output': str(path), 'disturbed': bool(orders)}
            pid = self._ask(request | {'fault': list(orders.get(host, ()))})
            children.append(Child(self, pid, path))
        return children

    def _ask(self, request: Mapping[str, Any]) -> Any:
        assert self._server is not None
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request) + '\n')
        self._server.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._server is not None
        assert self._server.stdout is not None
        answer = self._server.stdout.readline()
        if not answer:
            raise RuntimeError(f'The fork server ended with exit status {self._server.wait()}; its error is above.')
        return json.loads(answer)


def wait(children: Iterable[Child], timeout_s: float) -> list[int | None]:
    """Waits until all have ended, or the time is over; the exit status of each, None if it still runs."""
    waited, deadline = list(children), time.monotonic() + timeout_s
    while None in (statuses := [child.poll() for child in waited]) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return statuses


# ---- the server ---------------------------------------------------------------------------------------------------


def _serve(requests: IO[str], answers: IO[str]) -> dict[str, Any] | None:
    """Answers requests; returns in each forked process with what that is to run, and at the end with None."""
    answers.write('null\n')
    answers.flush()
    for line in requests:
        request, answer = json.loads(line), None
        if 'status' in request:
            ended, status = os.waitpid(request['status'], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        else:
            parent, answer = os.getpid(), os.fork()
            if not answer:
                os.close(answers.fileno())
                _become(pathlib.Path(request['output']), parent)
                return request
        answers.write(json.dumps(answer) + '\n')
        answers.flush()
    return None


def _become(output: pathlib.Path, parent: int) -> None:
    """Makes a forked process one that could have been started in the usual way."""
    simulation.end_with_parent()
    if os.getppid() != parent:  # It died before that was arranged.
        os._exit(1)
    os.setsid()
    null, file = os.open(os.devnull, os.O_RDONLY), os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for source, target in ((null, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    random.seed()


def _keep_programs() -> None:
    """Lets every process keep what it compiles: in JAX only the first one does, and on CPUs each has its own keys."""
    from jax._src import compilation_cache, compiler

    def write(key: str, seconds: float, name: str, *rest: Any) -> None:
        backend, executable, *callbacks = rest
        if not any(callbacks):
            compilation_cache.put_executable_and_time(key, name, executable, backend, int(seconds))

    module: Any = compiler
    module._cache_write = write


def _prepare() -> None:
    """Does once what every process would do in the same way, without touching a device."""
    _keep_programs()
    for name in ('bigmodel_jax.cli.process', 'bigmodel_jax.verbs', *LATE):
        importlib.import_module(name)
    code.package()
    templates = importlib.import_module('bigmodel_jax.report.pages').environment()
    for name in templates.list_templates():
        templates.get_template(name)


def main() -> int:
    """Serves the process that started this one, until it closes our standard input."""
    status = [1]  # Of an exception that nobody catches.
    # The first to be registered is the last to be called; hence JAX must not be imported before.
    assert 'jax' not in sys.modules
    atexit.register(_end, status)
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # What a library prints is no answer.
    # JAX warns of forks, since a process that has started its devices has threads; this one never does.
    warnings.filterwarnings('ignore', message=r'os\.fork\(\) was called')
    _prepare()
    gc.freeze()  # Else the first collection would copy every page.
    gc.set_threshold(20_000)  # A short run has little to collect.
    request = _serve(sys.stdin, answers)
    if request is not None:
        sys.argv[1:] = request['arguments']
        if request['disturbed']:  # All hosts: they try equally often.
            # What lasts, lasts: a minute of tries would only take time.
            waits.OPERATION_S, waits.LOG_S, waits.CHECKPOINT_S = (0.01,) * 3, (0.01,) * 4, (0.01,) * 2
        if request['fault']:
            shim.arm(request['fault'])
        try:
            runpy.run_module('bigmodel_jax', run_name='__main__', alter_sys=True)  # As python -m does.
        except SystemExit as end:
            status[0] = end.code if isinstance(end.code, int) else int(end.code is not None)
            raise
    status[0] = 0
    return 0


def _end(status: Sequence[int]) -> None:
    """Ends the process; the interpreter would first free one by one the objects that it shares with the server."""
    gc.collect()  # What is unreachable may have something to say, such as an exception that was never retrieved.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status[0])


if __name__ == '__main__':
    sys.exit(main())
