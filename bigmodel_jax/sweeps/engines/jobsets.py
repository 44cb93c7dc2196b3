"""JobSets of Kubernetes, as kubectl shows them. No JAX."""

from collections.abc import Mapping
from typing import Any

JOBSETS = 'jobsets.jobset.x-k8s.io'


def conditions(jobsets: Mapping[str, Any]) -> dict[str, tuple[int | None, str]]:
    """Name of a workload -> (status, reason) as of EndedJob; the status is None while it waits or runs.

    Args:
      jobsets: the list of JobSets as Kubernetes gives it in JSON (API jobset.x-k8s.io/v1alpha2).
    """
    found: dict[str, tuple[int | None, str]] = {}
    for each in jobsets['items']:
        name = each['metadata']['name']
        true = {one['type']: one for one in each.get('status', {}).get('conditions', []) if one['status'] == 'True'}
        if 'Completed' in true:
            found[name] = (0, '')
        elif 'Failed' in true:
            said = true['Failed'].get('message', '').rstrip('.')
            found[name] = (
                1,
                f'GKE: {said}; `kubectl logs -l jobset.sigs.k8s.io/jobset-name={name}` has its last lines',
            )
        else:
            found[name] = (None, '')
    return found
