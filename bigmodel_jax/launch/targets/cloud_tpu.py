"""Cloud TPU VMs of one's own project, as a queued resource: one slice, or several that compute together.

Nothing is sent over SSH. The code waits in the bucket of the work directory; each host fetches it when it boots, checks
its hash, installs what it needs, runs the command, and leaves its log and its exit status in the bucket. The host that
ends last deletes the slices, so that they end even if nobody watches.
"""

import dataclasses
import json
import math
import shlex

from bigmodel_jax import config
from bigmodel_jax.launch import programs, seen, worker, zones
from bigmodel_jax.launch.job import Job
from bigmodel_jax.launch.targets import target
from bigmodel_jax.plan.hardware import slices as hardware

QUEUED = ['gcloud', 'compute', 'tpus', 'queued-resources']
STARTUP = 'startup.sh'
# Source: https://docs.cloud.google.com/tpu/docs/runtimes.
RUNTIMES = {
    'v4': 'tpu-ubuntu2204-base',
    'v5e': 'v2-alpha-tpuv5-lite',
    'v5p': 'v2-alpha-tpuv5',
    'v6e': 'v2-alpha-tpuv6e',
}
# Of queued resources: https://docs.cloud.google.com/tpu/docs/queued-resources.
PHASES = {
    'CREATING': seen.Phase.WAITING, 'ACCEPTED': seen.Phase.WAITING, 'WAITING_FOR_RESOURCES': seen.Phase.WAITING,
    'PROVISIONING': seen.Phase.WAITING, 'ACTIVE': seen.Phase.READY, 'SUSPENDING': seen.Phase.GONE,
    'SUSPENDED': seen.Phase.GONE, 'DELETING': seen.Phase.GONE, 'FAILED': seen.Phase.FAILED,
}  # fmt: skip
# What is said when the same request would be refused again.
REFUSALS = (
    'QUOTA',
    'PERMISSION_DENIED',
    'INVALID_ARGUMENT',
    'NOT_FOUND',
    'UNRECOGNIZED',
    'INVALID CHOICE',
    'HAS NOT BEEN USED',
)
ACCOUNTS = ['gcloud', 'auth', 'list', '--filter=status:ACTIVE', '--format=value(account)']
SIGN_IN = '`gcloud auth login` signs in, and https://cloud.google.com/sdk/docs/install installs gcloud.'


@dataclasses.dataclass(frozen=True, kw_only=True)
class CloudTpu(target.Target):
    """Slices of Cloud TPU (https://docs.cloud.google.com/tpu/docs/queued-resources).

    Attributes:
      type: of a slice, as 'v5litepod-16', 'v5p-128' or 'v6e-16'; v4 and v5p count cores, of which a chip has two.
      zone, project: of Google Cloud.
      slices: how many, joined by the data-centre network.
      spot: cheaper, and preempted at any time; the run resumes on the next slice.
      reserved: on the project's reservation.
      service_account: the account of the hosts; '' for the project's default. It reads and writes the bucket, reads the
        secrets, and needs roles/tpu.admin to delete the slices at the end.
      network: '' for the project's default.
      runtime: the version of the machines' software; '' for that of the chip.
      wait_hours: a request that was not met so long is given up.
      any_zone: do not check whether the zone is known to have the chip.
    """

    tools = ('gcloud',)
    shares_files = False
    installs = ('tpu',)

    type: str
    zone: str
    project: str
    slices: config.Positive = 1
    spot: bool = False
    reserved: bool = False
    service_account: str = ''
    network: str = ''
    runtime: str = ''
    wait_hours: config.Positive = 24
    any_zone: bool = False

    @property
    def slice(self) -> hardware.Slice:
        """The slice of the type.

        Raises:
          InputError: there is none.
        """
        found = hardware.parse(self.type)
        if found.chip.name == 'tpu7x':
            raise config.InputError(f'type={self.type!r}: Cloud TPU VMs end with v6e; TPU7x is rented on GKE: use Gke.')
        if found.count != 1 or ':' in self.type or found.chip.name not in RUNTIMES:
            raise config.InputError(
                f"type={self.type!r} is not a type of TPU slice, such as 'v5litepod-16'; slices=N asks for several."
            )
        return found

    @property
    def accelerator(self) -> str:
        """The type as gcloud names it."""
        chip, _, size = self.type.lower().rpartition('-')
        names = {'v5e': 'v5litepod', 'trillium': 'v6e', 'v5': 'v5p'}
        return f'{names.get(chip, chip)}-{size}'

    @property
    def hosts(self) -> int:
        """Of all slices together."""
        return self.slices * target.hosts_of(self.slice)

    def check(self, job: Job) -> None:
        """As Target.check()."""
        zones.check(self.zone, self.slice.chip.name, self.any_zone)
        names = ('project', 'service_account', 'network', 'runtime')
        target.check_words('CloudTpu', **{name: getattr(self, name) for name in names})
        if self.spot and self.reserved:
            raise config.InputError('spot=True and reserved=True: a slice is one or the other.')
        job.check_remote()
        if job.verb == 'sweep' and self.hosts > 1:
            raise config.InputError(
                f'{self.type} has {self.hosts} hosts, and a sweep runs its trials on one. Use a slice with one host, '
                'such as v5litepod-8, or give each trial slices of its own: sweep ... --engine xpk.'
            )

    def cost(self) -> target.Rental:
        """As Target.cost()."""
        chips = self.slices * math.prod(self.slice.shape)
        of = f' in {self.slices} slices' if self.slices > 1 else ''
        kind = 'spot, ' if self.spot else 'reserved, ' if self.reserved else ''
        chip = self.slice.chip.name
        hosts = f'{self.hosts} host{"" if self.hosts == 1 else "s"}'
        return target.Rental(f'{chips} chips {chip}{of} ({kind}{hosts})', chip, chips)

    def machines(self) -> target.Machines:
        """As Target.machines()."""
        chips = dataclasses.replace(self.slice, count=self.slices)
        return target.Machines(self.hosts, chips.size, chips)

    def preparation(self, job: Job) -> list[list[str]]:
        """As Target.preparation()."""
        place = [f'--location={zones.region(self.zone)}', f'--project={self.project}']
        return [
            ['gcloud', 'auth', 'login'],
            ['gcloud', 'services', 'enable', 'tpu.googleapis.com', f'--project={self.project}'],
            ['gcloud', 'storage', 'buckets', 'create', f'gs://{_bucket(job)}', *place],
        ]

    def ready(self, job: Job, run: programs.Run) -> list[str]:
        """As Target.ready(): gcloud is signed in, the project answers, and the bucket and the secrets are there."""
        accounts = target.need(run, ACCOUNTS, SIGN_IN)
        if not accounts.out.strip():
            raise config.InputError(f'gcloud has no credentials. {SIGN_IN}')
        _, enable, make = map(' '.join, self.preparation(job))
        advice = f'`{enable}` switches Cloud TPU on; you need the role roles/tpu.admin.'
        target.need(run, [*QUEUED, 'list', *self._where(), '--limit=1', '--format=value(name)'], advice)
        bucket = _bucket(job)
        describe = ['gcloud', 'storage', 'buckets', 'describe', f'gs://{bucket}', '--format=value(location)']
        location = target.need(run, describe, f'`{make}` creates the bucket.').out.strip()
        for name in job.secrets:
            advice = f'`gcloud secrets create {name} --data-file=-` keeps its value, read from the standard input.'
            secret = ['gcloud', 'secrets', 'describe', name, f'--project={self.project}', '--format=value(name)']
            target.need(run, secret, advice)
        warning = zones.transfer_warning(bucket, location, self.zone)
        return [] if warning is None else [warning]

    def files(self, place: target.AttemptPlace) -> dict[str, str]:
        """As Target.files(): what a host runs when it boots."""
        return {STARTUP: startup(self, place)}

    def create(self, place: target.AttemptPlace) -> list[list[str]]:
        """As Target.create()."""
        several = ['--node-count', str(self.slices), '--node-prefix', place.name]
        options = {
            'accelerator-type': self.accelerator,
            'runtime-version': self.runtime or RUNTIMES[self.slice.chip.name],
            'scopes': 'https://www.googleapis.com/auth/cloud-platform',
            'service-account': self.service_account,
            'network': self.network,
            'valid-until-duration': f'{self.wait_hours}h',
            'metadata-from-file': f'startup-script={place.folder}/{STARTUP}',
        }
        return [
            ['gcloud', 'storage', 'cp', f'{place.folder}/{target.ARCHIVE}', f'{place.job.store}/{target.ARCHIVE}'],
            [
                *QUEUED, 'create', place.name, *self._where(),
                *(several if self.slices > 1 else ['--node-id', place.name]),
                *(f'--{name}={value}' for name, value in options.items() if value),
                *(['--spot'] if self.spot else []), *(['--reserved'] if self.reserved else []),
                '--async', '--quiet',
            ],
        ]  # fmt: skip

    def judge(self, answer: programs.Answer) -> seen.Created:
        """As Target.judge(): a request of this name that is there already is the one that was meant."""
        said = f'{answer.out}\n{answer.err}'.upper()
        if answer.status == 0 or 'ALREADY_EXISTS' in said or 'ALREADY EXISTS' in said:
            return seen.Created.ACCEPTED
        is_refused = answer.status is not None and any(word in said for word in REFUSALS)
        return seen.Created.REFUSED if is_refused else seen.Created.UNKNOWN

    def observe(self, place: target.AttemptPlace, run: programs.Run) -> seen.Seen:
        """As Target.observe(): the statuses in the bucket, and else the state of the queued resource."""
        statuses = self._statuses(place, run)
        if statuses is None:
            return seen.Seen(seen.Phase.UNKNOWN, 'the bucket does not answer')
        if statuses:
            return seen.Seen(seen.Phase.ENDED, statuses=statuses, hosts=self.hosts)
        answer = self._describe(place, run)
        if _is_missing(answer):
            return seen.Seen(seen.Phase.ABSENT)
        try:
            state = json.loads(answer.out)['state'] if answer.status == 0 else {}
            phase = PHASES[state['state']]
        except (ValueError, KeyError, TypeError):
            return seen.Seen(seen.Phase.UNKNOWN, answer.problem)
        reason = str(state.get('failedData', {}).get('error', {}).get('message', '')).rstrip('.')
        if phase is seen.Phase.READY and self._has_started(place, run):
            phase = seen.Phase.RUNNING
        return seen.Seen(phase, reason, hosts=self.hosts)

    def _statuses(self, place: target.AttemptPlace, run: programs.Run) -> tuple[int, ...] | None:
        answer = run(['gcloud', 'storage', 'cat', f'{place.job.store}/{place.attempt}/status/*'])
        if answer.status == 0:
            return tuple(int(line) for line in answer.out.split() if line.isdecimal())
        return () if _is_missing(answer) else None

    def _has_started(self, place: target.AttemptPlace, run: programs.Run) -> bool:
        answer = run(['gcloud', 'storage', 'ls', f'{place.job.store}/{place.attempt}/started/*'])
        return answer.status == 0 and len(answer.out.split()) >= self.hosts

    def _describe(self, place: target.AttemptPlace, run: programs.Run) -> programs.Answer:
        return run([*QUEUED, 'describe', place.name, *self._where(), '--format=json(state)'])

    def is_gone(self, place: target.AttemptPlace, run: programs.Run) -> bool | None:
        """As Target.is_gone()."""
        answer = self._describe(place, run)
        return True if _is_missing(answer) else False if answer.status == 0 else None

    def delete(self, place: target.AttemptPlace) -> list[list[str]]:
        """As Target.delete(): --force also deletes the slices of the request."""
        return [[*QUEUED, 'delete', place.name, *self._where(), '--force', '--async', '--quiet']]

    def logs(self, place: target.AttemptPlace) -> list[str]:
        """As Target.logs(): each host brings its log there every minute."""
        return ['gcloud', 'storage', 'cat', '--display-url', f'{place.job.store}/{place.attempt}/log/*']

    def _where(self) -> list[str]:
        return [f'--zone={self.zone}', f'--project={self.project}']


def startup(of: CloudTpu, place: target.AttemptPlace) -> str:
    """The script that every host of every slice runs when it boots, also after a maintenance."""
    job, here = place.job, shlex.quote(f'{place.job.store}/{place.attempt}')
    delete = ' '.join(of.delete(place)[0])
    secrets = [
        f'{name}=$(gcloud secrets versions access latest --secret={name} --project={of.project}); export {name}'
        for name in job.secrets
    ]
    lines = [
        '#!/usr/bin/env bash',
        f'# Runs on each of {of.hosts} hosts: {job.command}',
        'set -uo pipefail',
        'export HOME=/root',
        f'store={shlex.quote(job.store)}; here={here}; host=$(hostname); log=/var/log/launch.log',
        # A host that boots once more does not repeat what has ended.
        'gcloud storage ls "$here/status/$host" && exit',
        'run() (',
        '  set -e',
        '  work=$(mktemp --directory); cd "$work"',
        f'  gcloud storage cp "$store/{target.ARCHIVE}" {target.ARCHIVE}',
        *(f'  {line}' for line in worker.check_code(job, target.ARCHIVE)),
        f'  tar --extract --no-same-owner --file={target.ARCHIVE}',
        '  python3 -m pip install --quiet uv',
        '  python3 -m uv venv --quiet --python 3.11 /opt/launch',
        '  python3 -m uv pip install --quiet --python /opt/launch/bin/python \\',
        f'    -c {job.framework}/constraints.txt "./{job.framework}[tpu]" gcsfs',
        *(f'  {line}' for line in secrets),
        '  echo started | gcloud storage cp - "$here/started/$host"',
        '  export PATH=/opt/launch/bin:$PATH',
        f'  exec {job.command}',
        ')',
        'send() { gcloud storage cp "$log" "$here/log/$host"; }',
        'run > "$log" 2>&1 & command=$!',
        'while sleep 60; do send; done & sender=$!',
        # A slice that is preempted is warned by SIGTERM: the run saves a checkpoint.
        "trap 'kill -TERM $command' TERM",
        'wait $command; status=$?',
        'while kill -0 $command 2>/dev/null; do wait $command; status=$?; done',
        'kill $sender; send',
        'echo $status | gcloud storage cp - "$here/status/$host"',
        f'if [ "$(gcloud storage ls "$here/status/*" | wc -l)" -ge {of.hosts} ]; then',
        f'  {delete}  # The last host: nothing is left running.',
        'fi',
    ]  # fmt: skip
    return '\n'.join(lines) + '\n'


def _bucket(job: Job) -> str:
    return job.workdir.removeprefix('gs://').partition('/')[0]


def _is_missing(answer: programs.Answer) -> bool:
    said = answer.err.lower()
    return answer.status not in (0, None) and any(
        words in said for words in ('not_found', 'was not found', 'matched no objects')
    )
