"""What a Slurm job of a sweep does: it runs one trial as a process of its own, and notes how that ended.

submitit pickles a SlurmTrial into the job's file and calls it on each node. It imports nothing heavy, as it only waits.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

RANK, RESTARTS, NODE = 'SLURM_PROCID', 'SLURM_RESTART_COUNT', 'SLURMD_NODENAME'


class SlurmTrial:
    """One trial in a job; called by submitit on each node of the job.

    Slurm sends its signals to every process of a job: SIGTERM when it preempts one, SIGUSR2 before the time limit.
    `train` saves a checkpoint and ends. After SIGUSR2 submitit asks for checkpoint() and queues the job again.
    """

    def __init__(self, command: Sequence[str], *, log: str, ended: str):
        """Args:
        command: runs the trial.
        log: the file to which the first node's output is appended; that of the others stays in submitit's files.
        ended: the file in which the first node says how the trial ended.
        """
        self._command, self._log, self._ended = list(command), log, ended
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Runs the trial to its end; a status other than 0 becomes that of the job."""
        is_first = os.environ.get(RANK, '0') == '0'
        pathlib.Path(self._ended).unlink(missing_ok=True)  # Of the time before the job was queued again.
        with open(self._log, 'ab') if is_first else contextlib.nullcontext() as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT if is_first else None
            )
        status = self._process.wait()
        if is_first:
            self._note(status)
        if status != 0:
            sys.exit(128 - status if status < 0 else status)

    def checkpoint(self) -> Any:
        """What submitit runs when the job starts once more: the same trial, which resumes.

        It waits for the checkpoint of the trial, as the job is queued again at once afterwards.
        """
        import submitit

        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGUSR2)  # The second one has no effect.
            # Popen.wait() holds a lock in the code that the signal interrupted; this waits without it.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        again = SlurmTrial(self._command, log=self._log, ended=self._ended)
        return submitit.helpers.DelayedSubmission(again)

    def _note(self, status: int) -> None:
        about = {
            'status': status,
            'restarts': int(os.environ.get(RESTARTS, '0')),
            'node': os.environ.get(NODE, ''),
        }
        partial = pathlib.Path(f'{self._ended}.partial')
        partial.write_text(json.dumps(about))
        os.replace(partial, self._ended)
