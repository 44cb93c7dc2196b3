"""Whether a cluster takes the manifest of a launch as it is, without dropping a field.

A cluster drops the fields that its version of JobSet does not know, without a word: the run starts, and the queue, the
priority or the rule for failures is missing. So a field that a schema lacks is a fault here.
"""

import functools
import json
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

from bigmodel_jax.launch.doctor import results, tools
from bigmodel_jax.launch.job import Job
from bigmodel_jax.launch.targets import target

MANIFEST = 'manifest'
SCHEMAS = pathlib.Path(__file__).with_name('schemas')
# Of JobSet, as kubeflow-trainer-api 2.0.0 and 2.3.0 were generated from it: file -> what a person knows it as.
PUBLISHED = {
    'jobset_trainer_2_0_0.json': 'JobSet as in kubeflow-trainer-api 2.0.0',
    'jobset_trainer_2_3_0.json': 'JobSet as in kubeflow-trainer-api 2.3.0',
}
FREE = 'x-kubernetes-preserve-unknown-fields'
SHOWN = 4  # Problems of one schema.
UPDATE = 'Update JobSet on the cluster, or use the xpk that made the cluster: both must know the field.'


def check(on: target.Target, job: Job, asked: tools.Asked) -> Iterator[results.CheckResult]:
    """The results of the manifest of a target; none if it has no manifest."""
    with tempfile.TemporaryDirectory() as folder:
        made = on.manifest(target.AttemptPlace(job, 1, folder))
        if made is None:
            return
        for command in made.render:
            answer = asked(command)
            if answer.status != 0:
                why = 'is missing' if answer.status == 127 else f'did not render it: {answer.problem}'
                yield results.not_checked(MANIFEST, f'{command[0]} {why}')
                return
        if not pathlib.Path(made.file).exists():
            yield results.not_checked(MANIFEST, f'{made.render[0][0]} wrote none')
            return
        yield from _by_schemas(load(pathlib.Path(made.file).read_text(encoding='utf-8')), made, asked)


def _by_schemas(manifest: Any, made: target.Manifest, asked: tools.Asked) -> Iterator[results.CheckResult]:
    """By the schema of the cluster if it answers, and else by the published ones."""
    try:
        import jsonschema  # noqa: F401
    except ImportError:
        yield results.not_checked(MANIFEST, 'jsonschema is not installed', 'pip install jsonschema')
        return
    answer = asked(made.schema)
    if answer.status == 0:
        schema = of_cluster(json.loads(answer.out), manifest.get('apiVersion', ''))
        yield _judged(manifest, schema, 'the cluster')
        yield _rehearsed(made, asked)
        return
    yield results.not_checked(f'{MANIFEST}, by the cluster', f'it gives no schema: {answer.problem}')
    for file, name in PUBLISHED.items():
        yield _judged(manifest, published(file), name)


def _rehearsed(made: target.Manifest, asked: tools.Asked) -> results.CheckResult:
    answer = asked(made.rehearse)
    name = f'{MANIFEST}, by the cluster'
    if answer.status == 0:
        return results.ok(name, 'the cluster would create it')
    if tools.is_unheard(answer) or '(Forbidden)' in answer.err:
        return results.not_checked(name, answer.problem)
    return results.fault(name, f'The cluster refuses it: {answer.problem}.', UPDATE)


def _judged(manifest: Any, schema: dict[str, Any], name: str) -> results.CheckResult:
    found = problems(manifest, schema)
    if not found:
        return results.ok(MANIFEST, f'valid for {name}')
    more = f' and {len(found) - SHOWN} more' if len(found) > SHOWN else ''
    return results.fault(MANIFEST, f'Not valid for {name}: {"; ".join(found[:SHOWN])}{more}.', UPDATE)


def load(text: str) -> Any:
    """A manifest as the API server reads it: a field that is null is absent."""
    import yaml

    return _without_nulls(yaml.safe_load(text))


def _without_nulls(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_nulls(value) for key, value in node.items() if value is not None}
    return [_without_nulls(value) for value in node] if isinstance(node, list) else node


@functools.cache
def published(file: str) -> dict[str, Any]:
    """One of PUBLISHED."""
    found: dict[str, Any] = json.loads((SCHEMAS / file).read_text(encoding='utf-8'))
    return found


def problems(manifest: Any, schema: dict[str, Any]) -> list[str]:
    """Where a manifest is not as a schema asks, such as "spec: 'priorityy' is not a field"; [] if it is."""
    import jsonschema

    found = jsonschema.Draft202012Validator(schema).iter_errors(manifest)
    return sorted(f'{".".join(map(str, each.absolute_path)) or "the top"}: {_brief(each)}' for each in found)


def _brief(error: Any) -> str:
    if error.validator == 'additionalProperties' and error.validator_value is False:
        known = error.schema.get('properties', {})
        return f'{", ".join(repr(name) for name in error.instance if name not in known)} is not a field'
    return str(error.message)


def of_cluster(definition: dict[str, Any], version: str) -> dict[str, Any]:
    """The JSON schema of a version of a CustomResourceDefinition, in which a field that would be dropped is an error.

    Args:
      definition: as `kubectl get crd NAME --output=json` prints it.
      version: as a manifest names it, 'jobset.x-k8s.io/v1alpha2'.
    """
    name = version.rpartition('/')[2]
    served = {each['name']: each for each in definition['spec']['versions'] if each.get('served')}
    if name not in served:
        # Nothing can be valid; the field that is wrong is the version itself.
        return {'properties': {'apiVersion': {'enum': [f'{definition["spec"]["group"]}/{each}' for each in served]}}}
    schema = served[name]['schema']['openAPIV3Schema']
    closed = _closed(schema)
    # Kubernetes itself checks these.
    closed['properties'] |= {'apiVersion': {}, 'kind': {}, 'metadata': {}}
    return closed


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A structural schema of Kubernetes whose objects have no other fields than it lists."""
    made = {
        key: value for key, value in schema.items() if not key.startswith('x-') and key not in ('default', 'format')
    }
    if schema.get('x-kubernetes-int-or-string'):
        return {'type': ['integer', 'string']}
    if 'properties' in schema:
        made['properties'] = {name: _closed(each) for name, each in schema['properties'].items()}
        if not schema.get(FREE):
            made['additionalProperties'] = False
    for key in ('items', 'additionalProperties'):
        if isinstance(schema.get(key), dict):
            made[key] = _closed(schema[key])
    return made
