"""Nodes of a Slurm cluster, by sbatch; Slurm itself queues a run again that is preempted or whose node is lost."""

import dataclasses
import re
import shlex

from bigmodel_jax import config
from bigmodel_jax.launch import programs, seen, worker
from bigmodel_jax.launch.job import Job
from bigmodel_jax.launch.targets import target
from bigmodel_jax.plan.hardware import slices as hardware

SCRIPT, WORKER = 'job.sh', 'worker.sh'
WAITING = {'PENDING', 'CONFIGURING', 'REQUEUED', 'REQUEUE_HOLD', 'REQUEUE_FED', 'SPECIAL_EXIT', 'RESV_DEL_HOLD'}
RUNNING = {'RUNNING', 'COMPLETING', 'SUSPENDED', 'STOPPED', 'SIGNALING', 'STAGE_OUT', 'RESIZING'}
AGAIN = {'PREEMPTED', 'NODE_FAIL', 'BOOT_FAIL', 'TIMEOUT', 'REVOKED'}  # States after which another attempt may do.
GRES = re.compile(r'[A-Za-z0-9_.:,=()-]*')
GPUS = re.compile(r'gpu(?::([A-Za-z]\w*))?:(\d+)')


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlurmNodes(target.Target):
    """Nodes of a cluster that all see the work directory and the directory of the launch at the same path.

    Attributes:
      partition, account, qos, constraint: as the cluster names them; '' for its default.
      gres: what each node gives, as 'gpu:8'; '' for no GPU.
      nodes: one process runs on each.
      cpus: of each node; None for the cluster's default.
      memory_gb: of each node; None for the cluster's default.
      minutes: the time limit. A run that meets it saves a checkpoint, and the next attempt resumes it.
      python: the folder of the interpreter on the nodes, with what the package needs; '' for the PATH of the job.
    """

    tools = ('sbatch', 'sinfo', 'squeue', 'scancel')

    partition: str = ''
    account: str = ''
    qos: str = ''
    constraint: str = ''
    gres: str = ''
    nodes: config.Positive = 1
    cpus: config.Positive | None = None
    memory_gb: config.Positive | None = None
    minutes: config.Positive = 1_440
    python: str = ''

    def check(self, job: Job) -> None:
        """As Target.check()."""
        names = {
            'partition': self.partition,
            'account': self.account,
            'qos': self.qos,
            'python': self.python.strip('/'),
        }
        target.check_words('SlurmNodes', **names)
        if not GRES.fullmatch(self.gres) or not re.fullmatch(r'[A-Za-z0-9_&|*,()\[\]-]*', self.constraint):
            raise config.InputError(f'SlurmNodes: gres={self.gres!r}, constraint={self.constraint!r} are no names.')
        job.check_local()
        if job.verb == 'sweep':
            raise config.InputError('A sweep gives Slurm each trial as a job of its own: sweep ... --engine slurm.')

    def cost(self) -> target.Rental:
        """As Target.cost()."""
        each = f' with {self.gres} each' if self.gres else ''
        return target.Rental(f'{self.nodes} nodes of a Slurm cluster{each}, for {self.minutes} minutes at a time', '')

    def machines(self) -> target.Machines:
        """As Target.machines(): the GPUs that `gres` names; without one, the CPU of each node is one device."""
        found = GPUS.fullmatch(self.gres)
        if self.gres and found is None:
            return target.Machines(self.nodes)
        kind, count = found.groups() if found else ('', 1)
        devices = self.nodes * int(count)
        try:
            chips = hardware.parse(f'{self.nodes}*{kind}:{count}') if kind else None
        except config.InputError:  # A name of the cluster's own, or a number of GPUs of which no machine is known.
            chips = None
        return target.Machines(self.nodes, devices, chips)

    def ready(self, job: Job, run: programs.Run) -> list[str]:
        """As Target.ready()."""
        from bigmodel_jax.sweeps.engines import slurm  # A question about a launch starts without JAX.

        advice = 'Launch on a login node of the cluster.'
        target.need(run, ['sbatch', '--version'], advice)
        slurm.check_partition(target.need(run, slurm.PARTITIONS, advice).out, self.partition, self.minutes)
        return []

    def files(self, place: target.AttemptPlace) -> dict[str, str]:
        """As Target.files(): what sbatch gets, and what each node runs."""
        from bigmodel_jax.sweeps.engines import slurm  # A question about a launch starts without JAX.

        job = place.job
        options = {
            'job-name': place.name, 'partition': self.partition, 'account': self.account, 'qos': self.qos,
            'constraint': self.constraint, 'gres': self.gres, 'nodes': self.nodes, 'ntasks-per-node': 1,
            'cpus-per-task': self.cpus, 'mem': f'{self.memory_gb}G' if self.memory_gb else None, 'time': self.minutes,
            'signal': f'USR2@{slurm.SIGNAL_BEFORE_S}', 'export': ','.join(('PATH', 'HOME', 'USER', *job.secrets)),
        }  # fmt: skip
        lines = [f'#SBATCH --{name}={value}' for name, value in options.items() if value not in ('', None)]
        log = f'{place.folder}/attempt-{place.attempt}.log'
        path = [f'export PATH={shlex.quote(self.python)}:"$PATH"'] if self.python else []
        made = [
            '#!/usr/bin/env bash', *lines, '#SBATCH --requeue', '#SBATCH --open-mode=append', '#SBATCH --parsable',
            f'#SBATCH --output={log}', 'set -u', *path,
            f'cd {shlex.quote(place.folder)}',
            # No library for MPI: the processes find each other through Slurm's variables.
            'srun --mpi=none --kill-on-bad-exit=1 bash worker.sh',
            'status=$?',
            # Written only if the command itself ended; one that is preempted is queued again, and goes on.
            f'echo "$status" > status-{place.attempt}',
            'exit $status',
        ]  # fmt: skip
        archive = shlex.quote(f'{place.folder}/{target.ARCHIVE}')
        return {SCRIPT: '\n'.join(made) + '\n', WORKER: worker.script(job, archive)}

    def create(self, place: target.AttemptPlace) -> list[list[str]]:
        """As Target.create()."""
        return [['sbatch', f'{place.folder}/{SCRIPT}']]

    def judge(self, answer: programs.Answer) -> seen.Created:
        """As Target.judge(): a controller that did not answer may have taken the job."""
        is_unheard = any(words in answer.err for words in ('Unable to contact', 'timed out', 'Connection'))
        return seen.Created.UNKNOWN if answer.status and is_unheard else super().judge(answer)

    def observe(self, place: target.AttemptPlace, run: programs.Run) -> seen.Seen:
        """As Target.observe(): squeue knows a job until some minutes after its end."""
        asked = run(['squeue', '--noheader', '--states=all', f'--name={place.name}', '--format=%T', '--sort=-V'])
        if asked.status != 0:
            return seen.Seen(seen.Phase.UNKNOWN, asked.problem)
        states = asked.out.split()
        if any(state in WAITING for state in states):
            return seen.Seen(seen.Phase.WAITING)
        if any(state in RUNNING for state in states):
            return seen.Seen(seen.Phase.RUNNING)
        ended = run(['cat', f'{place.folder}/status-{place.attempt}'])
        if ended.status == 0 and ended.out.strip().isdecimal():
            return seen.Seen(seen.Phase.ENDED, statuses=(int(ended.out),))
        if not states:
            return seen.Seen(seen.Phase.ABSENT)
        phase = seen.Phase.GONE if set(states) & AGAIN else seen.Phase.FAILED
        return seen.Seen(phase, f'Slurm: {states[-1]}')

    def is_gone(self, place: target.AttemptPlace, run: programs.Run) -> bool | None:
        """As Target.is_gone(): nothing of it waits or runs."""
        asked = run(['squeue', '--noheader', f'--name={place.name}', '--format=%T'])
        return None if asked.status != 0 else not asked.out.strip()

    def delete(self, place: target.AttemptPlace) -> list[list[str]]:
        """As Target.delete()."""
        return [['scancel', f'--name={place.name}']]

    def logs(self, place: target.AttemptPlace) -> list[str]:
        """As Target.logs()."""
        return ['tail', '--lines=200', f'{place.folder}/attempt-{place.attempt}.log']
