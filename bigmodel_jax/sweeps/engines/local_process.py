"""A process of this machine that trains trials one after another, as sweeps/worker.py says."""

import contextlib
import os
import pathlib
import signal
import subprocess
from collections.abc import Sequence

from bigmodel_jax.sweeps import worker
from bigmodel_jax.sweeps.engines import devices


class LocalProcess:
    """A process with its share of the machine, and the trial that it trains.

    Args:
      command: trains one trial; or, where `serves`, those that are asked for.
      log: the file that gets what it prints.
    """

    def __init__(self, command: Sequence[str], share: devices.Share, log: pathlib.Path, *, serves: bool):
        self.share = share
        self._answers = b''
        with open(log, 'ab') as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if serves else subprocess.DEVNULL,
                stdout=subprocess.PIPE if serves else output,
                stderr=output,
                env={**os.environ, **share.environment},
                start_new_session=True,  # Ctrl-C on the terminal reaches it through this process alone, and once.
            )
        if self._process.stdout is not None:
            os.set_blocking(self._process.stdout.fileno(), False)
        if share.cores:
            with contextlib.suppress(ProcessLookupError):  # Threads that it starts later keep to them too.
                os.sched_setaffinity(self._process.pid, share.cores)

    def ask(self, trial: str, log: pathlib.Path, stop_after: int | None) -> None:
        """Asks it to train a trial; if it is dead, status() says so."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(worker.request(trial, log, stop_after))
            self._process.stdin.flush()

    def has_answered(self) -> bool:
        """Whether it says that its trial ended as it should. Says it once."""
        if self._process.stdout is not None:
            with contextlib.suppress(BlockingIOError):
                self._answers += self._process.stdout.read() or b''
        _, newline, rest = self._answers.partition(b'\n')
        if newline:
            self._answers = rest
        return bool(newline)

    def status(self) -> int | None:
        """Its exit status; None while it lives."""
        return self._process.poll()

    def stop(self) -> None:
        """Asks it to stop its trial with a checkpoint, and to end."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once, with the processes that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
