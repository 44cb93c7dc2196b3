"""The engine for Slurm clusters, through submitit: the trials of a sweep are the tasks of job arrays.

Slurm alone decides when and where a trial runs, and queues one again that was preempted, lost its node or met its time
limit; it then resumes from its checkpoint. What was submitted is noted in the directory of the sweep before Slurm is
asked, so that a sweep that was killed finds its jobs:

    slurm/NAME/trials.json     the trials of the array whose jobs are named NAME, by their number in it
    slurm/NAME/TRIAL.json      how a trial of it ended
    slurm/submitit/            the files of submitit
"""

import contextlib
import dataclasses
import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.storage import durable_files
from bigmodel_jax.sweeps import worker
from bigmodel_jax.sweeps.engines import engine, slurm_job
from bigmodel_jax.sweeps.sweep_directory import SweepDirectory, TrialEntry

PROGRAMS = ('sbatch', 'srun', 'squeue', 'scancel', 'sinfo')
PARTITIONS = ('sinfo', '--noheader', '--format=%P|%l')  # Prints the partitions, each with its time limit.
FOLDER, SUBMITIT, TRIALS = 'slurm', 'submitit', 'trials.json'
ARRAY = 1_000  # Slurm's MaxArraySize is 1,001 unless a cluster sets it.
QUEUE_EVERY_S = 5.0  # How often squeue is asked at most.
ANSWER_S = 60  # How long Slurm may take to answer.
SIGNAL_BEFORE_S = 120  # From SIGUSR2 to the time limit: time for a checkpoint.
# States of squeue in which a job has ended; one that is queued again leaves them.
ENDED = {
    'BOOT_FAIL', 'CANCELLED', 'COMPLETED', 'DEADLINE', 'FAILED', 'NODE_FAIL', 'OUT_OF_MEMORY', 'PREEMPTED', 'REVOKED',
    'TIMEOUT',
}  # fmt: skip
JOB, KEPT = 'SLURM_JOB_ID', ('SLURM_CONF', 'SLURM_CLUSTERS')  # Variables: within a job; where the cluster is.
WORD = re.compile(r'[A-Za-z0-9_.,:&|*+=@%()\[\]-]*')  # It stands on a line of a shell script.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slurm(engine.Engine):
    """Trials as jobs of Slurm (https://slurm.schedmd.com/sbatch.html says more on each of these).

    Attributes:
      partition, account, qos, constraint: as the cluster names them; '' for its default.
      gres: what each node gives a trial, as 'gpu:1' or 'gpu:a100:8'; '' for no GPU.
      nodes: of a trial. With several, the processes find each other through Slurm.
      cpus: of each node; None for the cluster's default.
      memory_gb: of each node; None for the cluster's default.
      minutes: the time limit of a job. A trial that meets it saves a checkpoint and is queued again.
      time_limits: how often a trial may meet it.
      at_once: how many trials of an array run at a time.
    """

    partition: str = ''
    account: str = ''
    qos: str = ''
    constraint: str = ''
    gres: str = ''
    nodes: config.Positive = 1
    cpus: config.Positive | None = None
    memory_gb: config.Positive | None = None
    minutes: config.Positive = 1_440
    time_limits: config.NonNegative = 20
    at_once: config.Positive = 256

    def check(self, directory: SweepDirectory) -> None:
        """As Engine.check(); also that the partition is there and allows the time limit."""
        config.check(self)
        if durable_files.is_remote(directory.path):
            raise config.InputError(
                f'{directory.path}: with --engine slurm the directory of a sweep is one that all nodes share, such as '
                'one on NFS or Lustre; submitit cannot keep its files in an object store.'
            )
        for name in ('partition', 'account', 'qos', 'constraint', 'gres'):
            if not WORD.fullmatch(getattr(self, name)):
                raise config.InputError(f'{name}={getattr(self, name)!r}: Slurm has no such names.')
        missing = [program for program in PROGRAMS if shutil.which(program) is None]
        if missing:
            raise config.InputError(
                f'The engine slurm needs {", ".join(missing)}, which this machine does not have. Start the sweep on a '
                'login node of the cluster, or use --engine local.'
            )
        if importlib.util.find_spec('submitit') is None:
            raise config.InputError('The engine slurm needs submitit: pip install submitit.')
        _check_partition(self.partition, self.minutes)

    @contextlib.contextmanager
    def jobs(self, directory: SweepDirectory) -> Iterator['SlurmJobs']:
        """As Engine.jobs(); the jobs go on when the context ends."""
        folder = directory.path / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)  # What a job is to run is pickled in it.
        yield SlurmJobs(self, directory)

    def parameters(self, name: str) -> dict[str, Any]:
        """The parameters of submitit's SlurmExecutor for jobs of this name."""
        given = {
            'partition': self.partition or None,
            'account': self.account or None,
            'qos': self.qos or None,
            'constraint': self.constraint or None,
            'gres': self.gres or None,
            'cpus_per_task': self.cpus,
            'mem': f'{self.memory_gb}GB' if self.memory_gb else None,
        }
        # srun does not take the number of CPUs over from sbatch, and may lack the library of its default for MPI.
        srun = ['--mpi=none', '--kill-on-bad-exit=1', *([f'--cpus-per-task={self.cpus}'] if self.cpus else [])]
        return {key: value for key, value in given.items() if value is not None} | {
            'job_name': name,
            'nodes': self.nodes,
            'ntasks_per_node': 1,
            'time': self.minutes,
            'array_parallelism': self.at_once,
            'signal_delay_s': SIGNAL_BEFORE_S,
            'stderr_to_stdout': True,
            'srun_args': srun,
            'additional_parameters': {'requeue': True},
        }


class QueuedJob(NamedTuple):
    """A job as squeue lists it; one that ended some minutes ago is listed as well."""

    number: str  # '17', or '17_3' for a task of an array.
    task: int  # Its number in the array.
    name: str
    state: str
    node: str


class SlurmJobs(engine.Jobs):
    """The trials of one sweep in Slurm."""

    def __init__(self, about: Slurm, directory: SweepDirectory):
        self._about, self._directory = about, directory
        self._folder = directory.path / FOLDER
        self._waiting: dict[str, tuple[TrialEntry, str]] = {}  # By the trial's name: it, and the name of its jobs.
        self._asked_s = 0.0
        self._missed: set[str] = set()  # Trials that had no job the last time, and had not noted how they ended.

    def room(self) -> int:
        """The size of an array; Slurm queues what has no room."""
        return ARRAY

    def submit(self, entries: Sequence[TrialEntry], *, stop_after: int | None = None) -> None:
        """As Jobs.submit()."""
        with durable_files.one_at_a_time(self._folder):  # Two processes of one sweep look and submit in turn.
            queued = {trial: name for name, trial, _ in self._alive(_queue(self._names()))}
            self._waiting |= {each.name: (each, queued[each.name]) for each in entries if each.name in queued}
            new = [each for each in entries if each.name not in queued]
            if new:
                name = self._submit(new, stop_after)
                self._waiting |= {each.name: (each, name) for each in new}

    def _submit(self, entries: Sequence[TrialEntry], stop_after: int | None) -> str:
        """Hands an array of trials to Slurm, and returns the name of its jobs."""
        import submitit

        name = f'{_words(self._directory.path.name)}-{secrets.token_hex(4)}'
        (self._folder / name).mkdir()
        durable_files.write_json(self._folder / name / TRIALS, [each.name for each in entries])
        executor = submitit.SlurmExecutor(os.fspath(self._folder / SUBMITIT), max_num_timeout=self._about.time_limits)
        executor.update_parameters(**self._about.parameters(name))
        try:
            with _outside_of_jobs(), executor.batch():
                for each in entries:
                    executor.submit(
                        slurm_job.SlurmTrial(
                            worker.command(self._directory, each, stop_after=stop_after),
                            log=os.fspath(self._directory.log(each)),
                            ended=os.fspath(self._ended_file(name, each)),
                        )
                    )
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            (self._folder / name).rmtree()
            raise config.InputError(f'Slurm refused the trials: {_last_line(str(error))}') from error
        return name

    def ended(self) -> Sequence[engine.EndedJob]:
        """As Jobs.ended(); asks squeue every few seconds."""
        if not self._waiting or time.monotonic() < self._asked_s + QUEUE_EVERY_S:
            return []
        self._asked_s = time.monotonic()
        jobs = _queue(sorted({name for _, name in self._waiting.values()}))
        if jobs is None:  # Slurm does not answer for now; its jobs go on.
            return []
        alive = {(name, trial) for name, trial, _ in self._alive(jobs)}
        gone = [each for each in self._waiting.values() if (each[1], each[0].name) not in alive]
        found = [job for each, name in gone if (job := self._how(each, name, jobs)) is not None]
        for job in found:
            del self._waiting[job.entry.name]
            self._missed.discard(job.entry.name)
        return found

    def _how(self, entry: TrialEntry, name: str, jobs: Sequence[QueuedJob]) -> engine.EndedJob | None:
        """How a trial without a job ended; None to look once more: one that is queued again has none for a moment."""
        last = [job for job in jobs if job.name == name and self._trials(name)[job.task] == entry.name]
        said = f'Slurm: {last[0].state}{f" on {last[0].node}" if last[0].node else ""}' if last else ''
        path = self._ended_file(name, entry)
        status = durable_files.read_json(path)['status'] if durable_files.exists(path) else None
        if entry.name not in self._missed and status != 0:
            self._missed.add(entry.name)
            return None
        if status is None:
            where = f'what the job itself printed is in {self._folder / SUBMITIT}'
            return engine.EndedJob(entry, -signal.SIGKILL, f'{said or "Slurm no longer knows its job"}; {where}')
        return engine.EndedJob(entry, int(status), '' if status in (0, 1, 2) else said)

    def stop(self, entries: Sequence[TrialEntry]) -> None:
        """As Jobs.stop()."""
        names = {each.name for each in entries}
        alive = self._alive(_queue(self._names()))
        numbers = [job.number for _, trial, job in alive if trial in names]
        if numbers:
            # One that waits leaves the queue. Of one that runs only the processes get the signal: scancel without it
            # kills after 30 seconds, whether the checkpoint is written or not.
            _run('scancel', '--state=PENDING', *numbers)
            _run('scancel', '--signal=TERM', *numbers)

    def interrupt(self, number: signal.Signals) -> str | None:
        """As Jobs.interrupt(): the jobs go on."""
        names = ','.join(sorted({name for _, name in self._waiting.values()}))
        return (
            f'The {len(self._waiting)} trials go on in Slurm. The same command waits for them again; '
            f'`scancel --name={names}` ends them.'
        )

    def describe(self) -> str:
        """As Jobs.describe()."""
        about = self._about
        words = [
            'Slurm',
            f'partition {about.partition}' if about.partition else '',
            f'{about.nodes} nodes a trial' if about.nodes > 1 else '',
            f'{about.gres} a node' if about.gres else '',
            f'at most {about.at_once} trials at a time',
        ]
        return ', '.join(filter(None, words))

    def _names(self) -> list[str]:
        """The names of all jobs of this sweep, of earlier starts as well."""
        names = durable_files.names_in(self._folder)
        return [name for name in names if durable_files.exists(self._folder / name / TRIALS)]

    def _trials(self, name: str) -> list[str]:
        return list(durable_files.read_json(self._folder / name / TRIALS))

    def _ended_file(self, name: str, entry: TrialEntry) -> epath.Path:
        return self._folder / name / f'{entry.name}.json'

    def _alive(self, jobs: Sequence[QueuedJob] | None) -> list[tuple[str, str, QueuedJob]]:
        """(name of the jobs, name of the trial, job) of each job that waits, runs or will be queued again.

        Raises:
          InputError: Slurm does not answer.
        """
        if jobs is None:
            raise config.InputError('Slurm does not answer (squeue failed). Give the command again when it does.')
        trials = {name: self._trials(name) for name in {job.name for job in jobs}}
        return [(job.name, trials[job.name][job.task], job) for job in jobs if job.state not in ENDED]


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Without the variables of the job within which the sweep was started, if it was: they would size its trials."""
    from submitit import helpers

    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    with helpers.clean_env() if JOB in os.environ else contextlib.nullcontext():
        os.environ.update(kept)
        yield


# ---- asking Slurm ---------------------------------------------------------------------------------------------------


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, '', f'{command[0]} gave no answer in {ANSWER_S} seconds')


def _queue(names: Sequence[str]) -> list[QueuedJob] | None:
    """The jobs with these names; None if Slurm does not answer."""
    if not names:
        return []
    done = _run(
        'squeue', '--noheader', '--array', '--states=all', f'--name={",".join(names)}', '--format=%i|%K|%T|%N|%j'
    )
    if done.returncode:
        return None
    rows = [line.strip().split('|') for line in done.stdout.splitlines() if line.strip()]
    return [
        QueuedJob(number, int(index) if index.isdecimal() else 0, name, state, node)
        for number, index, state, node, name in rows
    ]


def _check_partition(partition: str, minutes: int) -> None:
    done = _run(*PARTITIONS)
    if done.returncode:
        raise config.InputError(
            f'Slurm cannot be reached from here: {_last_line(done.stderr)}. See whether `sinfo` works, or use --engine '
            'local.'
        )
    check_partition(done.stdout, partition, minutes)


def check_partition(listed: str, partition: str, minutes: int) -> None:
    """Raises InputError if a cluster has no such partition, or one for shorter jobs.

    Args:
      listed: what PARTITIONS prints.
      partition: one, or several with commas between them; '' for the default.
    """
    limits = dict(line.strip().split('|') for line in listed.splitlines() if line.strip())
    default = next((name for name in limits if name.endswith('*')), '')
    limits = {name.rstrip('*'): limit for name, limit in limits.items()}
    if partition and any(each not in limits for each in partition.split(',')):
        raise config.InputError(
            f'partition={partition}: the cluster has {", ".join(limits)}.{config.nearest(partition, limits)}'
        )
    for each in (partition or default.rstrip('*')).split(','):
        limit = _minutes(limits.get(each, 'infinite'))
        if limit is not None and limit < minutes:
            raise config.InputError(
                f'minutes={minutes}: the partition {each} ends jobs after {limit} minutes, and would never start one '
                f'with a longer limit. Use minutes={limit} or less; what needs more goes on in the next job.'
            )


def _minutes(limit: str) -> int | None:
    """A time limit as sinfo prints it, '2-00:30:00', '30:00' or 'infinite', in whole minutes; None without a limit."""
    days, _, rest = limit.rpartition('-')
    if not re.fullmatch(r'[\d:]+', rest):
        return None
    *hours, minutes, _ = rest.split(':')
    return 1_440 * int(days or 0) + 60 * int(hours[0] if hours else 0) + int(minutes)


def _words(name: str) -> str:
    """A name as a part of the name of a job."""
    return re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')[:40] or 'sweep'


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip('.') if lines else 'it gave no reason'
