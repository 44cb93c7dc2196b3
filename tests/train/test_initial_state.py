"""A run that begins with the weights of another."""

import shutil

import jax
import numpy as np
import pytest
from etils import epath

import tiny
from bigmodel_jax import config
from bigmodel_jax.adapters import lora
from bigmodel_jax.checkpoints import checkpoints
from bigmodel_jax.reproduce import verify
from bigmodel_jax.runs import directory
from bigmodel_jax.storage import durable_files
from bigmodel_jax.train import initial_state, loop, preparation

OTHER_VOCAB = tiny.VOCAB + 8


def short(**changes):
    few = {'steps': 4, 'checkpoints.every_steps': 2, 'evaluations': (), 'model.block.residual.dropout': 0.0}
    return config.vary(tiny.experiment(), few | changes)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp('source') / 'run'
    loop.train(short(), path)
    return str(path)


def start_of(experiment):
    run = preparation.build(experiment)
    return run.spec, *initial_state.begin(experiment.initialization, run.spec)


def flat(params):
    return {name: np.asarray(array) for name, array in checkpoints.flatten(params).items()}


def test_the_first_weights_are_those_of_the_other_run(source):
    _, state, record = start_of(short(initialization=initial_state.FromRun(run=source)))
    wanted = directory.open_run(source).params()
    jax.tree.map(np.testing.assert_array_equal, state.params, wanted)
    assert record['step'] == 4
    assert record['by_chance'] == []


def test_a_step_can_be_chosen(source):
    _, state, _ = start_of(short(initialization=initial_state.FromRun(run=source, step=2)))
    jax.tree.map(np.testing.assert_array_equal, state.params, directory.open_run(source).params(2))


def test_what_is_left_out_is_as_by_chance(source):
    left_out = initial_state.FromRun(run=source, without=('embedding.*', '*.ffn.*'))
    spec, state, record = start_of(short(initialization=left_out))
    drawn, trained = flat(spec.init().params), flat(directory.open_run(source).params())
    for name, array in flat(state.params).items():
        by_chance = name.startswith('embedding.') or '.ffn.' in name
        np.testing.assert_array_equal(array, (drawn if by_chance else trained)[name])
        assert (name in record['by_chance']) == by_chance


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'initialization': initial_state.FromRun(run='nowhere')}, 'holds no run'),
        ({'initialization.step': 3}, 'there are 2, 4'),
        ({'initialization.without': ('embeding.*',)}, 'matches nothing|matches'),
        ({'initialization.without': ('*',)}, 'has none of the parameters'),
        ({'model.vocab': OTHER_VOCAB}, r'embedding\.table: \[64, 16\] there, \[72, 16\] here'),
    ],
)
def test_a_wrong_start_is_refused_before_anything_is_written(source, tmp_path, changes, words):
    experiment = config.vary(short(initialization=initial_state.FromRun(run=source)), changes)
    with pytest.raises(config.InputError, match=words):
        loop.train(experiment, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_a_run_goes_on_from_its_own_checkpoint_when_the_source_is_gone(source, tmp_path):
    moved = tmp_path / 'source'
    shutil.copytree(source, moved)
    experiment = short(initialization=initial_state.FromRun(run=str(moved)))
    whole = loop.train(experiment, tmp_path / 'whole')
    assert verify.verify(directory.open_run(tmp_path / 'whole'), steps=2).identical
    loop.train(experiment, tmp_path / 'parts', stop_after=2)
    moved.rename(tmp_path / 'elsewhere')
    assert loop.train(experiment, tmp_path / 'parts').digest == whole.digest
    with pytest.raises(config.InputError, match='holds no run, but this one begins with its weights'):
        verify.verify(directory.open_run(tmp_path / 'whole'), steps=2)
    sessions = durable_files.read_json(epath.Path(tmp_path / 'parts') / durable_files.ENVIRONMENT)
    assert sessions[0]['start']['step'] == 4
    assert 'start' not in sessions[1]


def test_a_damaged_source_is_refused(source, tmp_path):
    copy = tmp_path / 'source'
    shutil.copytree(source, copy)
    largest = max((copy / 'checkpoints' / '4' / 'model').rglob('*'), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(config.InputError, match='damaged'):
        start_of(short(initialization=initial_state.FromRun(run=str(copy))))


def test_adapters_are_not_lost(tmp_path):
    adapted = short(adapter=lora.Lora(rank=2))
    loop.train(config.vary(adapted, {'steps': 4, 'evaluations': ()}), tmp_path / 'adapted')
    start = initial_state.FromRun(run=str(tmp_path / 'adapted'))
    with pytest.raises(config.InputError, match=r'has adapters .* would be lost'):
        start_of(short(initialization=start))
    _, state, _ = start_of(config.vary(adapted, {'initialization': start}))
    assert np.abs(state.params['blocks']['layers']['attention']['query_lora']['b']).max() > 0
