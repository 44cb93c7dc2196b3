"""A run on two nodes of a real Slurm on this machine, preempted once: it ends with the digest of an undisturbed run."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / 'scripts' / 'local_slurm'
PATIENCE_S = 900  # A job that was preempted waits for two minutes; the rest takes as long as the machine is busy.
FILE = """
'''A small model on two hosts.'''
import tiny
from bigmodel_jax import config
from bigmodel_jax.parallel import sharding

def experiment():
    changes = {'steps': 2_000, 'checkpoints.every_steps': 100, 'watch.log_every': 100, 'evaluations': ()}
    return config.vary(tiny.experiment(), changes | {'mesh': sharding.MeshShape(data=2)})
"""


def wait_until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f'waited in vain for: {what}'
        time.sleep(0.5)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout


@pytest.fixture(scope='module')
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if shutil.which('slurmctld') is None or os.geteuid() != 0:
        pytest.skip('needs slurmctld, slurmd and munge, and root; the head of scripts/local_slurm says how to get them')
    folder = str(tmp_path_factory.mktemp('slurm'))
    line = run(str(SCRIPT), 'start', folder, '127.0.0.')
    before = os.environ.get('SLURM_CONF')
    os.environ['SLURM_CONF'] = line.strip().rpartition('=')[2]
    try:
        yield
    finally:
        run(str(SCRIPT), 'stop', folder)
        os.environ.pop('SLURM_CONF') if before is None else os.environ.update(SLURM_CONF=before)


def states(name: str) -> set[str]:
    return set(run('squeue', '--noheader', f'--name={name}', '--format=%T').split())


def digest(log: str) -> str:
    return re.findall(r'digest of the state at step 2000: (\S+)', log)[-1]


def has_saved(workdir: pathlib.Path) -> bool:
    return any((workdir / 'checkpoints').glob('[0-9]*')) if workdir.exists() else False


@pytest.mark.slow
def test_a_run_that_slurm_preempts_ends_as_if_nothing_had_happened(cluster: None, tmp_path: pathlib.Path) -> None:
    code = tmp_path / 'code'
    code.mkdir()
    (code / 'counting.py').write_text(FILE)
    shutil.copy(ROOT / 'tests' / 'tiny.py', code)
    run('git', 'init', '--quiet', str(code))
    workdir, output, verb = tmp_path / 'run', tmp_path / 'launch.log', [sys.executable, '-m', 'bigmodel_jax']
    on = f"SlurmNodes(partition='main', nodes=2, python='{pathlib.Path(sys.executable).parent}')"
    with open(output, 'wb') as stream:
        command = [*verb, 'launch', str(code / 'counting.py'), f'--on={on}', f'--workdir={workdir}']
        launched = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=ROOT)
    try:
        wait_until(lambda: has_saved(workdir), 'a checkpoint')
        (name,) = set(run('squeue', '--noheader', '--format=%j').split())
        run('sbatch', '--partition=urgent', '--nodes=2', '--exclusive', '--wrap=sleep 2', f'--output={tmp_path}/urgent')
        wait_until(lambda: 'PENDING' in states(name), 'the preemption')
        assert launched.wait(PATIENCE_S) == 0, output.read_text()
    finally:
        launched.kill()
        subprocess.run(['scancel', '--user=root'], check=False)
    said, log = output.read_text(), (tmp_path / 'run.launch' / 'attempt-1.log').read_text()
    assert 'done. Attempt 1' in said
    assert 'nothing is left running' in said
    assert 'waiting' in said
    sessions = json.loads((workdir / 'environment.json').read_text())
    assert [(each['processes'], each['step'] > 0) for each in sessions] == [(2, False), (2, True)]
    plain = [sys.executable, '-m', 'bigmodel_jax.hosts', '2', '1', '--', 'train', str(code / 'counting.py')]
    # A launch takes no flags of the compiler along, and those of the tests change the last bits.
    environment = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    alone = subprocess.run(
        [*plain, f'--workdir={tmp_path}/alone'], capture_output=True, text=True, cwd=ROOT, check=True, env=environment
    )
    assert digest(log) == digest(alone.stdout)
