"""A sweep through a real Slurm on this machine, with a node drained and a trial preempted in the middle."""

import collections
import os
import pathlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from bigmodel_jax.sweeps import sweep, sweep_directory, trials, worker
from bigmodel_jax.sweeps.engines import slurm

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / 'scripts' / 'local_slurm'
PATIENCE_S = 900  # A trial that was preempted waits for two minutes; the rest takes as long as the machine is busy.


FILE = """
'''A sweep of a small model.'''
import tiny
from bigmodel_jax import config
from bigmodel_jax.sweeps import arms, sweep as sweeps

def sweep():
    base = config.vary(tiny.experiment(), {'steps': 4_000, 'checkpoints.every_steps': 500, 'watch.log_every': 50,
                                          'evaluations.0.every_steps': 100})
    made = arms.named(base, {'baseline': {}, 'deep': {'model.layers': 3}})
    return sweeps.Sweep(arms=made, metric='validation/loss', seeds=(0, 1, 2))
"""


def directory(path: pathlib.Path) -> sweep_directory.SweepDirectory:
    file = path.parent / 'small.py'
    file.write_text(FILE)
    made = sweep.load(str(file))
    return sweep_directory.create(path, made, trials.trials(made), sweep_directory.Invocation(str(file)))


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f'waited in vain for: {what}'
        time.sleep(0.2)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.fixture(scope='module')
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if shutil.which('slurmctld') is None or os.geteuid() != 0:
        pytest.skip('needs slurmctld, slurmd and munge, and root; the head of scripts/local_slurm says how to get them')
    pytest.importorskip('submitit')
    folder = str(tmp_path_factory.mktemp('slurm'))
    line = run(str(SCRIPT), 'start', folder)
    before = os.environ.get('SLURM_CONF')
    os.environ['SLURM_CONF'] = line.strip().rpartition('=')[2]
    try:
        yield
    finally:
        run(str(SCRIPT), 'stop', folder)
        os.environ.pop('SLURM_CONF') if before is None else os.environ.update(SLURM_CONF=before)


def digests(about: sweep_directory.SweepDirectory) -> dict[str, str]:
    """What `trial` printed last about the state of each trial."""
    found = {}
    for entry in about.description.trials:
        lines = [line for line in about.log(entry).read_text().splitlines() if line.startswith('digest of the state')]
        found[entry.name] = lines[-1]
    return found


def sessions(about: sweep_directory.SweepDirectory) -> list[int]:
    """How many sessions each trial took."""
    return [len(about.run(entry).environment) for entry in about.description.trials]


def local(path: pathlib.Path) -> sweep_directory.SweepDirectory:
    """The same sweep, trial by trial, without an engine."""
    about = directory(path)
    for entry in about.description.trials:
        with open(about.log(entry), 'wb') as log:
            subprocess.run(worker.command(about, entry), check=True, stdout=log, stderr=log, cwd=ROOT)
    return about


@pytest.mark.slow
@pytest.mark.usefixtures('cluster')
def test_with_a_node_drained_and_a_trial_preempted_each_trial_ends_once_as_it_ends_without_slurm(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv('PYTHONPATH', str(ROOT / 'tests'))  # Where the experiment file finds tiny.
    about = directory(tmp_path / 'a sweep')
    entries = about.description.trials
    engine = slurm.Slurm(partition='main', gres='gpu:1', minutes=60, at_once=3)
    engine.check()
    with engine.jobs(about) as jobs, engine.jobs(about) as another:
        assert jobs.room() >= len(entries)
        jobs.submit(entries)
        another.submit(entries)  # The sweep is started a second time: nothing is submitted twice.
        states = run('squeue', '--noheader', '--array', '--format=%F %T').split('\n')[:-1]
        assert len(states) == len(entries), states
        assert len({line.split()[0] for line in states}) == 1, 'they are one array'

        def running_on(node: str) -> list[str]:
            return run(
                'squeue', '--noheader', '--array', '--states=RUNNING', f'--nodelist={node}', '--format=%i'
            ).split()

        def in_the_middle() -> list[str]:
            """Trials that have saved a checkpoint and are not near their end."""
            return [each.name for each in entries if 0 < max(about.curve(each), default=0) < 3_000]

        wait_until(
            lambda: bool(running_on('n1')) and bool(running_on('n2')) and bool(in_the_middle()), 'both nodes busy'
        )
        on_n2 = set(running_on('n2'))
        run('scontrol', 'update', 'NodeName=n2', 'State=DRAIN', 'Reason=test')
        urgent = run(
            'sbatch', '--parsable', '--partition=urgent', '--cpus-per-task=2', '--wrap=sleep 3', '--output=none'
        )
        wait_until(
            lambda: f'{urgent.strip()}' not in run('squeue', '--noheader', '--format=%i').split(), 'the urgent job'
        )
        assert set(running_on('n2')) <= on_n2, 'a drained node starts nothing new'
        found = []
        wait_until(lambda: found.extend(jobs.ended()) or len(found) == len(entries), 'all trials')
        assert jobs.ended() == []
    assert {job.entry.name: job.status for job in found} == {each.name: 0 for each in entries}
    assert len(found) == len(entries), 'each ended once'
    assert 'DRAIN' in run('scontrol', 'show', 'node', 'n2')
    run('scontrol', 'update', 'NodeName=n2', 'State=RESUME')
    alone = local(tmp_path / 'alone')
    assert digests(about) == digests(alone)
    assert about.values() == alone.values()
    assert all(len(values) == 3 for values in about.values().values())
    taken = collections.Counter(sessions(about))
    print(f'sessions of a trial: {dict(taken)}')
    assert taken[2] >= 1, 'a trial was preempted and resumed'
    assert set(taken) == {1, 2}
