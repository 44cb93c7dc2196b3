"""What a run keeps beside its checkpoints is what was written or refused by name; a failing storage is one message."""

import errno
import hashlib
import os
import re
import shutil

import pytest
from etils import epath

from bigmodel_jax import __main__, config, verbs
from bigmodel_jax.run_directory import workdir
from bigmodel_jax.runs import directory
from bigmodel_jax.storage import durable_files, sums
from bigmodel_jax.train import loop
from bigmodel_jax.train.recovery import gaps
from runs import quick


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A finished run."""
    path = tmp_path_factory.mktemp('trained') / 'run'
    return path, loop.train(quick.experiment(), path)


@pytest.fixture
def copy(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / 'run')
    return tmp_path / 'run'


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_every_fact_beside_the_checkpoints_has_a_checksum_that_others_can_compare(trained):
    lines = [line.split('  ') for line in (trained[0] / durable_files.SUMS).read_text().splitlines()]
    assert {name for _, name in lines} == {durable_files.EXPERIMENT, durable_files.ENVIRONMENT}
    for wanted, name in lines:
        assert hashlib.sha256((trained[0] / name).read_bytes()).hexdigest() == wanted


def test_a_flipped_bit_in_the_experiment_is_refused_by_name(copy):
    flip(copy / durable_files.EXPERIMENT)
    for use in (lambda: directory.open_run(copy), lambda: workdir.check(copy, quick.experiment())):
        with pytest.raises(config.InputError, match=r'experiment\.json is damaged: its SHA-256'):
            use()


def test_a_flipped_bit_in_a_tokenizer_is_refused_by_name(tmp_path):
    tokenizer = {'a.json': b'{"merges": ["a b", "b c"]}', 'tokenizer.json': b'{}'}
    workdir.add_tokenizer(epath.Path(tmp_path), tokenizer)
    sums.check(epath.Path(tmp_path), 'tokenizer')
    flip(tmp_path / 'tokenizer' / 'a.json')
    with pytest.raises(config.InputError, match=r'tokenizer/a\.json is damaged: its SHA-256'):
        sums.check(epath.Path(tmp_path), 'tokenizer')
    workdir.add_tokenizer(epath.Path(tmp_path), tokenizer)  # A session that has the tokenizer mends it.
    sums.check(epath.Path(tmp_path), 'tokenizer')


def test_a_damaged_environment_is_kept_and_does_not_end_a_run_that_needs_none(copy, capsys):
    flip(copy / durable_files.ENVIRONMENT)
    workdir.add_session(epath.Path(copy), {'step': 6})
    assert 'environment.json is damaged' in capsys.readouterr().err
    assert durable_files.read_json(epath.Path(copy / durable_files.ENVIRONMENT)) == [{'step': 6}]
    assert (copy / 'environment.json.damaged').exists()


def test_a_kill_between_a_file_and_its_checksum_leaves_a_good_run(copy, monkeypatch):
    write, calls = durable_files.write, []

    for killed_at in range(3):
        calls.clear()

        def dying(path, content, killed_at=killed_at):
            if len(calls) == killed_at:
                raise KeyboardInterrupt
            calls.append(path)
            write(path, content)

        monkeypatch.setattr(durable_files, 'write', dying)
        with pytest.raises(KeyboardInterrupt):
            sums.write(epath.Path(copy), {durable_files.ENVIRONMENT: b'[%d]' % killed_at})
        durable_files.read_json(epath.Path(copy / durable_files.ENVIRONMENT))


# ---- the command line -----------------------------------------------------------------------------------------------


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_report_that_cannot_be_written_costs_neither_the_digest_nor_the_exit_status(tmp_path, monkeypatch, capsys):
    write = durable_files.write
    monkeypatch.setattr(
        durable_files, 'write', lambda path, content: (full if path.name == 'report.html' else write)(path, content)
    )
    assert __main__.main(argv=['train', quick.__file__, '--workdir', str(tmp_path / 'run')]) == 0
    out, err = capsys.readouterr()
    assert 'digest of the state at step 6: ' in out
    assert re.search(r'no report: \S+report\.html cannot be written: No space left on device', err)
    assert 'Traceback' not in err


def test_a_storage_that_fails_is_one_message_whatever_the_verb(monkeypatch, capsys):
    monkeypatch.setattr(verbs, 'describe', full)
    assert __main__.main(argv=['describe', quick.__file__]) == 1
    said = capsys.readouterr().err
    assert said.startswith('error: [Errno 28] No space left on device. The storage failed.')
    assert 'Traceback' not in said


@pytest.mark.parametrize(
    ('text', 'storage'),
    [
        ('UNKNOWN: Error reading local file "/r/d/5": Input/output error [os_error_code=\'5\']', True),
        ('RESOURCE_EXHAUSTED: Error writing local file "/r/d/5" [os_error_code=\'28\']', True),
        ('Error opening "zarr3" driver: [OS error 24: EMFILE Too many open files]', True),
        ('UNAVAILABLE: no answer', True),
        ('NOT_FOUND: Error opening local file "/r/d/5" [os_error_code=\'2\']', False),
        ('Error reading local file: [OS error 20: ENOTDIR Not a directory]', False),
        ('DATA_LOSS: Error decoding b-tree node: CRC-32C checksum verification failed', False),
    ],
)
def test_what_tensorstore_says_of_the_storage_is_told_from_damage(text, storage):
    error = RuntimeError('A checkpoint cannot be read')
    error.__cause__ = ValueError(text)
    assert durable_files.is_of_the_storage(error) == storage


def test_a_place_where_no_run_can_be_is_one_message():
    for place in ('file:///tmp/run', 'memory://run', 'http://host/run'):
        with pytest.raises(config.InputError, match='runs are not kept in'):
            directory.open_run(place)
        with pytest.raises(config.InputError, match='runs are not kept in'):
            loop.train(quick.experiment(), place)


# ---- logs -----------------------------------------------------------------------------------------------------------


def test_a_run_that_began_at_a_checkpoint_of_another_lacks_nothing(tmp_path):
    other = epath.Path(tmp_path / 'other')
    workdir.create(other, quick.experiment())
    workdir.add_session(other, {'step': 6, 'started': '2025-01-01T00:00:00+00:00', 'mesh': {'data': 1}})
    assert gaps.missing(other, {'step': 6, 'reported': 6}) is None
    (other / durable_files.ENVIRONMENT).unlink()
    assert 'lacks steps 1 to 6' in gaps.missing(other, {'step': 6, 'reported': 6})
