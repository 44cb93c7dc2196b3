"""The index changes how long a listing takes, and nothing else."""

import json
import os
import pathlib
import random
import shutil
import sqlite3
import subprocess
import sys

import pytest
from catalogue import run_folder

from bigmodel_jax.catalogue import catalogue, catalogued_run, reading
from bigmodel_jax.run_directory import event_log


def rows(root, **how):
    """What is listed, by paths below the root."""
    found = catalogue.find_runs(root, **how).records()
    return {row.pop('path').removeprefix(f'{root}/'): repr(row) for row in found}


def index_of(root):
    return next(root.glob('.runs.*.sqlite'))


@pytest.fixture
def root(twenty, tmp_path):
    """Five of the runs."""
    ignored = shutil.ignore_patterns('.runs.*', 'w128', 'run1*')
    return pathlib.Path(shutil.copytree(twenty, tmp_path / 'runs', ignore=ignored))


@pytest.fixture
def reads(monkeypatch):
    """The directories that are read, as they are."""
    found = []

    def read(path):
        found.append(path)
        return original(path)

    original = reading.read
    monkeypatch.setattr(reading, 'read', read)
    return found


def test_what_has_not_changed_is_not_read_again(root, reads):
    first = rows(root)
    assert len(reads) == 5
    assert rows(root) == first
    assert len(reads) == 5
    moved = root.rename(root.parent / 'moved')  # The index moves with its root.
    assert rows(moved) == first
    assert len(reads) == 5
    assert rows(moved, rebuild=True) == first
    assert len(reads) == 10


def test_every_change_shows(root):
    """After each of many random changes a listing is the same with the old index and without any."""
    draw = random.Random(0)
    rows(root)
    for number in range(12):
        runs = sorted(path.parent for path in root.rglob('experiment.json'))
        run = draw.choice(runs)
        change = number % 6
        if change == 0:
            event_log.append(run / event_log.FILE, {'kind': 'train', 'step': 20, 'metrics': {'loss': draw.random()}})
        elif change == 1:  # Of the same length, and with the old time.
            times = (run / 'experiment.json').stat()
            text = (run / 'experiment.json').read_text()
            seed = json.loads(text)['seed']
            (run / 'experiment.json').write_text(text.replace(f'"seed": {seed}', f'"seed": {(seed + 1) % 10}'))
            os.utime(run / 'experiment.json', ns=(times.st_atime_ns, times.st_mtime_ns))
        elif change == 2:
            shutil.rmtree(run)
        elif change == 3:
            run_folder.write(root / f'new{number}', seed=number)
        elif change == 4:
            (run / 'environment.json').unlink(missing_ok=True)
        else:
            run.rename(root / f'renamed{number}')
        with_index = rows(root)
        assert with_index == rows(root, rebuild=True)


def test_a_damaged_index_is_made_anew(root):
    expected = rows(root)
    whole = index_of(root).read_bytes()
    draw = random.Random(1)
    damaged = [
        b'',
        b'no index',
        whole[:5_000],
        draw.randbytes(len(whole)),
        whole[:100] + draw.randbytes(len(whole) - 100),
    ]
    for content in damaged:
        index_of(root).write_bytes(content)
        assert rows(root) == expected
        assert rows(root) == expected
        assert sqlite3.connect(index_of(root)).execute('SELECT count(*) FROM runs').fetchone() == (5,)
    for position in range(100, len(whole), len(whole) // 12):
        index_of(root).write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        assert rows(root) == expected, position


def test_entries_of_another_form_are_not_used(root):
    expected = rows(root)
    for statement in (
        "UPDATE runs SET content = '{}'",
        "UPDATE runs SET content = replace(content, 'finished', 'stopped'), checksum = checksum + 1",
        "UPDATE runs SET content = '[' || content",
        'UPDATE runs SET content = NULL',
        "UPDATE runs SET stamp = 'x'",
        'UPDATE runs SET path = CAST(path AS TEXT)',
        'DELETE FROM runs',
        'DROP TABLE runs',
        'ALTER TABLE runs RENAME COLUMN stamp TO x',
        "DROP TABLE runs; CREATE VIEW runs AS SELECT 'a' AS path, 'b' AS stamp, 'c' AS content, 1 AS checksum",
    ):
        database = sqlite3.connect(index_of(root))
        database.executescript(statement)
        database.close()
        assert rows(root) == expected, statement
        assert rows(root) == expected, statement


def test_a_root_that_cannot_be_written_has_its_index_in_the_cache(root, tmp_path, monkeypatch, reads):
    monkeypatch.setenv('BIGMODEL_JAX_CACHE', str(tmp_path / 'cache'))
    (root / f'.runs.v{catalogued_run.VERSION}.sqlite').mkdir()  # Also root cannot write there.
    found = catalogue.find_runs(root)
    assert f'so its index is {tmp_path / "cache"}' in found.notes[0]
    assert len(catalogue.find_runs(root)) == 5
    assert len(reads) == 5
    shutil.rmtree(tmp_path / 'cache')
    (tmp_path / 'cache').write_text('no directory')
    found = catalogue.find_runs(root)
    assert 'without an index' in found.notes[0]
    assert len(found) == 5


def test_an_index_that_is_a_link_is_not_followed(root, tmp_path, monkeypatch):
    monkeypatch.setenv('BIGMODEL_JAX_CACHE', str(tmp_path / 'cache'))
    (tmp_path / 'precious').write_text('kept')
    (root / f'.runs.v{catalogued_run.VERSION}.sqlite').symlink_to(tmp_path / 'precious')
    assert len(catalogue.find_runs(root)) == 5
    assert (tmp_path / 'precious').read_text() == 'kept'


def test_nothing_is_written_into_a_run(root):
    run = next(root.rglob('experiment.json')).parent
    before = sorted(os.listdir(run))
    assert len(catalogue.find_runs(run)) == 1
    assert sorted(os.listdir(run)) == before


def test_processes_may_list_one_root_at_once(root):
    """All print the same, without JAX, and leave a whole index."""
    program = (
        'import sys\nfrom bigmodel_jax import __main__\n'
        'status = __main__.main(argv=sys.argv[1:])\nsys.exit(status or 3 * ("jax" in sys.modules))'
    )
    command = [sys.executable, '-c', program, 'runs', str(root), '--format', 'json']
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    printed = [each.communicate() for each in started]
    assert [each.returncode for each in started] == [0, 0], printed
    assert len({out for out, _ in printed}) == 1
    assert {err for _, err in printed} == {b''}
    assert sqlite3.connect(index_of(root)).execute('PRAGMA integrity_check').fetchone() == ('ok',)
    assert sqlite3.connect(index_of(root)).execute('SELECT count(*) FROM runs').fetchone() == (5,)
