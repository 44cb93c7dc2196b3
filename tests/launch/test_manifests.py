"""The JobSet that a launch on GKE creates is valid in two published versions of JobSet, with no field they lack.

A manifest that a cluster would silently strip of a field is refused here, as objects may have no other fields than the
schema's; and the doctor finds it, by the cluster's own schema or by the published ones.
"""

import copy
import json
import pathlib

import pytest
import yaml

from bigmodel_jax.launch import programs
from bigmodel_jax.launch.doctor import manifests, results, tools
from bigmodel_jax.launch.job import Job
from bigmodel_jax.launch.targets import target

HERE = pathlib.Path(__file__).parent
RENDERED = HERE.parent / 'sweeps/xpk_manifest.yaml'  # By xpk 1.16.0.
GKE = (
    "Gke(cluster='pods', project='p', zone='us-west4-a', type='v5litepod-16', image='i', slices=2, namespace='team', "
    "queue='team-queue', service_account='trainer')"
)
JOB = Job(experiment='x.py', workdir='gs://bucket/x', digest='0' * 64)


def patched(manifest: dict, operations: list[dict]) -> dict:
    """A manifest after a JSON patch (RFC 6902) of additions, replacements and removals, as kubectl makes it."""
    made = copy.deepcopy(manifest)
    for operation in operations:
        *way, last = [part.replace('~1', '/') for part in operation['path'].split('/')[1:]]
        node = made
        for part in way:
            node = node[int(part) if isinstance(node, list) else part]
        if operation['op'] == 'remove':
            del node[last]
        else:
            assert operation['op'] == 'add' or last in node
            node[last] = operation['value']
    return made


@pytest.fixture(scope='module')
def jobset() -> dict:
    on = target.parse(GKE)
    return manifests.load(yaml.safe_dump(patched(yaml.safe_load(RENDERED.read_text()), on._patch())))


@pytest.mark.parametrize('file', manifests.PUBLISHED)
def test_the_jobset_and_its_jobs_are_valid(jobset, file):
    assert manifests.problems(jobset, manifests.published(file)) == []


@pytest.mark.parametrize('file', manifests.PUBLISHED)
@pytest.mark.parametrize('way', [('spec',), ('spec', 'replicatedJobs', 0, 'template', 'spec')])
def test_an_unknown_field_is_found(jobset, file, way):
    wrong = copy.deepcopy(jobset)
    node = wrong
    for part in way:
        node = node[part]
    node['priorityy'] = 'low'
    (problem,) = manifests.problems(wrong, manifests.published(file))
    assert problem == f"{'.'.join(map(str, way))}: 'priorityy' is not a field"


def test_the_fields_of_the_target_are_in_the_manifest(jobset):
    pod = jobset['spec']['replicatedJobs'][0]['template']['spec']['template']
    assert jobset['metadata']['namespace'] == 'team'
    assert jobset['metadata']['labels']['kueue.x-k8s.io/queue-name'] == 'team-queue'
    assert pod['spec']['serviceAccountName'] == 'trainer'
    assert pod['metadata']['annotations'] == {'cluster-autoscaler.kubernetes.io/safe-to-evict': 'false'}


# ---- the doctor's question to a cluster ---------------------------------------------------------------------------


def definition(without: str = '', version: str = 'v1alpha2') -> dict:
    """A CustomResourceDefinition as a cluster has it, whose spec knows every field of JobSet but `without`."""
    known = {'failurePolicy', 'network', 'replicatedJobs', 'successPolicy', 'suspend', 'ttlSecondsAfterFinished'}
    free = {'x-kubernetes-preserve-unknown-fields': True}
    fields = {name: {'type': 'array', 'items': free} if name == 'replicatedJobs' else free for name in known}
    fields.pop(without, None)
    schema = {'type': 'object', 'properties': {'spec': {'type': 'object', 'properties': fields}}}
    return {
        'spec': {
            'group': 'jobset.x-k8s.io',
            'versions': [{'name': version, 'served': True, 'schema': {'openAPIV3Schema': schema}}],
        }
    }


def asked(jobset: dict, *, schema: dict | None, refusal: str = '') -> tools.Asked:
    """xpk and kubectl, for a cluster that has this definition; None: it does not answer."""

    def run(command):
        if command[0] == 'bash':
            pathlib.Path(command[-1].rpartition('> ')[2]).write_text(yaml.safe_dump(jobset))
        if 'customresourcedefinitions' in command:
            offline = programs.Answer(1, err='dial tcp: lookup pods: no such host')
            return offline if schema is None else programs.Answer(0, json.dumps(schema))
        if '--dry-run=server' in command and refusal:
            return programs.Answer(1, err=refusal)
        return programs.Answer(0)

    return tools.Asked(run)


def levels(found) -> list[str]:
    return [each.level.value for each in found]


def test_a_cluster_that_knows_every_field_takes_the_manifest(jobset):
    found = list(manifests.check(target.parse(GKE), JOB, asked(jobset, schema=definition())))
    assert levels(found) == ['ok', 'ok']


def test_a_field_that_the_cluster_would_drop_is_a_fault(jobset):
    found = list(manifests.check(target.parse(GKE), JOB, asked(jobset, schema=definition('failurePolicy'))))
    assert levels(found) == ['fault', 'ok']
    assert "spec: 'failurePolicy' is not a field" in found[0].message
    assert 'Update JobSet' in found[0].advice


def test_a_version_that_the_cluster_does_not_serve_is_a_fault(jobset):
    found = list(manifests.check(target.parse(GKE), JOB, asked(jobset, schema=definition(version='v2'))))
    assert found[0].level is results.Level.FAULT
    assert 'apiVersion' in found[0].message


def test_what_the_cluster_refuses_is_a_fault(jobset):
    refusal = 'error: strict decoding error: unknown field "spec.x"'
    found = list(manifests.check(target.parse(GKE), JOB, asked(jobset, schema=definition(), refusal=refusal)))
    assert levels(found) == ['ok', 'fault']
    assert 'spec.x' in found[1].message


def test_without_the_cluster_the_published_schemas_are_asked(jobset):
    found = list(manifests.check(target.parse(GKE), JOB, asked(jobset, schema=None)))
    assert levels(found) == ['not checked', 'ok', 'ok']
    wrong = jobset | {'spec': jobset['spec'] | {'priorityy': 1}}
    found = list(manifests.check(target.parse(GKE), JOB, asked(wrong, schema=None)))
    assert levels(found) == ['not checked', 'fault', 'fault']
