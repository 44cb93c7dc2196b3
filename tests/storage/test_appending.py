"""What cannot be written to a log waits, and comes in order; nothing is written through a link."""

import contextlib
import os
import resource
import signal
import struct
import sys

import pytest
from tensorboardX import record_writer
from tensorboardX.proto import event_pb2

from bigmodel_jax import config
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.run_directory.trackers import boards
from bigmodel_jax.storage import appending, waits


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(waits, 'LOG_S', (0.01,))


@contextlib.contextmanager
def full_disk(size_bytes):
    """No file may grow beyond a size within this context: a real failure, with short writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def write(writer, *steps):
    for step in steps:
        writer.append({'kind': 'slow', 'step': step, 'time': 1.0, 'text': 'x' * 50})


def steps_of(path):
    return [record['step'] for record in event_log.read_all(path)]


@pytest.mark.parametrize('size_bytes', [0, 100, 250, 333])
def test_records_that_found_no_room_are_written_later_and_in_order(tmp_path, capsys, size_bytes):
    path = tmp_path / 'm.jsonl'
    writer = event_log.EventWriter(path)
    with full_disk(size_bytes):
        write(writer, 1, 2, 3, 4, 5)
    assert len(steps_of(path)) < 5
    writer.sync()
    write(writer, 6)
    assert writer.close() is None
    assert steps_of(path) == [1, 2, 3, 4, 5, 6]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2  # Once when it begins, once when it ends.
    assert 'cannot be written: File too large. The run continues' in said[0]
    assert 'can be written again' in said[1]


def test_what_never_found_room_is_told_at_the_end(tmp_path):
    writer = event_log.EventWriter(tmp_path / 'm.jsonl')
    with full_disk(0):
        write(writer, 1, 2, 3)
        lost = writer.close()
    assert lost == f'{tmp_path / "m.jsonl"} lacks its last 3 records'


def test_what_waits_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(appending, 'WAITING_BYTES', 1_000)
    path = tmp_path / 'm.jsonl'
    writer = event_log.EventWriter(path)
    with full_disk(0):
        write(writer, *range(100))
    assert 'lacks its' in writer.close()
    kept = steps_of(path)
    assert 0 < len(kept) < 20
    assert kept == list(range(100 - len(kept), 100))  # The oldest were given up.


def test_a_log_that_was_removed_goes_on_in_a_new_file(tmp_path, capsys):
    path = tmp_path / 'm.jsonl'
    writer = event_log.EventWriter(path)
    write(writer, 1)
    path.unlink()
    write(writer, 2)
    writer.close()
    assert steps_of(path) == [2]
    assert 'm.jsonl was removed or replaced while the run was writing to it' in capsys.readouterr().err


def test_two_that_append_do_not_tear_each_others_lines(tmp_path):
    path = tmp_path / 'm.jsonl'
    one, other = event_log.EventWriter(path), event_log.EventWriter(path)
    for step in range(0, 100, 2):
        write(one, step)
        write(other, step + 1)
    assert steps_of(path) == list(range(100))


def test_events_of_tensorboard_survive_a_full_disk(tmp_path):
    board = boards.open_board(tmp_path, purge_step=1)
    with full_disk(300):
        for step in range(50):
            board.add_scalar('train/loss', step / 2, step)
    board.close()
    (path,) = (tmp_path / boards.FOLDER).iterdir()
    numbers = [(event.step, value.simple_value) for event in events(path) for value in event.summary.value]
    assert numbers == [(step, step / 2) for step in range(50)]


def events(path):
    """Those of a file of TensorBoard, whose records are a length, its checksum, the content, and its checksum."""
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack('<Q', content[:8])
        record, content = content[: length + 16], content[length + 16 :]
        assert struct.unpack('<I', record[8:12])[0] == record_writer.masked_crc32c(record[:8])
        assert struct.unpack('<I', record[-4:])[0] == record_writer.masked_crc32c(record[12:-4])
        yield event_pb2.Event.FromString(record[12:-4])


@pytest.mark.parametrize('name', ['m.jsonl', boards.FOLDER])
def test_nothing_is_written_through_a_link(tmp_path, name):
    outside = tmp_path / 'outside'
    outside.mkdir() if name == boards.FOLDER else outside.write_text('precious')
    (tmp_path / name).symlink_to(outside)
    with pytest.raises(config.InputError, match=f'{name} is a symbolic link to {outside}.*Nothing was changed'):
        event_log.EventWriter(tmp_path / name) if name == 'm.jsonl' else boards.open_board(tmp_path, purge_step=None)
    assert not list(outside.iterdir()) if name == boards.FOLDER else outside.read_text() == 'precious'


def test_a_log_that_cannot_be_a_file_is_refused_at_once(tmp_path):
    (tmp_path / 'm.jsonl').mkdir()
    with pytest.raises(config.InputError, match=r'm\.jsonl cannot be written: Is a directory'):
        event_log.EventWriter(tmp_path / 'm.jsonl')


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='names open files through /proc')
def test_a_record_is_on_disk_after_sync(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, 'fsync', lambda number: synced.append(os.readlink(f'/proc/self/fd/{number}')))
    writer = event_log.EventWriter(tmp_path / 'm.jsonl')
    write(writer, 1)
    writer.sync()
    assert synced == [str(tmp_path / 'm.jsonl')]


def test_what_rewrites_an_object_keeps_what_others_appended(tmp_path):
    """As of an evaluation beside a run in an object store."""
    path = tmp_path / 'm.jsonl'
    path.write_bytes(b'torn')
    one, other = appending.Rewriter(path), appending.Rewriter(path)
    one.append(b'1\n')
    other.append(b'2\n')
    one.sync()
    other.sync()
    one.append(b'3\n')
    assert (one.close(), other.close()) == (None, None)
    assert path.read_bytes() == b'torn\n1\n2\n3\n'
