"""A file operation that fails, or a kill at it, loses nothing: a sample of what `scripts/chaos --faults` tries."""

import errno
import os
import pathlib
import subprocess
import sys
import time

import pytest

from bigmodel_jax import config
from bigmodel_jax.reproduce.chaos import __main__ as command_line
from bigmodel_jax.reproduce.chaos import faults, forks, shim, sweep_results

ROOT = pathlib.Path(__file__).parents[3]
SMALL = str(pathlib.Path(__file__).with_name('small.py'))
# The last checkpoint is there, and the power is lost before the one that it replaces is deleted; and of several writes
# at a time each fails.
SAMPLE = (
    'fresh:1:0:rename:1:power:once:/checkpoints/#',
    'fresh:1:0:create:1:EIO:lasting:/checkpoints/#.partial/model/array_metadatas/process_0',
)
# One of two hosts cannot make a directory that the other one writes to, or read what both need.
OF_TWO_HOSTS = (
    'fresh:2:0:mkdir:1:EIO:lasting:/checkpoints/#.partial/optimizer/ocdbt.process_0',
    'fresh:2:0:mkdir:2:EIO:once:/checkpoints/#.partial/optimizer/array_metadatas',
    'fresh:2:1:mkdir:1:EIO:lasting:/checkpoints/#.partial/model/ocdbt.process_1',
    'resumed:2:0:open:2:EIO:lasting:/checkpoints/#/optimizer/array_metadatas',
    'resumed:2:1:read:7:EIO:lasting:/SHA256SUMS',
    'resumed:2:1:read:9:EIO:lasting:/SHA256SUMS',
)


@pytest.fixture(scope='module')
def library(tmp_path_factory):
    try:
        return shim.build(tmp_path_factory.mktemp('library'))
    except shim.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope='module')
def zygote(library):
    with forks.Zygote(shim.environment(library)) as server:
        yield server


def swept(zygote, tmp_path, *more):
    options = command_line.parse([SMALL, *more])
    options.replay = options.replay and [faults.parse(text) for text in options.replay]
    status = command_line.run(zygote, options, tmp_path)
    return status, sweep_results.SweepResults(options.results or tmp_path / sweep_results.FILE, {})


@pytest.mark.parametrize('sample', [SAMPLE, pytest.param(OF_TWO_HOSTS, marks=pytest.mark.slow)])
def test_no_fault_changes_a_result(zygote, tmp_path, capsys, sample):
    replay = [part for text in sample for part in ('--replay', text)]
    status, found = swept(zygote, tmp_path, *replay)
    assert (status, found.broken) == (0, []), capsys.readouterr().out
    assert sum(trial.met is not None for trial in found.trials.values()) == len(sample)


def test_a_checkpoint_and_the_log_before_it_are_on_disk_before_the_older_one_goes(zygote, tmp_path):
    """By the order of the calls of a run; a loss of power takes what was written after the last fsync of its file."""
    workdir, log = tmp_path / 'run', tmp_path / 'calls'
    order = [str(workdir), 'open', faults.ANY, 0, int(shim.Happens.COUNT), 0, 0, str(log)]
    command = ['train', SMALL, '--workdir', str(workdir)]
    children = zygote.run(command, hosts=1, devices=1, output=tmp_path / 'output', orders={0: order})
    assert forks.wait(children, 120) == [0], children[0].output.read_text()
    unsynced, commits, deletions = set(), 0, 0
    for operation, _, path in (line.split(' ', 2) for line in log.read_text().splitlines()):
        if operation in ('create', 'write'):
            unsynced.add(path)
        elif operation == 'fsync':
            unsynced.discard(path)
        elif operation == 'rename' and path.startswith('/checkpoints/') and path.count('/') == 2:
            inside = {name for name in unsynced if name.startswith(('/checkpoints/', '/metrics', '/trace'))}
            assert inside == set(), (path, inside)
            is_commit = path.endswith('.partial')
            commits, deletions = commits + is_commit, deletions + (not is_commit)
            # The new name must have reached the disk before the old checkpoint loses its own.
            unsynced |= {'/checkpoints'} if is_commit else set()
    assert (commits, deletions) == (2, 1)


# ---- portions -----------------------------------------------------------------------------------------------------

PLANNED = [faults.parse(f'fresh:1:0:write:{n}:{what}:once:/a') for what in ('EIO', 'half') for n in (1, 2, 3)]
FACTS = {'experiment': 'small.py', 'seed': 3, 'set': []}


def begun(path):
    results = sweep_results.SweepResults(path, FACTS)
    results.begin(PLANNED, {'package': 'a'})
    return results


def test_a_sweep_continues_with_the_faults_that_have_no_result(tmp_path):
    path, problem = tmp_path / 'results' / 'faults.jsonl', 'it printed a traceback: é'
    results = begun(path)
    assert results.remaining() == PLANNED
    for fault, problems in ((PLANNED[0], ()), (PLANNED[3], (problem,)), (PLANNED[1], ())):
        results.add(sweep_results.FaultTrial(fault, '/a', (0,), problems, 0.5))
    # The portion is killed while it writes the last line: that fault is run again.
    path.write_bytes(path.read_bytes()[:-30])
    again = begun(path)
    assert list(again.trials.values()) == list(results.trials.values())[:2]
    assert again.remaining() == [PLANNED[n] for n in (1, 2, 4, 5)]
    again.add(sweep_results.FaultTrial(PLANNED[1], None, (0,), (), 0.5))
    assert begun(path).trials == again.trials
    said = again.summary()
    assert said[0].startswith('3 of 6 faults were run, of 2 of 2 groups, in 2 s; 2 were met, and 1 broke the law.')
    assert said[1].startswith('3 faults remain')
    assert (problem in said[2], said[3:]) == (True, [f'again: --replay {PLANNED[3]}'])


def test_the_parts_of_a_sweep_are_the_whole(tmp_path):
    results = begun(tmp_path / 'faults.jsonl')
    for parts in (1, 2, 4, 9):
        found = [fault for k in range(parts) for fault in results.remaining((k + 1, parts))]
        assert sorted(map(str, found)) == sorted(map(str, PLANNED))


def test_results_of_another_sweep_or_of_other_code_are_refused(tmp_path):
    path = tmp_path / 'faults.jsonl'
    begun(path)
    with pytest.raises(config.InputError, match='of another sweep: seed 3 instead of 4'):
        sweep_results.SweepResults(path, FACTS | {'seed': 4})
    with pytest.raises(config.InputError, match='of another version of the code'):
        sweep_results.SweepResults(path, FACTS).begin(PLANNED, {'package': 'b'})
    path.write_text('{"a": 1}\n')
    with pytest.raises(config.InputError, match='does not hold the results of a sweep'):
        sweep_results.SweepResults(path, FACTS)


@pytest.mark.parametrize('text', ['0/2', '3/2', '1', 'a/b', '1/0'])
def test_a_part_is_one_of_so_many(text, capsys):
    with pytest.raises(SystemExit):
        command_line.parse([SMALL, '--part', text])
    assert 'is not a part such as 2/8' in capsys.readouterr().err


@pytest.mark.slow
def test_a_portion_that_was_killed_is_continued(library, tmp_path, capsys):
    """By SIGKILL of the command itself, after its first result."""
    results = tmp_path / 'faults.jsonl'
    more = ['--faults', '6', '--seed', '2', '--results', str(results)]
    command = [sys.executable, '-m', 'bigmodel_jax.reproduce.chaos', SMALL, *more]
    portion = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while portion.poll() is None and not (results.exists() and results.read_bytes().count(b'\n') > 1):
        time.sleep(0.05)
    portion.kill()
    portion.wait()
    first = sweep_results.SweepResults(results, {})
    assert 0 < len(first.trials) < 6
    assert command_line.main([SMALL, *more, '--workdir', str(tmp_path / 'second')]) == 0, capsys.readouterr().out
    last = sweep_results.SweepResults(results, {})
    assert list(last.trials.items())[: len(first.trials)] == list(first.trials.items())
    assert (set(last.trials), len(last.trials)) == (set(first.planned), 6)
    assert '6 of 6 faults were run' in capsys.readouterr().out


# ---- the schedule -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('hosts', [1, 2])
def test_no_fault_of_many_changes_a_result(zygote, tmp_path, capsys, hosts):
    status, found = swept(zygote, tmp_path, '--faults', '40', '--hosts', str(hosts), '--seed', '1')
    assert (status, found.broken) == (0, []), capsys.readouterr().out


def test_a_fault_has_a_name_that_says_it_all():
    calls = {('fresh', 1, 0): {('write', '/a'): 2, ('read', '/b'): 1}, ('resumed', 2, 1): {('rename', '/c/#'): 1}}
    planned = faults.schedule(calls, seed=0)
    assert [faults.parse(str(fault)) for fault in planned] == planned
    assert planned == faults.schedule(calls, seed=0)
    assert sorted(map(str, planned)) == sorted(map(str, faults.schedule(calls, seed=1)))
    # Of each write: three errors once, two that last, three kills; of a read two and one; of a rename two, two and two.
    assert len(planned) == 2 * 8 + 3 + 6
    assert str(faults.parse('fresh:1:0:read:1:EIO:once')) == 'fresh:1:0:read:1:EIO:once'
    with pytest.raises(ValueError, match='read:1:half'):
        faults.parse('fresh:1:0:read:1:half:once')


def test_of_each_group_one_fault_is_run():
    calls = {
        ('fresh', 1, 0): {('write', '/a'): 9, ('read', '/b'): 9},
        ('resumed', 1, 0): {('write', '/a'): 1, ('write', '/b'): 1},
    }

    groups = {fault.group for fault in faults.schedule(calls, seed=0)}
    drawn = [faults.schedule(calls, seed=seed, each=True) for seed in range(30)]
    assert all({fault.group for fault in each} == groups and len(each) == len(groups) == 19 for each in drawn)
    found = {(fault.start, fault.n) for each in drawn for fault in each if fault.path == '/a'}
    assert found == {('resumed', 1), *(('fresh', n) for n in range(1, 10))}


def test_the_first_faults_of_a_sweep_are_of_different_kinds():
    paths = [f'/checkpoints/#/{part}/ocdbt.process_{host}' for part in ('model', 'optimizer') for host in (0, 1)]
    planned = faults.schedule({('fresh', 2, 0): {('mkdir', path): 2 for path in [*paths, '/a']}}, seed=0, each=True)
    kinds = len({fault.kind for fault in planned})
    assert (len(planned), kinds) == (5 * 6, 2 * 6)  # Of mkdir there are six ways to fail.
    assert len({fault.kind for fault in planned[:kinds]}) == kinds


@pytest.mark.parametrize(
    ('path', 'place'),
    [
        ('/checkpoints/12.partial/model/_METADATA', '/checkpoints/#.partial/model/_METADATA'),
        ('/checkpoints/12', '/checkpoints/#'),
        ('/SHA256SUMS.0123abcd.partial', '/SHA256SUMS.#.partial'),
        ('/checkpoints/2/model/ocdbt.process_1/d/0123456789abcdef0', '/checkpoints/#/model/ocdbt.process_1/d/#'),
        ('/tensorboard/events.out.tfevents.1700000000.host-1.local', '/tensorboard/events.out.*'),
    ],
)
def test_paths_of_one_kind_have_one_name(path, place):
    assert faults.place(path) == place


PROGRAM = """
import os, sys
from bigmodel_jax.reproduce.chaos import shim
folder, order = sys.argv[1], sys.argv[2:]
os.chdir(folder)
shim.arm([folder, *order[:2], *map(int, order[2:]), folder + '.log'])
with open('synced', 'wb', 0) as file:
    file.write(b'12345678')
    os.fsync(file.fileno())
    file.write(b'9')
with open('unsynced', 'wb', 0) as file:
    file.write(b'1234')
os.rename('unsynced', 'renamed')
try:
    with open('last', 'wb', 0) as file:
        file.write(b'12345678')
except OSError as error:
    print(error.errno)
"""


@pytest.mark.parametrize(
    ('order', 'status', 'said', 'left'),
    [
        (('write', '*', 4, shim.Happens.FAIL, errno.ENOSPC, 0), 0, '28', {'synced': 9, 'renamed': 4, 'last': 0}),
        (('write', '*', 4, shim.Happens.HALF, 0, 0), -9, '', {'synced': 9, 'renamed': 4, 'last': 4}),
        (('create', '*', 3, shim.Happens.KILL, 0, 0), -9, '', {'synced': 9, 'renamed': 4}),
        (('create', '*', 3, shim.Happens.POWER, 0, 0), -9, '', {'synced': 8, 'renamed': 0}),
        (('rename', '*', 9, shim.Happens.KILL, 0, 0), 0, '', {'synced': 9, 'renamed': 4, 'last': 8}),
        (('write', '/l#st', 1, shim.Happens.HALF, 0, 0), -9, '', {'synced': 9, 'renamed': 4, 'last': 4}),
        (('write', '/l*', 1, shim.Happens.HALF, 0, 0), -9, '', {'synced': 9, 'renamed': 4, 'last': 4}),
        (('write', '/#', 1, shim.Happens.HALF, 0, 0), 0, '', {'synced': 9, 'renamed': 4, 'last': 8}),
    ],
)
def test_the_library_does_what_it_is_told(library, tmp_path, order, status, said, left):
    """The lengths of the files of a small program, against what POSIX says of its calls."""
    folder = tmp_path / 'folder'
    folder.mkdir()
    command = [sys.executable, '-c', PROGRAM, str(folder), *map(str, order)]
    done = subprocess.run(command, env=os.environ | shim.environment(library), capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (status, said), done.stderr
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == left
