"""A checkpoint holds what was saved, whatever the mesh; a save that fails harms nothing and is tried again."""

import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

import tiny
from bigmodel_jax import config
from bigmodel_jax.checkpoints import checkpoints, retention
from bigmodel_jax.experiment import Checkpoints
from bigmodel_jax.parallel import sharding
from bigmodel_jax.run_directory import digest
from bigmodel_jax.storage import integrity, stores, waits
from bigmodel_jax.train import preparation

POLICY = Checkpoints(keep_last=2)


@pytest.fixture(scope='module')
def run():
    return preparation.build(tiny.experiment())


@pytest.fixture(scope='module')
def state(run):
    with sharding.use(run.place):
        return run.spec.init()


def opened(directory, policy=POLICY, store=None, direction='lower'):
    return checkpoints.Checkpointer(epath.Path(directory), policy, store=store, direction=direction)


def save(store, state, *steps, metrics=None):
    for step in steps:
        store.save(state, {'step': step, 'pending': [{'loss': (0.1, 3)}]}, metrics or {})
        assert store.finish() is None


def names(directory):
    return sorted(path.name for path in (directory / 'checkpoints').iterdir())


# ---- what is saved is restored ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'mesh',
    [
        {'data': 2, 'fsdp': 2, 'tensor': 2},
        pytest.param({'data': 8}, marks=pytest.mark.slow),
        pytest.param({'fsdp': 2, 'tensor': 4}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_state_is_the_same_on_every_mesh(tmp_path, run, state, mesh):
    wanted = digest.digest(state)
    moved = preparation.build(config.vary(tiny.experiment(), {'mesh': sharding.MeshShape(**({'data': 1} | mesh))}))
    with opened(tmp_path) as store:
        save(store, state, 3)
    with sharding.use(moved.place), opened(tmp_path) as store:
        there, position = store.restore_newest(moved.spec.abstract, moved.spec.shardings)
        assert digest.digest(there) == wanted
        assert position == {'step': 3, 'pending': [{'loss': [0.1, 3]}]}
        store.save(there, position | {'step': 4}, {})
    with opened(tmp_path, None) as store:
        again, _ = store.restore(run.spec.abstract, run.spec.shardings, 4)
    assert digest.digest(again) == wanted
    assert jax.tree.map(lambda x: x.dtype, again) == jax.tree.map(lambda x: x.dtype, state)


def test_the_path_of_a_run_may_hold_any_character(tmp_path, run, state):
    """Those of patterns, of URLs, and of neither."""
    directory = tmp_path / 'lr[0.1] *? %41#{x}é'
    with opened(directory) as store:
        save(store, state, 3)
    with opened(directory, None) as store:
        there, _ = store.restore_newest(run.spec.abstract, run.spec.shardings)
    assert digest.digest(there) == digest.digest(state)


def test_what_is_saved_is_the_state_at_the_call(tmp_path, run, state):
    """The next steps take over the memory of the state while it is being written."""
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + x.dtype.type(1), tree), donate_argnums=0)
    current = jax.tree.map(jnp.copy, state)
    digests = {}
    with opened(tmp_path, Checkpoints(keep_last=9)) as store:
        for number in range(1, 5):
            digests[number] = digest.digest(current)
            store.save(current, {'step': number}, {})
            for _ in range(3):
                current = step(current)
    with opened(tmp_path, None) as store:
        for number, wanted in digests.items():
            found, _ = store.restore(run.spec.abstract, run.spec.shardings, number)
            assert digest.digest(found) == wanted


def test_there_may_be_no_checkpoint(tmp_path, run):
    with opened(tmp_path) as store:
        assert (store.steps, store.newest) == ([], None)
        assert store.restore_newest(run.spec.abstract, run.spec.shardings) is None


# ---- other dtypes and shapes --------------------------------------------------------------------------------------


def narrower(abstract):
    """With parameters of half the precision."""
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), abstract.params)
    return abstract._replace(params=params)


def test_another_dtype_is_refused_unless_asked_for(tmp_path, run, state):
    abstract, shardings = narrower(run.spec.abstract), run.spec.shardings
    with opened(tmp_path) as store:
        save(store, state, 3)
        for refused in (store.restore_newest, store.restore_model):
            with pytest.raises(config.InputError, match=r'params\.\S+: float32\[.*bfloat16\['):
                refused(abstract, shardings)
        model = store.restore_model(abstract, shardings, cast=True)
    assert (model.step, store.damage, names(tmp_path)) == (3, [], ['3'])
    for wanted, found in zip(jax.tree.leaves(state.params), jax.tree.leaves(model.params)):
        assert found.dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.asarray(wanted).astype(jnp.bfloat16), found)


def test_another_shape_is_refused_even_with_a_cast(tmp_path, run, state):
    wider = preparation.build(config.vary(tiny.experiment(), {'model.width': 32})).spec
    with opened(tmp_path) as store:
        save(store, state, 3)
        with pytest.raises(
            config.InputError, match=r'attention\.key: float32\[2, 16, 8, 2\] in .*, float32\[2, 32, 8, 4\]'
        ):
            store.restore_model(wider.abstract, wider.shardings, cast=True)


# ---- which are kept -----------------------------------------------------------------------------------------------


def test_the_latest_the_regular_and_the_best_are_kept():
    losses = {2: 3.0, 4: 1.0, 6: 2.0, 8: float('nan'), 10: 1.5, 12: 1.6, 14: 1.7}
    saved = {step: {'validation/loss': loss} for step, loss in losses.items()} | {16: {}}
    assert retention.superseded(saved, Checkpoints(keep_last=1)) == [2, 4, 6, 8, 10, 12, 14]
    policy = Checkpoints(keep_last=2, keep_every=6, keep_best='validation/loss')
    assert retention.superseded(saved, policy) == [2, 8, 10]
    assert retention.superseded(saved, policy, 'higher') == [4, 8, 10]


@pytest.mark.parametrize(
    ('saved', 'gone'),
    [
        ([20, 40, 43, 47], []),  # Two stops between regular checkpoints.
        ([20, 40, 43, 47, 60], [20, 40, 43]),
        ([20, 41, 43, 47], [41]),  # The save of step 40 failed: it can be computed again from step 20.
        ([15, 30, 45, 47], []),  # every_steps was 15 until now: step 40 can be computed again from step 30.
        ([3, 5, 7], [3]),  # Before the first regular one.
    ],
)
def test_what_a_roll_back_may_need_is_kept(saved, gone):
    policy = Checkpoints(keep_last=2, every_steps=20)
    assert retention.superseded({step: {} for step in saved}, policy, rolls_back=True) == gone


def test_a_step_that_is_saved_again_replaces_it_and_what_came_after(tmp_path, run, state):
    """A run that has gone back to an earlier step leaves the path that it was on."""
    other = state._replace(params=jax.tree.map(lambda x: x + 1, state.params))
    with opened(tmp_path, Checkpoints(keep_last=3)) as store:
        save(store, state, 2, 4, 6)
        save(store, other, 4)
        assert store.steps == [2, 4]
        found, _ = store.restore_newest(run.spec.abstract, run.spec.shardings)
    assert digest.digest(found) == digest.digest(other)
    assert names(tmp_path) == ['2', '4']


def test_the_best_is_remembered_by_the_next_session(tmp_path, state):
    for direction, kept in (('lower', ['2', '6']), ('higher', ['4', '6'])):
        policy, directory = Checkpoints(keep_last=1, keep_best='validation/x'), tmp_path / direction
        for step, value in ((2, 1.0), (4, 3.0), (6, 2.0)):
            with opened(directory, policy, direction=direction) as store:
                save(store, state, step, metrics={'validation/x': value})
        assert names(directory) == kept


# ---- saves that fail ----------------------------------------------------------------------------------------------


class Failing(stores.PosixStore):
    """A store of which some calls fail."""

    def __init__(self, call, times):
        self.call, self.times = call, times

    def _fail(self, call):
        if call == self.call and self.times:
            self.times -= 1
            raise OSError(f'503 Service Unavailable, at {call}')

    def begin(self, final, size_bytes):
        self._fail('begin')
        super().begin(final, size_bytes)
        if self.call == 'write' and self.times:
            self.times -= 1
            (self.partial(final) / 'optimizer').write_text('a file where a directory should be')

    def commit(self, final, record):
        self._fail('commit')
        super().commit(final, record)

    def delete(self, directory):
        self._fail('delete')
        super().delete(directory)


@pytest.mark.parametrize('call', ['begin', 'write', 'commit'])
def test_a_save_that_fails_is_told_and_harms_nothing(tmp_path, run, state, call):
    store = Failing(call, 0)
    with opened(tmp_path, store=store) as checked:
        save(checked, state, 2)
        store.times = 1
        checked.save(state, {'step': 4}, {})
        deadline = time.monotonic() + 30
        while not (said := checked.failures()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert len(said) == 1
        assert said[0].startswith('The checkpoint of step 4 was not saved: ')
        assert call == 'write' or '503' in said[0]
        assert checked.failures() == []
        assert (checked.steps, names(tmp_path)) == ([2], ['2'])
        assert checked.finish() == said[0]
        save(checked, state, 6)
        assert checked.failures() == []
        found, position = checked.restore_newest(run.spec.abstract, run.spec.shardings)
    assert (position['step'], digest.digest(found)) == (6, digest.digest(state))


def test_a_save_that_failed_is_due_again_after_ever_longer_times(tmp_path, state, monkeypatch):
    now = [1_000.0]
    monkeypatch.setattr(checkpoints.time, 'monotonic', lambda: now[0])
    with opened(tmp_path, store=Failing('begin', 12)) as store:
        for wait_s in (1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300):
            store.save(state, {'step': 4}, {})
            assert store.finish()
            now[0] += wait_s - 0.5
            assert not store.due()
            now[0] += 0.6
            assert store.due()


def test_a_save_is_due_by_the_clock(tmp_path, state, monkeypatch):
    now = [1_000.0]
    monkeypatch.setattr(checkpoints.time, 'monotonic', lambda: now[0])
    with opened(tmp_path, Checkpoints(every_minutes=2.0)) as store:
        for step in (1, 2):
            assert not store.due()
            now[0] += 121
            assert store.due()
            save(store, state, step)
    with opened(tmp_path) as store:
        now[0] += 1e6
        assert not store.due()


def test_the_last_save_is_insisted_on(tmp_path, state, monkeypatch):
    monkeypatch.setattr(waits, 'CHECKPOINT_S', (0.01, 0.01))
    with opened(tmp_path, store=Failing('commit', 2)) as store:
        store.insist(state, {'step': 4}, {})
        assert store.steps == [4]
    with opened(tmp_path, store=Failing('commit', 3)) as store:
        with pytest.raises(checkpoints.NotSaved, match=r'step 6 was not saved: 503.*newest checkpoint is of step 4'):
            store.insist(state, {'step': 6}, {})
        assert store.finish().startswith('The checkpoint of step 6 was not saved: ')


def test_what_cannot_be_deleted_is_told_and_tried_again(tmp_path, state):
    """At the next save, at the end of the session, and at that of the next one, though it saves nothing."""
    said = ['Checkpoints that are not kept could not be deleted: 503 Service Unavailable, at delete.']
    with opened(tmp_path, Checkpoints(keep_last=1), store=Failing('delete', 3)) as store:
        save(store, state, 2, 4)
        assert (store.steps, names(tmp_path), store.failures()) == ([4], ['2', '4'], said)
        save(store, state, 6)
        assert (store.steps, names(tmp_path), store.failures()) == ([6], ['2', '4', '6'], said)
        store.retain()
        assert (store.steps, names(tmp_path), store.failures()) == ([6], ['2', '4', '6'], said)
    with opened(tmp_path, Checkpoints(keep_last=1)) as store:
        store.retain()
        assert (store.steps, names(tmp_path), store.failures()) == ([6], ['6'], [])


def test_a_full_disk_is_one_sentence_before_anything_is_written(tmp_path):
    with pytest.raises(OSError, match=r'the disk of .* has [\d,]+ MB left, and it takes 1,000,000,0\d\d MB'):
        stores.PosixStore().begin(epath.Path(tmp_path / '4'), 10**15)
    assert not list(tmp_path.iterdir())


FULL = """
import resource, sys
sys.path.insert(0, 'tests')
import jax, tiny
from etils import epath
from bigmodel_jax import config
from bigmodel_jax.train import preparation
from bigmodel_jax.checkpoints import checkpoints
run = preparation.build(config.vary(tiny.experiment(), {'model.vocab': 20_000}))
state = run.spec.init()
with checkpoints.Checkpointer(epath.Path(sys.argv[1]), run.experiment.checkpoints) as store:
    store.save(state, {'step': 2}, {})
    print(store.finish())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limits[1]))
    store.save(state, {'step': 4}, {})
    print(store.finish())
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    store.save(state, {'step': 6}, {})
    print(store.finish(), store.steps)
"""


def test_a_disk_that_takes_no_more_in_the_middle_of_a_file(tmp_path):
    """Files may not grow beyond 400 kB, where a large array needs more."""
    done = subprocess.run([sys.executable, '-c', FULL, str(tmp_path)], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert (lines[0], lines[2]) == ('None', 'None [2, 6]')
    assert lines[1].startswith('The checkpoint of step 4 was not saved: ')
    with opened(tmp_path):  # A part of the save that failed may have come after all, and is removed at the latest here.
        assert names(tmp_path) == ['2', '6']


def test_a_file_in_the_place_of_the_directory(tmp_path, state):
    (tmp_path / 'checkpoints').write_text('')
    with pytest.raises(config.InputError, match=r'checkpoints cannot be written'):
        opened(tmp_path)


def test_the_position_is_that_at_the_call(tmp_path, run, state):
    pending = [1]
    with opened(tmp_path) as store:
        store.save(state, {'step': 2, 'pending': pending}, {'loss': np.float32(1)})
        pending.append(2)
        assert store.finish() is None
        assert store.restore(run.spec.abstract, run.spec.shardings, 2)[1]['pending'] == [1]


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_a_directory_that_has_become_unwritable(tmp_path, state):
    with opened(tmp_path) as store:
        save(store, state, 2)
        (tmp_path / 'checkpoints').chmod(0o500)
        store.save(state, {'step': 4}, {})
        assert 'Permission denied' in store.finish()
        (tmp_path / 'checkpoints').chmod(0o700)
        save(store, state, 6)


# ---- object stores ------------------------------------------------------------------------------------------------


def test_without_renaming_a_checkpoint_is_one_when_its_record_is_there(tmp_path, run, state):
    with opened(tmp_path, Checkpoints(keep_last=1), stores.ObjectStore()) as store:
        save(store, state, 2, 4)
        assert names(tmp_path) == ['4']
        store.save(state, {'step': 6}, {})
        assert store.finish() is None
    (tmp_path / 'checkpoints' / '6' / integrity.RECORD).rename(tmp_path / 'record')  # As if it had died before.
    with opened(tmp_path, None, stores.ObjectStore()) as store:
        assert store.restore_newest(run.spec.abstract, run.spec.shardings) is None
        assert store.damage == []
    with opened(tmp_path, store=stores.ObjectStore()) as store:
        assert names(tmp_path) == []
        save(store, state, 8)
        save(store, state, 8)
        found, _ = store.restore_newest(run.spec.abstract, run.spec.shardings)
    assert digest.digest(found) == digest.digest(state)
