"""The JobSet that a launch on GKE creates is valid in two published versions of JobSet, with no field they lack.

The schemas are those of the models in kubeflow-trainer-api, which is generated from the API of JobSet. A manifest that
a cluster would silently strip of a field is refused here, as objects may have no other fields than the schema's.
"""

import copy
import json
import pathlib

import jsonschema
import pytest
import yaml

from bigmodel_jax.launch.targets import target

HERE = pathlib.Path(__file__).parent
RENDERED = HERE.parent / 'sweeps/xpk_manifest.yaml'  # By xpk 1.16.0.
VERSIONS = ('2_0_0', '2_3_0')
GKE = (
    "Gke(cluster='pods', project='p', zone='us-west4-a', type='v5litepod-16', image='i', slices=2, namespace='team', "
    "queue='team-queue', service_account='trainer')"
)


def validator(version: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((HERE / f'schemas/jobset_trainer_{version}.json').read_text()))


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


def without_nulls(node):
    """As the API server reads a manifest: a field that is null is absent."""
    if isinstance(node, dict):
        return {key: without_nulls(value) for key, value in node.items() if value is not None}
    return [without_nulls(value) for value in node] if isinstance(node, list) else node


@pytest.fixture(scope='module')
def jobset() -> dict:
    on = target.parse(GKE)
    return without_nulls(patched(yaml.safe_load(RENDERED.read_text()), on._patch()))


@pytest.mark.parametrize('version', VERSIONS)
def test_the_jobset_and_its_jobs_are_valid(jobset, version):
    assert [error.message for error in validator(version).iter_errors(jobset)] == []


@pytest.mark.parametrize('version', VERSIONS)
@pytest.mark.parametrize('way', [('spec',), ('spec', 'replicatedJobs', 0, 'template', 'spec')])
def test_an_unknown_field_is_found(jobset, version, way):
    wrong = copy.deepcopy(jobset)
    node = wrong
    for part in way:
        node = node[part]
    node['priorityy'] = 'low'
    assert any('priorityy' in error.message for error in validator(version).iter_errors(wrong))


def test_the_fields_of_the_target_are_in_the_manifest(jobset):
    pod = jobset['spec']['replicatedJobs'][0]['template']['spec']['template']
    assert jobset['metadata']['namespace'] == 'team'
    assert jobset['metadata']['labels']['kueue.x-k8s.io/queue-name'] == 'team-queue'
    assert pod['spec']['serviceAccountName'] == 'trainer'
    assert pod['metadata']['annotations'] == {'cluster-autoscaler.kubernetes.io/safe-to-evict': 'false'}
