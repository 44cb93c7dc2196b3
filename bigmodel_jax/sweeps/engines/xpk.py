"""The engine for slices of Cloud TPU on GKE, through xpk: each trial is a workload (a JobSet in a queue of Kueue).

xpk needs an old protobuf, so it is installed apart and called as a program. Before a trial is submitted, xpk's dry run
writes its manifest to xpk/WORKLOAD.yaml in the directory of the sweep. GKE alone decides when and where it runs; JobSet
starts it again after a preemption or a failed host, and it then resumes from its checkpoint.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.storage import durable_files
from bigmodel_jax.sweeps import worker
from bigmodel_jax.sweeps.engines import engine, jobsets
from bigmodel_jax.sweeps.sweep_directory import SweepDirectory, TrialEntry

FOLDER = 'xpk'
AT_A_TIME = 100  # Each takes a command of some seconds; Kueue queues what has no room.
ASK_EVERY_S = 30.0
COMMAND_S = 600  # xpk asks GKE several times.
NAME_LENGTH = 40  # xpk allows no more: the names of pods are longer, and Kubernetes ends them at 63.
GRACE_S = 300  # From SIGTERM to SIGKILL: time for a checkpoint.
INSTALL = '`uv tool install xpk==1.16.0` or `pipx install xpk==1.16.0` installs it in an environment of its own'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Xpk(engine.Engine):
    """Trials as workloads of xpk (https://github.com/AI-Hypercomputer/xpk).

    Attributes:
      cluster, project, zone: of GKE, made by `xpk cluster create`.
      tpu_type: of a slice, as 'v5litepod-16'.
      image: a container image with this package, the experiment file at the path at which the sweep names it, and all
        it needs.
      slices: of a trial.
      priority: in the queue of Kueue.
      max_restarts: how often JobSet starts a trial again after a host failed, by an error of its own (status 1) too, or
        was preempted. Status 2, which says that something has to be changed, ends the trial at once.
      capacity: 'spot', 'on-demand' or the name of a reservation; '' for what the cluster has.
      python: the interpreter in the image.
      program: xpk itself: a name on PATH, or a path.
    """

    cluster: str
    project: str
    zone: str
    tpu_type: str
    image: str
    slices: config.Positive = 1
    priority: Literal['very-low', 'low', 'medium', 'high', 'very-high'] = 'medium'
    max_restarts: config.NonNegative = 10
    capacity: str = ''
    python: str = 'python'
    program: str = 'xpk'

    def check(self, directory: SweepDirectory) -> None:
        """As Engine.check(); also that GKE answers."""
        config.check(self)
        check_remote(directory.path)
        self._check_installed()
        if shutil.which('kubectl') is None:
            raise config.InputError('The engine xpk needs kubectl, which this machine does not have.')
        done = self.run('workload', 'list', *self.place())
        if done.returncode:
            raise config.InputError(
                f'The cluster {self.cluster} cannot be reached from here: {_problem(done)}. `gcloud auth login` signs '
                'in, and `xpk cluster list` names the clusters of the project.'
            )

    def jobs(self, directory: SweepDirectory) -> contextlib.AbstractContextManager['XpkJobs']:
        """As Engine.jobs(); the workloads go on when the context ends."""
        return contextlib.nullcontext(XpkJobs(self, directory))

    def create(self, directory: SweepDirectory, entry: TrialEntry, *, stop_after: int | None = None) -> list[str]:
        """The arguments with which xpk submits a trial, which is trained to its end or to a step."""
        given = {
            'workload': workload(directory, entry),
            'tpu-type': self.tpu_type,
            'num-slices': self.slices,
            'docker-image': self.image,
            'command': self.command(directory, entry, stop_after=stop_after),
            'priority': self.priority,
            'max-restarts': self.max_restarts,
            # Status 1 is also that of a host which lost another one, that was preempted.
            'restart-on-exit-codes': 1,
            'termination-grace-period-seconds': GRACE_S,
        }
        place = {'cluster': self.cluster, 'project': self.project, 'zone': self.zone}
        return create_workload(self.program, place | given, *capacity_flags(self.capacity))[1:]

    def command(self, directory: SweepDirectory, entry: TrialEntry, *, stop_after: int | None = None) -> str:
        """What a shell in the container runs.

        `exec`, as xpk passes SIGTERM on to the shell, which would end without the trial.
        """
        return f'exec {shlex.join([self.python, *worker.command(directory, entry, stop_after=stop_after)[1:]])}'

    def manifest(self, directory: SweepDirectory, entry: TrialEntry, *, stop_after: int | None = None) -> str:
        """The YAML of a trial's JobSet, as xpk's dry run makes it; it asks no cluster.

        Raises:
          InputError: xpk is not installed or refuses an argument, or the directory is not in an object store.
        """
        config.check(self)
        self._check_installed()
        check_remote(directory.path)
        with tempfile.TemporaryDirectory() as scratch:
            file = pathlib.Path(scratch) / 'manifest.yaml'
            created = self.create(directory, entry, stop_after=stop_after)
            done = self.run(*created, '--dry-run', '--skip-validation', f'--output-manifest-file={file}')
            if done.returncode or not file.exists():
                raise config.InputError(f'xpk refused {entry.name}: {_problem(done)}.')
            return file.read_text()

    def manifests(
        self,
        directory: SweepDirectory,
        entries: Sequence[TrialEntry],
        into: epath.PathLike,
        *,
        stop_after: int | None = None,
    ) -> list[epath.Path]:
        """Writes the manifest of each trial into a folder, as WORKLOAD.yaml; `kubectl apply -f FOLDER` submits them.

        Raises:
          InputError: as manifest(); nothing was written.
        """
        made = {workload(directory, each): self.manifest(directory, each, stop_after=stop_after) for each in entries}
        folder = durable_files.directory(into)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in made.items():
            durable_files.write(folder / f'{name}.yaml', text.encode())
        return [folder / f'{name}.yaml' for name in made]

    def _check_installed(self) -> None:
        if shutil.which(self.program) is None:
            raise config.InputError(
                f'The engine xpk needs the program {self.program!r}, which is not on PATH: {INSTALL}; program= names '
                'another place.'
            )

    def place(self) -> list[str]:
        """The arguments that name the cluster."""
        return [f'--cluster={self.cluster}', f'--project={self.project}', f'--zone={self.zone}']

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs xpk."""
        return _run(self.program, *arguments)


class XpkJobs(engine.Jobs):
    """The trials of one sweep on GKE."""

    def __init__(self, about: Xpk, directory: SweepDirectory):
        self._about, self._directory = about, directory
        self._waiting: dict[str, TrialEntry] = {}  # By the name of the workload.
        self._asked_s = 0.0

    def room(self) -> int:
        """How many are submitted in one go."""
        return AT_A_TIME

    def submit(self, entries: Sequence[TrialEntry], *, stop_after: int | None = None) -> None:
        """As Jobs.submit(); what the trials print is in Cloud Logging."""
        there = jobsets.conditions(_jobsets())
        by_name = {workload(self._directory, each): each for each in entries}
        new = {name: each for name, each in by_name.items() if there.get(name) is None or there[name][0] is not None}
        folder = self._directory.path / FOLDER
        self._about.manifests(self._directory, list(new.values()), folder, stop_after=stop_after)
        started: list[str] = []
        for name, each in new.items():
            if name in there:  # It has failed before, and is tried again; two cannot have the same name.
                self._delete([name])
            created = self._about.create(self._directory, each, stop_after=stop_after)
            done = self._about.run(*created, '--skip-validation')
            if done.returncode:
                self._delete(started)
                raise config.InputError(f'xpk could not submit {each.name}: {_problem(done)}.')
            started.append(name)
        self._waiting |= by_name

    def ended(self) -> Sequence[engine.EndedJob]:
        """As Jobs.ended(); asks GKE every half minute."""
        if not self._waiting or time.monotonic() < self._asked_s + ASK_EVERY_S:
            return []
        self._asked_s = time.monotonic()
        try:
            there = jobsets.conditions(_jobsets())
        except config.InputError:  # GKE does not answer for now; its workloads go on.
            return []
        found = []
        for name, entry in list(self._waiting.items()):
            status, reason = there.get(name, (-signal.SIGKILL, f'GKE no longer knows the workload {name}'))
            if status is not None:
                found.append(engine.EndedJob(entry, status, reason))
                del self._waiting[name]
        return found

    def stop(self, entries: Sequence[TrialEntry]) -> None:
        """As Jobs.stop()."""
        names = {each.name for each in entries}
        self._delete([name for name, each in self._waiting.items() if each.name in names])

    def _delete(self, names: Sequence[str]) -> None:
        for name in names:
            self._about.run('workload', 'delete', *self._about.place(), f'--workload={name}', '--force')

    def interrupt(self, number: signal.Signals) -> str | None:
        """As Jobs.interrupt(): the workloads go on."""
        return (
            f'The {len(self._waiting)} trials go on in the cluster {self._about.cluster}. The same command waits for '
            'them again; `xpk workload delete` ends them.'
        )

    def describe(self) -> str:
        """As Jobs.describe()."""
        about = self._about
        slices = f'{about.slices} slices {about.tpu_type}' if about.slices > 1 else about.tpu_type
        return f'GKE, cluster {about.cluster}, {slices} a trial, priority {about.priority}'


def capacity_flags(capacity: str) -> tuple[str, ...]:
    """What xpk is told of 'spot', 'on-demand' or the name of a reservation; nothing of ''."""
    known = {'': (), 'spot': ('--spot',), 'on-demand': ('--on-demand',)}
    return known.get(capacity, (f'--reservation={capacity}',))


def create_workload(program: str, options: Mapping[str, object], *flags: str) -> list[str]:
    """The command with which xpk submits a workload, or renders it with the flag --dry-run."""
    return [program, 'workload', 'create', *(f'--{name}={value}' for name, value in options.items()), *flags]


def workload(directory: SweepDirectory, entry: TrialEntry) -> str:
    """The name of a trial's workload: of lower-case letters, digits and hyphens, at most 40, another for each trial.

    It begins as the trial's name does, and ends in 10 hexadecimal digits that follow from the trial and the directory.
    """
    digest = hashlib.sha256(f'{directory.path}/{entry.name}'.encode()).hexdigest()[:10]
    end = f'-s{entry.seed}-{digest}'
    begin = re.sub(r'[^a-z0-9]+', '-', entry.arm.lower()).strip('-')
    begin = begin if begin[:1].isalpha() else f't-{begin}'
    return f'{begin[: NAME_LENGTH - len(end)].rstrip("-")}{end}'


def _jobsets() -> Any:
    """Raises InputError if the cluster does not answer."""
    done = _run('kubectl', 'get', jobsets.JOBSETS, '--output=json')
    if done.returncode:
        raise config.InputError(f'The cluster does not answer: {_problem(done)}.')
    return json.loads(done.stdout)


def check_remote(path: epath.PathLike) -> None:
    """Raises InputError unless a sweep in this directory can be reached from other machines."""
    if not durable_files.is_remote(path):
        raise config.InputError(
            f'{path}: the hosts of a TPU slice do not see this directory. With --engine xpk the directory of a sweep '
            'is in an object store, as --workdir gs://BUCKET/NAME.'
        )
    if not str(path).isprintable():
        raise config.InputError(f'{str(path)!r} has characters that cannot be printed.')


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, '', f'{command[0]} gave no answer in {COMMAND_S} seconds')


def _problem(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of what a program said; xpk says what is wrong on its output."""
    lines = [line.strip() for line in f'{done.stdout}\n{done.stderr}'.splitlines()]
    lines = [line for line in lines if line and 'XPK failed' not in line]
    return lines[-1].rstrip('.') if lines else f'status {done.returncode}'
