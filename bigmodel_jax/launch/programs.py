"""The only place from which gcloud, kubectl, xpk, sbatch and sky are started."""

import subprocess
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bigmodel_jax.hosts import simulation

TIMEOUT_S = 300


class Answer(NamedTuple):
    """What a program said.

    Attributes:
      status: its exit status; None if it gave no answer in time, and may have done anything.
    """

    status: int | None
    out: str = ''
    err: str = ''

    @property
    def problem(self) -> str:
        """The last line of what it said, without the full stop."""
        lines = [line.strip() for line in f'{self.out}\n{self.err}'.splitlines() if line.strip()]
        return lines[-1].rstrip('.') if lines else f'exit status {self.status}'


Run = Callable[[Sequence[str]], Answer]


def run(command: Sequence[str], *, timeout_s: float | None = None) -> Answer:
    """Runs a program without a terminal; it is killed when this process ends, and after `timeout_s` seconds.

    Args:
      timeout_s: None for TIMEOUT_S.
    """
    limit_s = TIMEOUT_S if timeout_s is None else timeout_s
    try:
        with warnings.catch_warnings():
            # JAX warns of every fork; the new process only calls prctl() before it becomes the program.
            warnings.filterwarnings('ignore', 'os.fork', RuntimeWarning)
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors='replace',
                timeout=limit_s,
                check=False,
                preexec_fn=simulation.end_with_parent if simulation.ENDS_WITH_PARENT else None,
            )
    except subprocess.TimeoutExpired:
        return Answer(None, err=f'{command[0]} gave no answer in {limit_s:g} seconds')
    except OSError as error:
        return Answer(127, err=f'{command[0]} cannot be started: {error}')
    return Answer(done.returncode, done.stdout, done.stderr)
