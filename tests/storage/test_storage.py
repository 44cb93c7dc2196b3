"""A storage that fails for a while costs nothing; what it gave is on disk before anything relies on it."""

import builtins
import errno
import os
import pathlib
import re
import shutil
import sys

import orbax.checkpoint as ocp
import pytest
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.checkpoints import checkpoints, listing
from bigmodel_jax.experiment import Checkpoints
from bigmodel_jax.parallel import sharding
from bigmodel_jax.run_directory import event_log, workdir
from bigmodel_jax.runs import directory
from bigmodel_jax.storage import durable_files, integrity, sums, waits
from bigmodel_jax.train import loop, preparation
from bigmodel_jax.train.recovery import gaps
from runs import quick

OLD, NEW = 4, 6
POLICY = Checkpoints(every_steps=2, keep_last=2)


@pytest.fixture(scope='module')
def run():
    return preparation.build(quick.experiment())


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A finished run with checkpoints of two steps, and its digest."""
    directory = tmp_path_factory.mktemp('trained') / 'run'
    experiment = config.vary(quick.experiment(), {'checkpoints': POLICY})
    return directory, loop.train(experiment, directory)


@pytest.fixture
def copy(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / 'run')
    return tmp_path / 'run'


@pytest.fixture
def failing(monkeypatch):
    """Lets Python's opening of files fail whose path matches, so many times."""
    monkeypatch.setattr(waits, 'OPERATION_S', (0.01, 0.01, 0.01))
    plain = builtins.open

    def fail(part, number, times=10**9):
        left = [times]

        def opened(path, *args, **kwargs):
            if isinstance(path, str | os.PathLike) and part in os.fspath(path) and left[0]:
                left[0] -= 1
                raise OSError(number, os.strerror(number), os.fspath(path))
            return plain(path, *args, **kwargs)

        monkeypatch.setattr(builtins, 'open', opened)

    yield fail
    monkeypatch.setattr(builtins, 'open', plain)


def restore(run, directory, policy=POLICY):
    with sharding.use(run.place), checkpoints.Checkpointer(epath.Path(directory), policy) as store:
        _, position = store.restore_newest(run.spec.abstract, run.spec.shardings)
        return position['step'], store.damage


def left(directory):
    return sorted(path.name for path in (directory / durable_files.CHECKPOINTS).iterdir())


# ---- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('number', [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM])
@pytest.mark.parametrize('part', ['checkpoint.json', '_METADATA', 'experiment.json'])
def test_a_read_that_fails_for_a_moment_is_no_damage(run, copy, failing, part, number):
    failing(f'run/{"" if part == "experiment.json" else f"checkpoints/{NEW}"}', number, times=2)
    assert restore(run, copy) == (NEW, [])
    assert left(copy) == [str(OLD), str(NEW)]


@pytest.mark.parametrize('part', ['checkpoint.json', '_METADATA'])
def test_a_checkpoint_that_cannot_be_read_is_neither_damaged_nor_moved(run, copy, failing, part):
    failing(f'checkpoints/{NEW}/{"" if part == "checkpoint.json" else "model"}', errno.EIO)
    with pytest.raises(config.InputError, match=rf'checkpoints/{NEW} could not be read: .*Input/output error') as error:
        restore(run, copy)
    assert 'may be undamaged' in str(error.value)
    assert left(copy) == [str(OLD), str(NEW)]
    assert not (copy / listing.DAMAGED).exists()


@pytest.mark.parametrize('number', [errno.EIO, errno.EACCES])
def test_an_old_checkpoint_that_cannot_be_read_is_left_out_and_kept(run, copy, failing, number):
    failing(f'{OLD}/{integrity.RECORD}', number)
    step, said = restore(run, copy)
    assert step == NEW
    assert len(said) == 1
    assert f'checkpoints/{OLD} could not be read: ' in said[0]
    assert said[0].endswith('It is not used.')
    assert ('Give this user the right' in said[0]) == (number == errno.EACCES)
    assert left(copy) == [str(OLD), str(NEW)]


def test_a_checkpoint_that_the_run_deletes_while_it_is_read_gives_way_to_the_newest(run, copy, monkeypatch):
    """As of a run that keeps one checkpoint, read by another process."""
    shutil.move(copy / durable_files.CHECKPOINTS / str(NEW), copy / 'later')
    check = integrity.check

    def saved_meanwhile(directory, **how):
        if (copy / 'later').exists():
            shutil.move(copy / 'later', copy / durable_files.CHECKPOINTS / str(NEW))
            shutil.rmtree(directory)
        return check(directory, **how)

    monkeypatch.setattr(integrity, 'check', saved_meanwhile)
    assert restore(run, copy, None) == (NEW, [])


def test_a_checkpoint_that_was_asked_for_and_is_deleted_meanwhile_is_not_called_damaged(run, copy, monkeypatch):
    check = integrity.check

    def deleted_meanwhile(directory, **how):
        shutil.rmtree(directory)
        return check(directory, **how)

    monkeypatch.setattr(integrity, 'check', deleted_meanwhile)
    words = r'The run deleted checkpoint \S+6 while .*there are 4\.'
    with (
        sharding.use(run.place),
        checkpoints.Checkpointer(epath.Path(copy), None) as store,
        pytest.raises(config.InputError, match=words),
    ):
        store.restore_model(run.spec.abstract, run.spec.shardings, NEW)


# ---- setting aside --------------------------------------------------------------------------------------------------


def harm(directory):
    (directory / durable_files.CHECKPOINTS / str(NEW) / 'model' / '_METADATA').write_text('')


def test_damaged_checkpoints_on_another_file_system_are_set_aside_there(run, copy, tmp_path_factory):
    shared = pathlib.Path('/dev/shm')
    if not shared.is_dir() or shared.stat().st_dev == copy.stat().st_dev:
        pytest.skip('needs a second file system')
    there = shared / f'bigmodel_jax-test-{os.getpid()}'
    shutil.move(copy / durable_files.CHECKPOINTS, there)
    try:
        (copy / durable_files.CHECKPOINTS).symlink_to(there)
        harm(copy)
        step, (said,) = restore(run, copy)
        assert step == OLD
        assert 'is damaged' in said
        assert (there / listing.DAMAGED / str(NEW) / 'model').is_dir()
        assert restore(run, copy) == (OLD, [])
    finally:
        shutil.rmtree(there)


def test_a_damaged_checkpoint_that_cannot_be_set_aside_is_told_and_the_one_before_used(run, copy, tmp_path):
    (tmp_path / 'outside').mkdir()
    (copy / listing.DAMAGED).symlink_to(tmp_path / 'outside')
    harm(copy)
    step, said = restore(run, copy)
    assert step == OLD
    assert 'could not be moved' in said[1]
    assert 'is a symbolic link' in said[1]
    assert not list((tmp_path / 'outside').iterdir())


# ---- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'name', ['experiment.json.partial', 'experiment.json.0a1b2c3d.partial', 'lock.json', 'SHA256SUMS']
)
def test_what_a_start_left_that_was_killed_does_not_block_the_next(tmp_path, name):
    (tmp_path / name).write_text('' if name == durable_files.SUMS else '{"na')
    assert workdir.check(tmp_path, quick.experiment()) == []
    workdir.create(epath.Path(tmp_path), quick.experiment())
    assert {path.name for path in tmp_path.iterdir()} - {'lock.json'} == {durable_files.EXPERIMENT, durable_files.SUMS}


def test_a_file_is_the_old_or_the_new_one_and_leaves_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(waits, 'OPERATION_S', ())
    path = epath.Path(tmp_path / 'a.json')
    durable_files.write_json(path, [1])

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space left'):
        durable_files.write_json(path, [2])
    assert durable_files.read_json(path) == [1]
    assert [child.name for child in tmp_path.iterdir()] == ['a.json']


@pytest.mark.parametrize('name', ['report.html', 'experiment.json', 'environment.json'])
def test_links_in_a_run_are_not_written_through(tmp_path, name):
    victim = tmp_path / 'victim'
    victim.write_text('precious')
    (tmp_path / name).symlink_to(victim)
    with pytest.raises(config.InputError, match=f'{name} is a symbolic link to {victim}'):
        durable_files.write(epath.Path(tmp_path / name), b'x')
    assert victim.read_text() == 'precious'
    assert (tmp_path / name).is_symlink()


def test_a_link_in_the_place_of_an_unfinished_checkpoint_is_not_written_through(copy, run, tmp_path):
    (tmp_path / 'outside').mkdir()
    (tmp_path / 'outside' / 'precious').write_text('x')
    (copy / durable_files.CHECKPOINTS / '8.partial').symlink_to(tmp_path / 'outside')
    assert restore(run, copy) == (NEW, [])
    assert left(copy) == [str(OLD), str(NEW)]
    assert (tmp_path / 'outside' / 'precious').exists()


def test_a_run_is_read_without_the_right_to_write(trained, monkeypatch):
    monkeypatch.setattr(os, 'access', lambda *_: False)
    for writes in ('mkdir', 'rename', 'replace', 'unlink'):
        monkeypatch.setattr(os, writes, lambda *_, **__: pytest.fail('reading a run wrote to it'))
    model = directory.open_run(trained[0]).restore(experiment=config.vary(quick.experiment(), {'checkpoints': POLICY}))
    assert model.step == NEW


def test_a_predictable_partial_name_is_not_written_through(tmp_path):
    victim = tmp_path / 'victim'
    victim.write_text('precious')
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'experiment.json.partial').symlink_to(victim)
    workdir.create(epath.Path(tmp_path / 'run'), quick.experiment())
    assert victim.read_text() == 'precious'
    assert not (tmp_path / 'run' / durable_files.EXPERIMENT).is_symlink()


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='names open files through /proc')
def test_a_checkpoint_and_the_logs_are_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """So that a loss of power takes neither; and the one before it is deleted only afterwards."""
    done, sync, rename = [], os.fsync, os.rename

    def synced(number):
        done.append(('sync', os.readlink(f'/proc/self/fd/{number}')))
        sync(number)

    def renamed(source, target, **how):
        written = [str(path) for path in pathlib.Path(source).rglob('*')] if str(source).endswith('.partial') else []
        done.append(('rename', str(target), [str(source), *written]))
        rename(source, target, **how)

    monkeypatch.setattr(os, 'fsync', synced)
    monkeypatch.setattr(os, 'rename', renamed)
    experiment = config.vary(quick.experiment(), {'checkpoints': Checkpoints(every_steps=3, keep_last=1)})
    loop.train(experiment, tmp_path)
    folder = tmp_path / durable_files.CHECKPOINTS
    named = {each[1]: place for place, each in enumerate(done) if each[0] == 'rename'}
    for step in (3, 6):
        place = named[str(folder / str(step))]
        before = {each[1] for each in done[:place] if each[0] == 'sync'}
        assert set(done[place][2]) <= before
        assert done[place + 1] == ('sync', str(folder))
        lately = {each[1] for each in done[place - 100 if place > 100 else 0 : place]}
        assert {str(tmp_path / event_log.FILE), str(tmp_path / durable_files.TRACE)} <= lately
    assert named[str(folder / '6')] + 1 < named[str(folder / '3.deleted')]
    assert {str(tmp_path), str(folder)} <= {each[1] for each in done if each[0] == 'sync'}


def test_a_failure_that_hides_files_while_they_are_merged_makes_no_checkpoint(trained, tmp_path, monkeypatch):
    """Orbax takes a directory that cannot be listed for an empty one."""
    finalize, left = ocp.PyTreeCheckpointHandler.finalize, [1]

    def blind(handler, folder):
        if left[0]:
            left[0] -= 1
            with monkeypatch.context() as blinded:
                blinded.setattr(type(folder), 'glob', lambda *_: iter(()))
                finalize(handler, folder)
            return
        finalize(handler, folder)

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, 'finalize', blind)
    experiment = config.vary(quick.experiment(), {'checkpoints': POLICY})
    result = loop.train(experiment, tmp_path)
    failed = [each['text'] for each in event_log.read(tmp_path / event_log.FILE) if each['kind'] == 'checkpoint_failed']
    assert len(failed) == 1
    assert 'after it was merged' in failed[0]
    assert result.digest == trained[1].digest


def test_a_checkpoint_that_is_replaced_is_there_at_any_moment(copy, run):
    """As by a kill between the two renames."""
    folder = copy / durable_files.CHECKPOINTS
    (folder / str(NEW)).rename(folder / f'{NEW}.replaced')
    assert restore(run, copy) == (NEW, [])
    shutil.copytree(folder / str(OLD), folder / f'{NEW}.replaced')
    assert restore(run, copy) == (NEW, [])
    assert left(copy) == [str(OLD), str(NEW)]


def test_a_disk_that_is_full_for_a_while_changes_neither_run_nor_log(trained, tmp_path, monkeypatch, capsys):
    plain, calls = os.write, []
    monkeypatch.setattr(waits, 'LOG_S', (0.01,) * 20)

    def full(descriptor, content):
        calls.append(descriptor)
        if 3 < len(calls) < 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(descriptor, content)

    monkeypatch.setattr(os, 'write', full)
    experiment = config.vary(quick.experiment(), {'checkpoints': POLICY})
    result = loop.train(experiment, tmp_path)
    monkeypatch.setattr(os, 'write', plain)
    assert len(calls) > 20
    assert (result.digest, result.unwritten) == (trained[1].digest, ())
    for name in (event_log.FILE, durable_files.TRACE):
        here, there = ([(each['kind'], each['step']) for each in event_log.read(path / name) if each['kind'] != 'slow']
                       for path in (tmp_path, trained[0]))  # fmt: skip
        assert here == there
    assert 'No space left on device. The run continues' in capsys.readouterr().err


def test_a_log_that_stays_incomplete_is_told_by_the_result(tmp_path, monkeypatch):
    plain = os.write
    monkeypatch.setattr(waits, 'LOG_S', ())

    def full(descriptor, content):
        if os.readlink(f'/proc/self/fd/{descriptor}').endswith(durable_files.TRACE):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(descriptor, content)

    monkeypatch.setattr(os, 'write', full)
    result = loop.train(quick.experiment(), tmp_path)
    (lost,) = result.unwritten
    assert re.fullmatch(r'\S+trace\.jsonl lacks its last \d+ records', lost)


def test_an_environment_that_finds_no_room_is_written_later(tmp_path, monkeypatch):
    write, left = sums.write, [2]

    def full(where, contents):
        if durable_files.ENVIRONMENT in contents and left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(where, contents)

    monkeypatch.setattr(sums, 'write', full)
    result = loop.train(quick.experiment(), tmp_path)
    assert result.unwritten == ()
    (session,) = durable_files.read_json(epath.Path(tmp_path / durable_files.ENVIRONMENT))
    assert session['step'] == 0


# ---- logs -----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_is_newer_than_its_logs_is_told_and_recorded_once(trained, tmp_path):
    experiment = config.vary(quick.experiment(), {'checkpoints': POLICY})
    loop.train(experiment, tmp_path, stop_after=5)
    for name in (durable_files.TRACE, event_log.FILE):
        lines = (tmp_path / name).read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if event_log.decode(line)['step'] <= 2]
        (tmp_path / name).write_bytes(b''.join(kept))
    result = loop.train(experiment, tmp_path, stop_after=5)
    told = [each for each in event_log.read(tmp_path / event_log.FILE) if each['kind'] == gaps.KIND]
    assert len(told) == 1
    assert 'trace.jsonl lacks steps 3 to 5' in told[0]['text']
    result = loop.train(experiment, tmp_path)
    assert len([each for each in event_log.read(tmp_path / event_log.FILE) if each['kind'] == gaps.KIND]) == 1
    assert result.digest == trained[1].digest


def test_a_whole_log_is_not_told_to_have_gaps(trained):
    assert gaps.missing(epath.Path(trained[0]), {'step': 6, 'reported': 6}) is None


def test_a_clean_run_leaves_no_other_names(trained):
    names = {path.name for path in trained[0].iterdir()}
    assert 'lock.json' not in names
    assert not [name for name in names if durable_files.is_partial(name)]
