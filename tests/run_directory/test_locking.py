"""One process at a time trains in a work directory, and a lock outlives nobody for long."""

import errno
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.run_directory import event_log, locking
from bigmodel_jax.train import loop
from runs import quick


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Leases of a fraction of a second."""
    for name, value in {'RENEW_S': 0.05, 'LEASE_S': 0.4, 'POLL_S': 0.02}.items():
        monkeypatch.setattr(locking, name, value)


def lock(directory, **owner):
    """The lock of another process; by default of one that lives, on this machine."""
    path = directory / locking.FILE
    mine = locking._owner() | {'id': 'other', 'host': 'elsewhere'} | owner
    path.write_text(json.dumps(mine))
    return path


def dead_process():
    process = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
    started = locking._started(process.pid)
    process.communicate(b'\n')
    return {'pid': process.pid, 'process_started': started}


def owned(directory):
    said = []
    with locking.owned(epath.Path(directory), said.append) as guard:
        guard()
        assert (directory / locking.FILE).exists()
    assert not (directory / locking.FILE).exists()
    return said


def test_a_second_training_in_one_directory_is_refused_before_it_writes(tmp_path):
    lock(tmp_path, since='2026-01-02T03:04:05+00:00')
    with pytest.raises(config.InputError) as error:
        loop.train(quick.experiment(), tmp_path)
    assert f'process {os.getpid()} on elsewhere' in str(error.value)
    assert 'since 2026-01-02T03:04:05' in str(error.value)
    assert 'another --workdir' in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [locking.FILE]


def test_a_lock_of_a_process_that_died_here_is_taken_over_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, 'LEASE_S', 1e9)
    dead = dead_process()
    lock(tmp_path, **dead)
    assert owned(tmp_path) == [f'the lock of process {dead["pid"]} on elsewhere, which is gone, was taken over']
    # The number of a process may be given to another one.
    lock(tmp_path, pid=os.getpid(), process_started='1')
    assert len(owned(tmp_path)) == 1


def test_a_lock_from_before_this_machine_was_started_is_taken_over_at_once(tmp_path, monkeypatch):
    if locking._installation() is None:
        pytest.skip('this machine has no /etc/machine-id')
    monkeypatch.setattr(locking, 'LEASE_S', 1e9)
    path = lock(tmp_path, machine='this one, at an earlier start')
    before = locking._booted() - 1
    os.utime(path, (before, before))
    assert locking.in_use(epath.Path(tmp_path)) is None
    assert owned(tmp_path) == [f'the lock of process {os.getpid()} on elsewhere, which is gone, was taken over']


def test_a_lock_of_a_copy_of_this_machine_that_was_renewed_since_the_start_is_waited_for(tmp_path):
    lock(tmp_path, machine='a copy of the disk, running somewhere else')
    waiting, taken = owned(tmp_path)
    assert ('waiting up to' in waiting, 'gave no sign of life' in taken) == (True, True)


def test_a_lock_of_another_machine_is_taken_over_when_it_shows_no_sign_of_life(tmp_path):
    lock(tmp_path, machine='another')
    began = time.monotonic()
    waiting, taken = owned(tmp_path)
    assert time.monotonic() - began >= locking.LEASE_S
    assert 'waiting up to' in waiting
    assert 'gave no sign of life' in taken


def test_a_lock_of_another_machine_that_shows_signs_of_life_is_respected(tmp_path):
    path, stop = lock(tmp_path, machine='another'), threading.Event()

    def live():
        while not stop.wait(0.05):
            os.utime(path)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(config.InputError, match=r'is in use: process \d+ on elsewhere'):
            owned(tmp_path)
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize('content', ['', '{', '[]', '{"pid": 3}', '\0' * 50])
def test_a_lock_that_cannot_be_read_is_waited_for_like_one_of_another_machine(tmp_path, content):
    (tmp_path / locking.FILE).write_text(content)
    assert 'taken over' in owned(tmp_path)[-1]


def test_who_lost_the_lock_writes_nothing_more(tmp_path):
    """As a process that was suspended while another machine took over."""
    with locking.owned(epath.Path(tmp_path), print) as guard:
        writer = event_log.EventWriter(tmp_path / event_log.FILE, guard=guard)
        writer.append({'kind': 'start', 'step': 0})
        before = (tmp_path / event_log.FILE).read_bytes()
        path = lock(tmp_path, machine='another')
        time.sleep(4 * locking.RENEW_S)
        with pytest.raises(locking.DirectoryInUse, match=r'was taken over by process \d+ on elsewhere'):
            guard()
        with pytest.raises(locking.DirectoryInUse):
            writer.append({'kind': 'train', 'step': 1})
        writer.abandon()
        assert (tmp_path / event_log.FILE).read_bytes() == before
    assert json.loads(path.read_text())['id'] == 'other'  # Nor does it remove the lock.


def test_a_lock_that_somebody_removed_is_made_again(tmp_path):
    with locking.owned(epath.Path(tmp_path), print) as guard:
        (tmp_path / locking.FILE).unlink()
        deadline = time.monotonic() + 20
        while not (tmp_path / locking.FILE).exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        guard()


def test_a_file_system_without_hard_links_has_locks_as_well(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, 'link', unsupported)
    with locking.owned(epath.Path(tmp_path), print) as guard:
        guard()
        with pytest.raises(config.InputError, match='is in use'):
            owned(tmp_path)
    assert owned(tmp_path) == []


def test_of_many_that_find_a_dead_lock_one_gets_it(tmp_path):
    lock(tmp_path, **dead_process())
    got, refused, everyone = [], [], threading.Barrier(6)

    def start():
        everyone.wait()
        try:
            with locking.owned(epath.Path(tmp_path), lambda text: None):
                got.append(1)
                while len(got) + len(refused) < 6:
                    time.sleep(0.01)
        except config.InputError:
            refused.append(1)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(got), len(refused)) == (1, 5)


def test_a_link_in_the_place_of_the_lock_is_refused(tmp_path):
    (tmp_path / locking.FILE).symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(config.InputError, match='is a symbolic link'):
        owned(tmp_path)
