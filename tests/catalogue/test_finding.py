"""Which directories are runs, and what is known of each, whatever lies there."""

import copy
import functools
import json
import math
import operator
import os
import random
import shutil
import threading
import time
from typing import ClassVar

import fsspec
import pytest
from catalogue import run_folder
from etils import epath
from fsspec.implementations import memory

from bigmodel_jax import __main__, config
from bigmodel_jax.catalogue import catalogue
from bigmodel_jax.cli import runs as verb
from bigmodel_jax.run_directory import event_log, locking
from bigmodel_jax.runs import directory
from bigmodel_jax.storage import lines


def main(*arguments):
    return __main__.main(argv=['runs', *arguments])


def by_name(root):
    """Name of a run's directory -> its row."""
    return {row['path'].rpartition('/')[2]: row for row in catalogue.find_runs(root).records()}


def test_a_row_says_what_the_run_says(twenty):
    for row in catalogue.find_runs(twenty).records()[:4]:
        run = directory.open_run(row['path'])
        session = run.environment[-1]
        assert row['state'] == 'finished'
        assert (row['name'], row['step'], row['steps'], row['digest']) == (run.name, run.step, run.steps, run.digest)
        assert (row['seconds'], row['parameters'], row['segments']) == (run.seconds, run.parameters, 1)
        assert row['seed'] == run.stored['seed']
        assert row['commit'] == session['git']['commit']
        assert row['devices'] == '8 x cpu'
        assert row['versions.jax'] == session['versions']['jax']
        assert row['model.block.ffn.class'] == 'Mlp'
        assert row['optimizer.schedule.peak'] == run.stored['optimizer']['schedule']['peak']
        for name in run.metric_names:
            values = run.metrics(name)[1]
            assert row[name] == values[-1]
            better = {'validation/loss': min, 'loss': min, 'validation/accuracy': max}.get(name)
            assert row[f'best({name})'] == (None if better is None else better(values))


def test_states(tmp_path):
    beginning, *measured, end = run_folder.history(1.0)
    histories = {
        'finished': [beginning, *measured, end],
        'stopped': [beginning, *measured, {**end, 'kind': 'stop', 'reason': 'stop_after'}],
        'interrupted': [beginning, *measured],
        'not started': [],
    }
    for name, records in histories.items():
        run_folder.write(tmp_path / name, records=records)
    run_folder.write(tmp_path / 'running', records=[beginning])
    with locking.owned(tmp_path / 'running', print):
        assert {name: row['state'] for name, row in by_name(tmp_path).items()} == {
            name: name for name in [*histories, 'running']
        }
    assert by_name(tmp_path)['running']['state'] == 'interrupted'
    # The lock of a process that died, or of another machine, which renews it for as long as it lives.
    there = {'id': 'x', 'host': 'elsewhere', 'machine': 'elsewhere', 'pid': 1, 'process_started': '1'}
    (tmp_path / 'running' / 'lock.json').write_text(json.dumps(there))
    assert by_name(tmp_path)['running']['state'] == 'running'
    os.utime(tmp_path / 'running' / 'lock.json', (time.time() - 2 * locking.LEASE_S,) * 2)
    assert by_name(tmp_path)['running']['state'] == 'interrupted'
    assert by_name(tmp_path)['stopped']['ending'] == 'stopped by stop_after'


def test_runs_are_found_wherever_they_are_and_once(tmp_path):
    root = tmp_path / 'runs'
    run_folder.write(root / 'a')
    run_folder.write(root / 'a' / 'inside')
    run_folder.write(root / 'deep' / 'er' / 'b')
    run_folder.write(tmp_path / 'scratch' / 'c')
    run_folder.write(root / '.hidden' / 'd')
    checkpoint = root / 'a' / 'checkpoints' / '20'
    run_folder.write(checkpoint)
    run_folder.write(root / 'copied_checkpoint')
    (root / 'copied_checkpoint' / 'checkpoint.json').write_text('{}')
    (root / 'link').symlink_to(tmp_path / 'scratch')
    (root / 'again').symlink_to(root / 'deep')
    (root / 'deep' / 'loop').symlink_to(root)
    (root / 'self').symlink_to('self')
    (root / 'dangling').symlink_to('nowhere')
    (root / 'metrics.jsonl').write_text('of somebody else')
    found = [run.facts['path'] for run in catalogue.find_runs(root, root / 'deep')]
    assert found == [f'{root}/{name}' for name in ('a', 'a/inside', 'deep/er/b', 'link/c')]


def test_a_trial_knows_its_sweep_and_arm(tmp_path):
    trials = [{'arm': 'pre', 'seed': 0, 'name': 'pre-seed0-0123456789ab'}]
    run_folder.write(tmp_path / 'norms' / 'trials' / 'pre-seed0-0123456789ab')
    run_folder.write(tmp_path / 'norms' / 'trials' / 'left-seed0-0123456789ab')
    run_folder.write(tmp_path / 'alone')
    (tmp_path / 'norms' / 'sweep.json').write_text(json.dumps({'trials': trials}))
    rows = by_name(tmp_path)
    assert (rows['pre-seed0-0123456789ab']['sweep'], rows['pre-seed0-0123456789ab']['arm']) == (
        f'{tmp_path}/norms',
        'pre',
    )
    assert (rows['left-seed0-0123456789ab']['sweep'], rows['left-seed0-0123456789ab']['arm']) == (
        f'{tmp_path}/norms',
        None,
    )
    assert rows['alone']['sweep'] is None
    (tmp_path / 'norms' / 'sweep.json').write_text('[[')
    assert len(by_name(tmp_path)) == 3


# ---- what is damaged ------------------------------------------------------------------------------------------------

GARBAGE = bytes(range(256)) * 8_192  # Two megabytes, with 8,192 ends of lines.


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def link_to_itself(path):
    path.unlink()
    path.symlink_to(path.name)


def folder(path):
    path.unlink()
    path.mkdir()


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    'missing': lambda path: path.unlink(),
    'empty': lambda path: path.write_bytes(b''),
    'half': half,
    'garbage': lambda path: path.write_bytes(GARBAGE),
    'deep': lambda path: path.write_bytes(b'[' * 2**20),
    'nan': lambda path: path.write_text('{"name": NaN, "steps": NaN}'),
    'other': lambda path: path.write_text('{"name": "x", "steps": 3, "seed": 10e999, "model": {"class": []}}'),
    'list': lambda path: path.write_text('[[1], null, {"started": 3}]'),
    'wide': lambda path: path.write_text(
        json.dumps({'name': 'x', 'steps': 3, 'model': {str(i): i for i in range(30_000)}})
    ),
    'fifo': fifo,
    'link': link_to_itself,
    'folder': folder,
}


# A line that was cut is what is left by a run that was killed, and so is a log without a record.
HARMLESS = {
    'experiment.json': (),
    'environment.json': ('missing',),
    'segments.json': ('missing',),
    'metrics.jsonl': ('missing', 'empty', 'half'),
}


@pytest.mark.parametrize('file', HARMLESS)
def test_a_damaged_file_is_a_row_with_the_reason(tmp_path, capfd, file):
    run_folder.write(tmp_path / 'whole')
    for name, damage in DAMAGE.items():
        run = run_folder.write(tmp_path / name)
        (run / 'segments.json').write_text('[{"after": 0, "changes": []}]')
        damage(run / file)
        run_folder.settle(run)
    for _ in ('from the directories', 'from the index'):
        rows = by_name(tmp_path)
        assert set(rows) == {'whole', *DAMAGE}
        assert {name for name, row in rows.items() if row['damage'] is None} == {'whole', *HARMLESS[file]}
        for name in ('garbage', 'fifo', 'link', 'folder'):
            assert file in rows[name]['damage'], rows[name]
        assert rows['garbage']['state'] == ('damaged' if file in ('experiment.json', 'metrics.jsonl') else 'finished')
    for arguments in ([], ['--format', 'json'], ['--format', 'csv'], ['--group', 'seed'], ['--tried', 'model']):
        assert main(str(tmp_path), *arguments) == 0
        assert 'Traceback' not in capfd.readouterr().err


WRONG = (None, 'x', -1, 1.5, [], {}, [[]], {'class': 7}, 10**400, '\ud800', True, math.nan, '\x00', {'a': {'b': 1}})


def places(node, path=()):
    """Every place in JSON data."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        yield (*path, name)
        yield from places(value, (*path, name))


def test_no_wrong_value_anywhere_breaks_a_list(tmp_path, capfd):
    """A value is replaced by another in each of many runs, and the checksum of its line holds."""
    draw = random.Random(0)
    whole = run_folder.write(tmp_path / 'whole')
    session, (record, *_) = {'after': 0, 'changes': []}, run_folder.history(1.0)[2:]
    for number in range(40):
        run = shutil.copytree(whole, tmp_path / f'{number}')
        file = ('experiment.json', 'environment.json', 'segments.json', event_log.FILE, 'lock.json')[number % 5]
        lock = {'id': 'a', 'machine': None, 'pid': 1, 'process_started': '1'}
        other = {'segments.json': [session], event_log.FILE: record, 'lock.json': lock}
        data = copy.deepcopy(other[file]) if file in other else json.loads((run / file).read_text())
        *above, last = draw.choice(list(places(data)))
        functools.reduce(operator.getitem, above, data)[last] = draw.choice(WRONG)
        text = json.dumps(data)
        (run / file).write_text(f'{lines.seal(text)}\n' if file == event_log.FILE else text)
        run_folder.settle(run)
    first = by_name(tmp_path)
    assert set(first) == {'whole', *map(str, range(40))}
    assert first['whole']['damage'] is None
    for arguments in (
        ['--sort', 'seed,name,steps'],
        ['--group', 'name,model'],
        ['--tried', 'data'],
        ['--format', 'json'],
    ):
        assert main(str(tmp_path), *arguments) == 0
        assert capfd.readouterr().err == ''


def test_a_directory_that_cannot_be_listed_is_a_note(tmp_path, monkeypatch):
    run_folder.write(tmp_path / 'a')
    monkeypatch.chdir(tmp_path)
    for _ in range(20):  # A path that is too long for the operating system, unlike the steps to it.
        os.mkdir('x' * 250)
        os.chdir('x' * 250)
    found = catalogue.find_runs(tmp_path)
    assert len(found) == 1
    assert 'could not be listed: File name too long' in found.notes[0]


@pytest.mark.parametrize('root', ['nowhere', 'file', 'gs://bucket/x', 'ftp://host/x'])
def test_a_root_that_is_none_is_one_message(tmp_path, monkeypatch, capfd, root):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').write_text('x')
    with pytest.raises(config.InputError):
        catalogue.find_runs(root)
    assert main(root) == 2
    error = capfd.readouterr().err
    assert error.startswith('error: ')
    assert error.count('\n') == 1


def test_no_runs_are_no_error(tmp_path, capfd):
    assert main(str(tmp_path), '--format', 'json') == 0
    printed = capfd.readouterr()
    assert (json.loads(printed.out), 'There are no runs below' in printed.err) == ([], True)


def test_a_run_is_read_while_it_is_written(tmp_path):
    """A listing shows a state that the run was in, and the last listing shows the last one."""
    run = run_folder.write(tmp_path / 'run', records=[])
    records = run_folder.history(1.0)
    losses = [record['metrics']['loss'] for record in records if record['kind'] == 'train']

    def work():
        for record in records:
            event_log.append(run / event_log.FILE, record)
            time.sleep(0.01)

    writer = threading.Thread(target=work)
    writer.start()
    seen = []
    while writer.is_alive():
        seen.append(catalogue.find_runs(tmp_path).records()[0])
    writer.join()
    assert all(row['damage'] is None and row.get('loss') in [None, *losses] for row in seen)
    assert [row['step'] for row in seen] == sorted(row['step'] for row in seen)
    assert by_name(tmp_path)['run']['state'] == 'finished'


def test_the_verb_needs_no_jax():
    assert not verb.VERB.uses_jax


# ---- object stores --------------------------------------------------------------------------------------------------


class Bucket(memory.MemoryFileSystem):
    """What stands for Google's servers, which no test reaches."""

    protocol = ('gs', 'gcs')
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = ['']

    problem: ClassVar[Exception | None] = None

    def info(self, path, **kwargs):
        if Bucket.problem is not None:
            raise Bucket.problem
        found = super().info(path, **kwargs)
        return found | ({'mtime': found['created']} if 'created' in found else {})


def test_runs_in_an_object_store(tmp_path, monkeypatch):
    fsspec.register_implementation('gcs', Bucket, clobber=True)
    monkeypatch.setattr(Bucket, 'problem', None)
    (tmp_path / 'gcsfs.py').touch()  # Whether the library is there is all that is asked of it.
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv('BIGMODEL_JAX_CACHE', str(tmp_path / 'cache'))
    local = run_folder.write(tmp_path / 'local' / 'run')
    run_folder.write(tmp_path / 'local' / 'deep' / 'er', seed=1)
    for path in [path for path in (tmp_path / 'local').rglob('*') if path.is_file()]:
        (epath.Path('gs://bucket/runs') / path.relative_to(tmp_path / 'local')).write_bytes(path.read_bytes())
    expected = catalogue.find_runs(local.parent).records()
    for _ in range(2):
        found = catalogue.find_runs('gs://bucket/runs')
        rows = [{**row, 'path': row['path'].replace('gs://bucket/runs', str(local.parent))} for row in found.records()]
        assert rows == expected
    assert 'is in an object store, so its index is' in found.notes[0]
    (epath.Path('gs://bucket/runs') / 'run' / 'experiment.json').write_text('{')
    assert by_name('gs://bucket/runs')['run']['state'] == 'damaged'
    Bucket.problem = LookupError('no credentials')  # Libraries of stores have errors of their own.
    with pytest.raises(config.InputError, match='gs://bucket/runs cannot be read: no credentials'):
        catalogue.find_runs('gs://bucket/runs')
