"""The manifests of a sweep's trials as xpk's dry run makes them. No cluster is asked, and nothing runs on a TPU."""

import dataclasses
import pathlib
import re
import shlex
import shutil

import pytest
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.sweeps import summaries, sweep_directory
from bigmodel_jax.sweeps.engines import jobsets, xpk

# What xpk 1.16.0 made of TRIALS[1]: scripts and people can see what reaches Kubernetes without having xpk.
MANIFEST = pathlib.Path(__file__).parent / 'xpk_manifest.yaml'
TRIALS = tuple(
    sweep_directory.TrialEntry(arm, seed, f'{arm}-seed{seed}-0123456789ab')
    for arm, seed in (('baseline', 0), ('width=128,peak=0.001', 3), ('Width-128+peak-0.001', 3), ('9' * 80, 123456))
)
ENGINE = xpk.Xpk(
    cluster='pods',
    project='lab',
    zone='us-central2-b',
    tpu_type='v5litepod-16',
    image='gcr.io/lab/image:1',
    slices=2,
    priority='low',
    max_restarts=7,
)


def directory(path: epath.PathLike = 'gs://bucket/a sweep') -> sweep_directory.SweepDirectory:
    described = sweep_directory.Description(
        arms={},
        baseline='baseline',
        metric='validation/loss',
        direction='lower',
        seeds=(0, 3),
        summary=summaries.Final(),
        factors=(),
        columns={},
        trials=TRIALS,
        source=sweep_directory.Invocation('experiments/a.py'),
    )
    return sweep_directory.SweepDirectory(epath.Path(path), described)


def test_names_of_workloads_are_names_of_kubernetes_and_differ() -> None:
    places = [directory(), directory('gs://bucket/other')]
    names = [xpk.workload(place, each) for place in places for each in TRIALS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r'[a-z]([-a-z0-9]*[a-z0-9])?', name) and len(name) <= 40 for name in names), names
    assert names[1].startswith('width-128-peak-0-001-s3-')


def test_a_manifest_carries_the_trial_its_place_and_what_was_asked_for() -> None:
    text, name = MANIFEST.read_text(), xpk.workload(directory(), TRIALS[1])
    command = ENGINE.command(directory(), TRIALS[1])
    assert f'  name: {name}\n' in text
    assert f'({command}) &' in text
    words = ['exec', 'python', '-m', 'bigmodel_jax', 'trial', 'gs://bucket/a sweep', TRIALS[1].name]
    assert shlex.split(command) == words, 'a shell reads the words as they are'
    final = re.search(r'operator: NotIn\n +values: \[([\d,]+)\]', text)
    assert final is not None
    again = set(map(int, final[1].split(',')))
    assert {1, 128 + 9, 128 + 15} <= again, 'a lost neighbour, SIGKILL, SIGTERM'
    assert 2 not in again, 'something has to be changed first'
    for line in (
        'kueue.x-k8s.io/queue-name: multislice-queue',
        'priorityClassName: low',
        'maxRestarts: 7',
        'replicas: 2',  # Slices.
        'parallelism: 4 ',  # Hosts of a slice.
        'cloud.google.com/gke-tpu-accelerator: tpu-v5-lite-podslice',
        'cloud.google.com/gke-tpu-topology: 4x4',
        'image: gcr.io/lab/image:1',
        'terminationGracePeriodSeconds: 300',
    ):
        assert line in text, line


@pytest.mark.slow  # Each start of xpk takes seconds.
@pytest.mark.skipif(shutil.which('xpk') is None, reason='needs the program xpk: uv tool install xpk==1.16.0')
def test_xpk_makes_that_manifest_and_its_refusals_are_told() -> None:
    assert ENGINE.manifest(directory(), TRIALS[1]) == MANIFEST.read_text()
    for each in TRIALS:
        assert xpk.workload(directory(), each) in ENGINE.manifest(directory(), each)
    with pytest.raises(config.InputError, match=r"xpk refused baseline-seed0.*tpu-type: invalid choice: 'v99-3'"):
        dataclasses.replace(ENGINE, tpu_type='v99-3').manifest(directory(), TRIALS[0])


def test_what_is_wrong_is_said_before_anything_starts(tmp_path: pathlib.Path) -> None:
    with pytest.raises(config.InputError, match=r'hosts of a TPU slice do not see this directory.*gs://BUCKET/NAME'):
        ENGINE.check(directory(tmp_path))
    with pytest.raises(config.InputError, match=r"'no-such-xpk', which is not on PATH: `uv tool install xpk==1.16.0`"):
        dataclasses.replace(ENGINE, program='no-such-xpk').check(directory())
    with pytest.raises(config.InputError, match='priority'):
        dataclasses.replace(ENGINE, priority='highest').check(directory())


def test_a_workload_is_over_when_kubernetes_says_that_its_jobset_completed_or_failed() -> None:
    def jobset(name: str, *conditions: dict[str, str]) -> dict[str, object]:
        return {'metadata': {'name': name}, 'status': {'conditions': list(conditions)}}

    listed = [
        {'metadata': {'name': 'new'}},
        jobset('waiting', {'type': 'Suspended', 'status': 'True'}),
        jobset('resumed', {'type': 'Failed', 'status': 'False'}),
        jobset('done', {'type': 'Completed', 'status': 'True'}),
        jobset(
            'broken', {'type': 'Failed', 'status': 'True', 'message': 'jobset failed due to reaching max restarts.'}
        ),
    ]
    found = jobsets.conditions({'items': listed})
    assert {name: status for name, (status, _) in found.items()} == {
        'new': None, 'waiting': None, 'resumed': None, 'done': 0, 'broken': 1,
    }  # fmt: skip
    assert found['broken'][1].startswith('GKE: jobset failed due to reaching max restarts; `kubectl logs')
