"""Slices on GKE, as a JobSet in a queue of Kueue; xpk renders its manifest, and kubectl submits it.

What xpk has no option for is written into the manifest by `kubectl patch --local`. Each container fetches the code from
the bucket of the work directory and checks its hash. JobSet starts the run again after a preemption.
"""

import dataclasses
import json
import shlex
from typing import Any, Literal

from bigmodel_jax import config
from bigmodel_jax.hosts import exit_status
from bigmodel_jax.launch import programs, seen, worker, zones
from bigmodel_jax.launch.job import Job
from bigmodel_jax.launch.targets import target
from bigmodel_jax.plan.hardware import slices as hardware
from bigmodel_jax.sweeps.engines import jobsets

XPK, MANIFEST = 'xpk.yaml', 'jobset.yaml'
POD = '/spec/replicatedJobs/0/template/spec/template'
EVICT = 'cluster-autoscaler.kubernetes.io~1safe-to-evict'
EXIT_CODES = '{.items[*].status.containerStatuses[*].state.terminated.exitCode}'
FETCH = "import fsspec, sys; fsspec.filesystem('gs').get(sys.argv[1], sys.argv[2])"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gke(target.Target):
    """Slices of a cluster that `xpk cluster create` made.

    Attributes:
      cluster, project, zone: of GKE.
      type: of a slice, as 'v5litepod-16'.
      image: a container image with what this package needs, and gcsfs; the code itself is not of it.
      slices: how many, joined by the data-centre network.
      priority: in the queue of Kueue.
      max_restarts: how often JobSet starts the run again after a host failed or was preempted.
      capacity: 'spot', 'on-demand' or the name of a reservation; '' for what the cluster has.
      namespace, queue: of Kubernetes, and the local queue of Kueue in it.
      service_account: of Kubernetes, which may read and write the bucket; '' for the namespace's default.
    """

    tools = ('gcloud', 'kubectl', 'xpk')
    shares_files = False

    cluster: str
    project: str
    zone: str
    type: str
    image: str
    slices: config.Positive = 1
    priority: Literal['very-low', 'low', 'medium', 'high', 'very-high'] = 'medium'
    max_restarts: config.NonNegative = 10
    capacity: str = ''
    namespace: str = 'default'
    queue: str = 'multislice-queue'
    service_account: str = ''

    def check(self, job: Job) -> None:
        """As Target.check()."""
        zones.check(self.zone, hardware.parse(self.type).chip.name, any_zone=False)
        names = ('cluster', 'project', 'image', 'capacity', 'namespace', 'queue', 'service_account')
        target.check_words('Gke', **{name: getattr(self, name) for name in names})
        job.check_remote()
        if job.verb == 'sweep':
            raise config.InputError('A sweep gives GKE each trial as a workload of its own: sweep ... --engine xpk.')
        if job.secrets:
            raise config.InputError(
                f'--secret {job.secrets[0]}: xpk writes the values of variables into the manifest, which others can '
                'read. Let the service account read the secret, or put it into the image of a private registry.'
            )

    def cost(self) -> target.Rental:
        """As Target.cost()."""
        one = dataclasses.replace(hardware.parse(self.type), count=self.slices)
        of = f' in {self.slices} slices' if self.slices > 1 else ''
        what = f'{one.chips} chips {one.chip.name}{of} of the cluster {self.cluster}'
        return target.Rental(what, one.chip.name, one.chips)

    def machines(self) -> target.Machines:
        """As Target.machines()."""
        one = hardware.parse(self.type)
        chips = dataclasses.replace(one, count=self.slices)
        return target.Machines(self.slices * target.hosts_of(one), chips.size, chips)

    def preparation(self, job: Job) -> list[list[str]]:
        """As Target.preparation()."""
        place = [f'--location={zones.region(self.zone)}', f'--project={self.project}']
        return [['gcloud', 'container', 'clusters', 'get-credentials', self.cluster, *place]]

    def ready(self, job: Job, run: programs.Run) -> list[str]:
        """As Target.ready(): xpk and kubectl are there, and the cluster has the queue."""
        from bigmodel_jax.sweeps.engines import xpk  # A question about a launch starts without JAX.

        target.need(run, ['xpk', 'version'], f'{xpk.INSTALL}.')
        advice = f'`{shlex.join(self.preparation(job)[0])}` gives kubectl the credentials of the cluster.'
        queue = [*self._kubectl(), 'get', 'localqueues.kueue.x-k8s.io', self.queue, '--output=name']
        target.need(run, queue, f'{advice} `xpk cluster create` makes the queue.')
        return []

    def manifest(self, place: target.AttemptPlace) -> target.Manifest:
        """As Target.manifest(): xpk renders it, and kubectl adds what xpk has no option for."""
        from bigmodel_jax.sweeps.engines import xpk  # A question about a launch starts without JAX.

        rendered, final = f'{place.folder}/{XPK}', f'{place.folder}/{MANIFEST}'
        patch = [
            'kubectl', 'patch', '--local', f'--filename={rendered}', '--type=json',
            f'--patch={json.dumps(self._patch())}', '--output=yaml',
        ]  # fmt: skip
        render = xpk.create_workload(
            'xpk',
            {
                'cluster': self.cluster, 'project': self.project, 'zone': self.zone, 'namespace': self.namespace,
                'workload': place.name, 'tpu-type': self.type, 'num-slices': self.slices,
                'docker-image': self.image, 'command': command(place.job), 'priority': self.priority,
                'max-restarts': self.max_restarts,
                # Status 1 is also that of a host which lost another one, that was preempted.
                'restart-on-exit-codes': 1, 'termination-grace-period-seconds': xpk.GRACE_S,
                'output-manifest-file': rendered,
            },
            *xpk.capacity_flags(self.capacity), '--dry-run', '--skip-validation',
        )  # fmt: skip
        return target.Manifest(
            file=final,
            render=[render, ['bash', '-c', f'{shlex.join(patch)} > {shlex.quote(final)}']],
            schema=[*self._kubectl(), 'get', 'customresourcedefinitions', jobsets.JOBSETS, '--output=json'],
            rehearse=[*self._kubectl(), 'create', '--dry-run=server', '--validate=strict', f'--filename={final}'],
        )

    def create(self, place: target.AttemptPlace) -> list[list[str]]:
        """As Target.create()."""
        made = self.manifest(place)
        return [
            ['gcloud', 'storage', 'cp', f'{place.folder}/{target.ARCHIVE}', f'{place.job.store}/{target.ARCHIVE}'],
            *made.render,
            [*self._kubectl(), 'create', f'--filename={made.file}'],
        ]

    def _patch(self) -> list[dict[str, Any]]:
        """What xpk has no option for."""
        found: list[dict[str, Any]] = [
            {'op': 'add', 'path': '/metadata/namespace', 'value': self.namespace},
            {'op': 'replace', 'path': '/metadata/labels/kueue.x-k8s.io~1queue-name', 'value': self.queue},
            # JobSet names the rule in the same way, but its schema asks for the name.
            {'op': 'add', 'path': '/spec/failurePolicy/rules/0/name', 'value': 'failurePolicyRule0'},
            # The cluster's autoscaler must not move hosts of a slice.
            {'op': 'add', 'path': f'{POD}/metadata/annotations', 'value': {EVICT.replace('~1', '/'): 'false'}},
            {'op': 'remove', 'path': f'{POD}/spec/imagePullSecrets'},
        ]
        account = {'op': 'add', 'path': f'{POD}/spec/serviceAccountName', 'value': self.service_account}
        return [*found, *([account] if self.service_account else [])]

    def judge(self, answer: programs.Answer) -> seen.Created:
        """As Target.judge()."""
        if answer.status == 0 or '(AlreadyExists)' in answer.err:
            return seen.Created.ACCEPTED
        refused = ('(Forbidden)', '(NotFound)', '(Invalid)', 'unknown field', 'denied', 'no matches for kind')
        is_refused = answer.status is not None and any(word in answer.err for word in refused)
        return seen.Created.REFUSED if is_refused else seen.Created.UNKNOWN

    def observe(self, place: target.AttemptPlace, run: programs.Run) -> seen.Seen:
        """As Target.observe(): the conditions of the JobSet."""
        answer = self._get(place, run)
        if '(NotFound)' in answer.err:
            return seen.Seen(seen.Phase.ABSENT)
        try:
            jobset: Any = json.loads(answer.out) if answer.status == 0 else None
            status, reason = jobsets.conditions({'items': [jobset]})[place.name]
        except (ValueError, KeyError, TypeError):
            return seen.Seen(seen.Phase.UNKNOWN, answer.problem)
        if status == 0:
            return seen.Seen(seen.Phase.ENDED, statuses=(0,))
        if status is not None:
            spent = exit_status.SPENT in self._exit_codes(place, run)
            return seen.Seen(seen.Phase.ENDED if spent else seen.Phase.GIVEN_UP, reason, (exit_status.SPENT,) * spent)
        if jobset['spec'].get('suspend'):
            return seen.Seen(seen.Phase.WAITING)
        jobs = jobset.get('status', {}).get('replicatedJobsStatus', [])
        is_running = bool(jobs) and all(job.get('ready', 0) for job in jobs)
        return seen.Seen(seen.Phase.RUNNING if is_running else seen.Phase.READY)

    def _exit_codes(self, place: target.AttemptPlace, run: programs.Run) -> set[int]:
        """Of the containers that ended and whose pods are still there."""
        asked = run([*self._kubectl(), 'get', 'pods', _selector(place), f'--output=jsonpath={EXIT_CODES}'])
        return {int(word) for word in asked.out.split() if word.isdecimal()} if asked.status == 0 else set()

    def is_gone(self, place: target.AttemptPlace, run: programs.Run) -> bool | None:
        """As Target.is_gone()."""
        answer = self._get(place, run)
        return True if '(NotFound)' in answer.err else False if answer.status == 0 else None

    def _get(self, place: target.AttemptPlace, run: programs.Run) -> programs.Answer:
        return run([*self._kubectl(), 'get', jobsets.JOBSETS, place.name, '--output=json'])

    def delete(self, place: target.AttemptPlace) -> list[list[str]]:
        """As Target.delete()."""
        how = ['--ignore-not-found', '--cascade=foreground', '--wait=false']
        return [[*self._kubectl(), 'delete', jobsets.JOBSETS, place.name, *how]]

    def logs(self, place: target.AttemptPlace) -> list[str]:
        """As Target.logs()."""
        return [
            *self._kubectl(),
            'logs',
            _selector(place),
            '--prefix',
            '--tail=100',
        ]

    def _kubectl(self) -> list[str]:
        """kubectl for this cluster, whichever is the current one, by the name that get-credentials gives it."""
        context = f'gke_{self.project}_{zones.region(self.zone)}_{self.cluster}'
        return ['kubectl', f'--context={context}', f'--namespace={self.namespace}']


def _selector(place: target.AttemptPlace) -> str:
    """The pods of an attempt."""
    return f'--selector=jobset.sigs.k8s.io/jobset-name={place.name}'


def command(job: Job) -> str:
    """What a shell in the container runs; `exec`, as SIGTERM reaches the shell alone."""
    archive = f'/tmp/{target.ARCHIVE}'
    lines = [
        'set -e',
        f'python -c {shlex.quote(FETCH)} {shlex.quote(f"{job.store}/{target.ARCHIVE}")} {archive}',
        *worker.check_code(job, archive),
        *worker.unpack(archive),
        f'export PYTHONPATH="$code/{job.framework}"',
        f'exec {job.command}',
    ]
    return f'exec bash -c {shlex.quote("; ".join(lines))}'  # On one line: xpk sets it into YAML as it is.
