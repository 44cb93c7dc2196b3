"""A managed job of SkyPilot, which looks for capacity in several zones and starts a preempted job again by itself."""

import dataclasses
import json

from bigmodel_jax import config
from bigmodel_jax.launch import programs, seen, worker
from bigmodel_jax.launch.job import Job
from bigmodel_jax.launch.targets import target
from bigmodel_jax.plan.hardware import slices as hardware

TASK = 'task.yaml'
INSTALL = (
    '`uv tool install "skypilot[gcp]==0.14.1"` installs it in an environment of its own; `sky check gcp` tries it.'
)
# Of managed jobs; those that end in an error begin with FAILED.
PHASES = {
    'PENDING': seen.Phase.WAITING, 'SUBMITTED': seen.Phase.WAITING, 'STARTING': seen.Phase.WAITING,
    'RECOVERING': seen.Phase.WAITING, 'RUNNING': seen.Phase.RUNNING, 'CANCELLING': seen.Phase.RUNNING,
    'CANCELLED': seen.Phase.ABSENT,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class SkyPilot(target.Target):
    """TPU VMs of Google Cloud through SkyPilot (https://docs.skypilot.co).

    Attributes:
      type: of a slice, as 'v5litepod-16'.
      spot: cheaper, and preempted at any time.
      zone: '' to let SkyPilot choose.
      runtime: the version of the machines' software; '' for SkyPilot's default.
    """

    tools = ('sky',)
    shares_files = False
    installs = ('tpu',)

    type: str
    spot: bool = True
    zone: str = ''
    runtime: str = ''

    def check(self, job: Job) -> None:
        """As Target.check()."""
        one = hardware.parse(self.type)
        if one.chip.platform != 'tpu' or one.count != 1 or ':' in self.type:
            raise config.InputError(f"type={self.type!r} is not a type of TPU slice, such as 'v5litepod-16'.")
        target.check_words('SkyPilot', type=self.type, zone=self.zone, runtime=self.runtime)
        job.check_remote()
        if job.verb == 'sweep':
            raise config.InputError('SkyPilot is given one experiment; CloudTpu with one host runs a sweep.')

    def cost(self) -> target.Rental:
        """As Target.cost()."""
        one = hardware.parse(self.type)
        spot = ' (spot)' if self.spot else ''
        return target.Rental(f'{one.chips} chips {one.chip.name}{spot}', one.chip.name, one.chips)

    def machines(self) -> target.Machines:
        """As Target.machines()."""
        one = hardware.parse(self.type)
        return target.Machines(target.hosts_of(one), one.size, one)

    def ready(self, job: Job, run: programs.Run) -> list[str]:
        """As Target.ready()."""
        target.need(run, ['sky', 'check', 'gcp'], INSTALL)
        return []

    def files(self, place: target.AttemptPlace) -> dict[str, str]:
        """As Target.files(): the task, in JSON, which is YAML; the values of `secrets` come from the variables."""
        job = place.job
        arguments = {'accelerator_args': {'runtime_version': self.runtime}} if self.runtime else {}
        install = f'python -m pip install -c "$code/{job.framework}/constraints.txt" "$code/{job.framework}[tpu]" gcsfs'
        archive = f'/tmp/{target.ARCHIVE}'
        run = [
            'set -e', *worker.check_code(job, archive), *worker.unpack(archive), install, f'exec {job.command}',
        ]  # fmt: skip
        task = {
            'name': place.name,
            'resources': {
                'infra': f'gcp/*/{self.zone}' if self.zone else 'gcp',
                'accelerators': f'tpu-{self.type}',
                **arguments,
                'use_spot': self.spot,
            },
            'file_mounts': {archive: f'{place.folder}/{target.ARCHIVE}'},
            **({'secrets': dict.fromkeys(job.secrets)} if job.secrets else {}),
            'run': '\n'.join(run),
        }
        return {TASK: json.dumps(task, indent=2) + '\n'}

    def create(self, place: target.AttemptPlace) -> list[list[str]]:
        """As Target.create()."""
        secrets = [word for name in place.job.secrets for word in ('--secret', name)]
        return [
            [
                'sky',
                'jobs',
                'launch',
                f'--name={place.name}',
                '--yes',
                '--detach-run',
                *secrets,
                f'{place.folder}/{TASK}',
            ]
        ]

    def judge(self, answer: programs.Answer) -> seen.Created:
        """As Target.judge(): what SkyPilot did not say it did, it may have done."""
        return seen.Created.ACCEPTED if answer.status == 0 else seen.Created.UNKNOWN

    def observe(self, place: target.AttemptPlace, run: programs.Run) -> seen.Seen:
        """As Target.observe()."""
        asked = run(['sky', 'jobs', 'queue', '--all'])
        if asked.status != 0:
            return seen.Seen(seen.Phase.UNKNOWN, asked.problem)
        states = [word for line in asked.out.splitlines() if place.name in line.split() for word in line.split()]
        if 'SUCCEEDED' in states:
            return seen.Seen(seen.Phase.ENDED, statuses=(0,))
        if failed := [word for word in states if word.startswith('FAILED')]:
            return seen.Seen(seen.Phase.GIVEN_UP, f'SkyPilot: {failed[0]}')
        found = [phase for word, phase in PHASES.items() if word in states]
        return seen.Seen(found[0] if found else seen.Phase.ABSENT)

    def is_gone(self, place: target.AttemptPlace, run: programs.Run) -> bool | None:
        """As Target.is_gone(): SkyPilot ends the machines of a job that has ended."""
        now = self.observe(place, run).phase
        over = (seen.Phase.ABSENT, seen.Phase.ENDED, seen.Phase.GIVEN_UP)
        return None if now is seen.Phase.UNKNOWN else now in over

    def delete(self, place: target.AttemptPlace) -> list[list[str]]:
        """As Target.delete()."""
        return [['sky', 'jobs', 'cancel', f'--name={place.name}', '--yes']]

    def logs(self, place: target.AttemptPlace) -> list[str]:
        """As Target.logs()."""
        return ['sky', 'jobs', 'logs', f'--name={place.name}', '--no-follow']
