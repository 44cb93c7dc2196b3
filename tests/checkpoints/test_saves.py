"""Saves that come by the clock, or fail, change nothing but the checkpoints that there are."""

import pytest
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.storage import integrity, stores
from bigmodel_jax.train import loop
from runs import quick

STEPS = 12


def experiment(**changes):
    changes = {'steps': STEPS, 'checkpoints.keep_last': STEPS} | {f'checkpoints.{k}': v for k, v in changes.items()}
    return config.vary(quick.experiment(), changes)


def saved(directory):
    return sorted(int(path.name) for path in (directory / 'checkpoints').iterdir() if path.name.isdigit())


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    return loop.train(experiment(), tmp_path_factory.mktemp('undisturbed'))


def test_saves_by_the_clock_come_beside_those_by_steps(undisturbed, tmp_path):
    assert saved(undisturbed.workdir) == [STEPS]
    result = loop.train(experiment(every_steps=5, every_minutes=1e-9), tmp_path)
    assert {5, 10, STEPS} < set(saved(tmp_path))
    assert result.digest == undisturbed.digest


def test_training_goes_on_when_a_save_fails(undisturbed, tmp_path):
    (tmp_path / 'run').mkdir()
    loop.train(experiment(every_steps=4), tmp_path / 'run', stop_after=4)
    # Neither a directory that can be written to, nor one that can be removed.
    (tmp_path / 'run' / 'checkpoints' / '8.partial').write_text('in the way')
    result = loop.train(experiment(every_steps=4), tmp_path / 'run')
    failed = [
        each for each in event_log.read(tmp_path / 'run' / 'metrics.jsonl') if each['kind'] == 'checkpoint_failed'
    ]
    assert len(failed) == 1
    assert failed[0]['text'].startswith('The checkpoint of step 8 was not saved: ')
    assert {4, STEPS} <= set(saved(tmp_path / 'run'))
    assert 8 not in saved(tmp_path / 'run')
    assert result.digest == undisturbed.digest


def test_a_file_that_is_gone_before_it_is_brought_to_disk_is_no_failure(tmp_path):
    """Another process that still writes to the same directory removes its lock files."""
    store, final = stores.PosixStore(), epath.Path(tmp_path) / '2'
    store.begin(final, 0)
    (tmp_path / '2.partial' / 'kept').write_text('1')
    (tmp_path / '2.partial' / 'gone.__lock').symlink_to(tmp_path / 'nothing')  # Is listed, and cannot be opened.
    store.sync(final)
    (tmp_path / '2.partial' / 'gone.__lock').unlink()
    store.commit(final, 'record')
    assert sorted(path.name for path in (tmp_path / '2').iterdir()) == [integrity.RECORD, 'kept']
