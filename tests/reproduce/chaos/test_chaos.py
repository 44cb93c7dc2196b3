"""Forked processes are like started ones; and a run that is killed again and again is the run that nothing disturbs."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from bigmodel_jax.reproduce.chaos import __main__ as command_line
from bigmodel_jax.reproduce.chaos import comparison, forks

ROOT = pathlib.Path(__file__).parents[3]
TINY = str(ROOT / 'tests' / 'tiny.py')
SMALL = str(pathlib.Path(__file__).with_name('small.py'))


@pytest.fixture(scope='module')
def zygote():
    with forks.Zygote() as server:
        yield server


def trained(zygote, workdir, *more, hosts=1):
    children = zygote.run(
        ['train', SMALL, '--workdir', str(workdir), *more], hosts=hosts, devices=1, output=workdir.parent / 'out'
    )
    assert forks.wait(children, 120) == [0] * hosts, [child.output.read_text() for child in children]
    return children


# ---- the fork server ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_forked_process_computes_what_a_started_one_computes(zygote, tmp_path):
    trained(zygote, tmp_path / 'forked', '--set', 'steps=4')
    command = [sys.executable, '-m', 'bigmodel_jax', 'train', SMALL, '--workdir', str(tmp_path / 'started')]
    told = ['--set', 'steps=4', '--simulate-devices', '1']
    subprocess.run([*command, *told], cwd=ROOT, check=True, capture_output=True)
    assert comparison.differences(tmp_path / 'forked', tmp_path / 'started') == []


def test_a_failure_has_its_status_and_its_words(zygote, tmp_path):
    (child,) = zygote.run(
        ['train', SMALL, '--workdir', str(tmp_path), '--set', 'stepz=3'], hosts=1, devices=1, output=tmp_path
    )
    assert forks.wait([child], 60) == [2]
    assert "Did you mean 'steps'?" in child.output.read_text()


def test_a_killed_process_says_so(zygote, tmp_path):
    (child,) = zygote.run(['train', SMALL, '--workdir', str(tmp_path / 'run')], hosts=1, devices=1, output=tmp_path)
    child.kill()
    assert forks.wait([child], 60) == [-signal.SIGKILL]
    child.kill()  # It is gone; nobody else has its number.


def alive(pid):
    status = pathlib.Path(f'/proc/{pid}/status')
    return status.exists() and 'State:\tZ' not in status.read_text()


@pytest.mark.parametrize('end', [pytest.param('leave', marks=pytest.mark.slow), 'die'])
def test_nothing_outlives_who_started_it(tmp_path, end):
    program = (
        'import os, pathlib, sys\nfrom bigmodel_jax.reproduce.chaos import forks\n'
        'with forks.Zygote() as zygote:\n'
        f'    children = zygote.run(["train", {SMALL!r}, "--workdir", {str(tmp_path / "run")!r}], hosts=2, devices=1,'
        f' output=pathlib.Path({str(tmp_path)!r}))\n'
        '    print(*[child.pid for child in children], flush=True)\n'
        f'    os._exit(0) if {end!r} == "die" else None\n'
    )
    done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=True)
    pids, deadline = [int(word) for word in done.stdout.split()], time.monotonic() + 10
    assert len(pids) == 2
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids))


# ---- chaos --------------------------------------------------------------------------------------------------------


def chaos(zygote, workdir, *arguments):
    status = command_line.run(zygote, command_line.parse(arguments), workdir)
    return status, json.loads((workdir / 'chaos.json').read_text())


@pytest.mark.parametrize(
    ('file', 'hosts', 'kills', 'more'),
    [
        pytest.param(SMALL, 1, 2, ('--set', 'steps=60', '--set', 'checkpoints.every_steps=6'), id='one host'),
        pytest.param(
            TINY,
            2,
            2,
            (
                *('--set', 'steps=24', '--set', 'checkpoints.every_steps=6', '--set', 'mesh.data=-1'),
                *('--set', 'model.layers=1', '--set', 'evaluations=()'),
            ),
            marks=pytest.mark.slow,
            id='two hosts',
        ),
    ],
)
def test_no_kill_changes_a_result(zygote, tmp_path, capsys, file, hosts, kills, more):
    status, found = chaos(zygote, tmp_path / 'chaos', file, '--hosts', str(hosts), '--kills', str(kills), *more)
    said = capsys.readouterr().out
    assert status == 0, said
    assert (found['differences'], found['problems']) == ([], [])
    assert len(found['kills']) == kills
    assert sum(kill['inside_save'] for kill in found['kills']) >= kills // 2
    assert f'{kills} of {kills}' in said
    assert 'equal to the undisturbed run' in said
    environment = json.loads((tmp_path / 'chaos' / 'disturbed' / 'environment.json').read_text())
    assert {session['processes'] for session in environment} == {hosts}


def test_what_differs_is_named(zygote, tmp_path):
    """Another seed: all differs. And a step that was recorded twice, though the metrics are right."""
    for name, seed in (('a', 0), ('b', 1)):
        trained(zygote, tmp_path / name, '--set', 'steps=4', '--set', f'seed={seed}')
    found = comparison.differences(tmp_path / 'a', tmp_path / 'b')
    starts = [line.split(': ')[:2] for line in found]
    assert ['final state', 'step 4'] in starts
    assert ['metrics', 'step 4, train'] in starts
    assert ['examples and batches', 'step 1'] in starts
    assert any(line.startswith('states: step 4') for line in found)
    assert comparison.differences(tmp_path / 'a', tmp_path / 'a') == []
    log = tmp_path / 'a' / 'metrics.jsonl'
    before = comparison.metrics(tmp_path / 'a')
    with log.open('ab') as file:
        file.write(next(line for line in log.read_bytes().splitlines(True) if b'"train"' in line))
    assert set(comparison.metrics(tmp_path / 'a')) - set(before) == {'step 2, train, a second time'}


def test_wrong_input(zygote, tmp_path, capsys):
    options = command_line.parse([SMALL, '--set', 'stepz=1'])
    assert command_line.run(zygote, options, tmp_path / 'x') == 2
    assert "Did you mean 'steps'?" in capsys.readouterr().err
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'file').touch()
    with pytest.raises(SystemExit):
        command_line.main([SMALL, '--workdir', str(tmp_path / 'full')])
    assert 'is not empty' in capsys.readouterr().err
    for idle in (['--part', '1/2'], ['--faults', '--kills', '3']):
        with pytest.raises(SystemExit):
            command_line.parse([SMALL, *idle])
        assert f'{idle[-2]} has no effect with' in capsys.readouterr().err


def test_help(capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.main(['--help'])
    assert ended.value.code == 0
    assert 'scripts/chaos' in capsys.readouterr().out
    assert os.access(ROOT / 'scripts' / 'chaos', os.X_OK)
