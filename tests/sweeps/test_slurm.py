"""A sweep through a real Slurm on this machine, with a node drained, a trial preempted and an arm stopped early."""

import collections
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from bigmodel_jax.sweeps import sweep, sweep_directory, trials, worker

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

HALVED = """
'''A sweep that stops an arm early.'''
import tiny
from bigmodel_jax import config
from bigmodel_jax.sweeps import arms, sweep as sweeps
from bigmodel_jax.sweeps.statistics import halving

def sweep():
    base = config.vary(tiny.experiment(), {'steps': 1_200, 'checkpoints.every_steps': 200, 'watch.log_every': 50,
                                          'evaluations.0.every_steps': 100})
    slow = {'optimizer.schedule.peak': 1e-9}  # It learns nothing.
    made = arms.named(base, {'baseline': {}, 'deep': {'model.layers': 3}, 'slow': slow})
    return sweeps.Sweep(arms=made, seeds=(0, 1), halving=halving.SuccessiveHalving(looks=(0.5,), error=0.2))
"""
LOOK = 600
ANSWERS = ('results.json', 'results.csv', 'table.md', 'table.tex')


ENGINE = ('--engine=slurm', '--engine-set=partition=main', '--engine-set=gres=gpu:1', '--engine-set=at_once=3')


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


def alone(path: pathlib.Path, file: pathlib.Path) -> sweep_directory.SweepDirectory:
    """The same sweep, trial by trial, without an engine."""
    made = sweep.load(str(file))
    about = sweep_directory.create(path, made, trials.trials(made), sweep_directory.Invocation(str(file)))
    for entry in about.description.trials:
        with open(about.log(entry), 'wb') as log:
            subprocess.run(worker.command(about, entry), check=True, stdout=log, stderr=log, cwd=ROOT)
    return about


def start(
    path: pathlib.Path, file: pathlib.Path, output: pathlib.Path, engine: tuple[str, ...] = ENGINE
) -> subprocess.Popen[bytes]:
    """The command of a person who runs the sweep on the cluster, or with another engine."""
    command = [sys.executable, '-m', 'bigmodel_jax', 'sweep', str(file), f'--workdir={path}', *engine]
    with open(output, 'wb') as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream, cwd=ROOT)


def running_on(node: str) -> set[str]:
    listed = run('squeue', '--noheader', '--array', '--states=RUNNING', f'--nodelist={node}', '--format=%i')
    return set(listed.split())


def drain_and_preempt(about: sweep_directory.SweepDirectory) -> None:
    """Drains n2 and preempts what runs on n1, when both are busy and a trial is in its middle."""

    def in_the_middle() -> bool:
        begun = [run for each in about.description.trials if (run := about.run(each)) is not None]
        return any(0 < max(about.curve(run), default=0) < 3_000 for run in begun)

    wait_until(lambda: bool(running_on('n1')) and bool(running_on('n2')) and in_the_middle(), 'both nodes busy')
    before = running_on('n2')
    run('scontrol', 'update', 'NodeName=n2', 'State=DRAIN', 'Reason=test')
    urgent = run('sbatch', '--parsable', '--partition=urgent', '--cpus-per-task=2', '--output=none', '--wrap=sleep 3')
    wait_until(lambda: urgent.strip() not in run('squeue', '--noheader', '--format=%i').split(), 'the urgent job')
    assert running_on('n2') <= before, 'a drained node starts nothing new'


@pytest.mark.slow
@pytest.mark.usefixtures('cluster')
def test_with_a_node_drained_and_trials_preempted_each_trial_ends_once_as_it_ends_without_slurm(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('PYTHONPATH', str(ROOT / 'tests'))  # Where the experiment file finds tiny.
    file, path = tmp_path / 'small.py', tmp_path / 'a sweep'
    file.write_text(FILE)
    first = start(path, file, tmp_path / 'first')
    wait_until(lambda: bool(list(path.glob('slurm/*/trials.json'))) and bool(running_on('n1')), 'the array')
    # The sweep is started once more while it runs, and the first command ends: its trials do not.
    second = start(path, file, tmp_path / 'second')
    about = sweep_directory.open_sweep(path)
    drain_and_preempt(about)
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 128 + signal.SIGINT
    assert 'trials go on in Slurm. The same command waits for them again' in (tmp_path / 'first').read_text()
    assert second.wait(PATIENCE_S) == 0, (tmp_path / 'second').read_text()
    print((tmp_path / 'second').read_text())
    assert len(list(path.glob('slurm/*/trials.json'))) == 1, 'nothing was submitted twice'
    assert 'DRAIN' in run('scontrol', 'show', 'node', 'n2')
    run('scontrol', 'update', 'NodeName=n2', 'State=RESUME')
    other = alone(tmp_path / 'alone', file)
    assert digests(about) == digests(other)
    assert about.values() == other.values()
    assert all(len(values) == 3 for values in about.values().values())
    taken = collections.Counter(sessions(about))
    print(f'sessions of a trial -> trials: {dict(taken)}')
    assert taken[2] >= 1, 'a trial was preempted and resumed'
    assert set(taken) == {1, 2}


@pytest.mark.slow
@pytest.mark.usefixtures('cluster')
def test_with_a_node_drained_an_arm_is_stopped_early_as_it_is_without_slurm(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('PYTHONPATH', str(ROOT / 'tests'))
    file, path, other = tmp_path / 'halved.py', tmp_path / 'in slurm', tmp_path / 'here'
    file.write_text(HALVED)
    command = start(path, file, tmp_path / 'output')
    wait_until(lambda: bool(running_on('n1')) and bool(running_on('n2')), 'both nodes busy')
    assert all('_' in number for number in running_on('n1') | running_on('n2')), 'tasks of an array'
    before = running_on('n2')
    run('scontrol', 'update', 'NodeName=n2', 'State=DRAIN', 'Reason=test')
    assert command.wait(PATIENCE_S) == 0, (tmp_path / 'output').read_text()
    print((tmp_path / 'output').read_text())
    assert running_on('n2') <= before
    run('scontrol', 'update', 'NodeName=n2', 'State=RESUME')
    assert start(other, file, tmp_path / 'here_output', engine=('--jobs=2',)).wait(PATIENCE_S) == 0
    about, local = sweep_directory.open_sweep(path), sweep_directory.open_sweep(other)
    last = {entry.name: found.step for entry in about.description.trials if (found := about.run(entry)) is not None}
    assert last == {entry.name: LOOK if entry.arm == 'slow' else 2 * LOOK for entry in about.description.trials}
    arrays = [json.loads(each.read_text()) for each in path.glob('slurm/*/trials.json')]
    assert sorted(map(len, arrays)) == [4, 6], 'one array up to the look, and one of the arms that go on'
    assert all('slow' not in name for each in arrays if len(each) == 4 for name in each)
    assert digests(about) == digests(local)
    for name in ANSWERS:
        assert (path / name).read_bytes() == (other / name).read_bytes(), name
