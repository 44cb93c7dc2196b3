"""Runs of older versions: what they do not say has its default, and what is called otherwise now is found."""

import json
import shutil

import pytest
import quick_text
from etils import epath

import tiny
from bigmodel_jax import config, differences, migrations
from bigmodel_jax.data import splits
from bigmodel_jax.data.text import text
from bigmodel_jax.data.text.chats import chat_templates
from bigmodel_jax.models import decoder
from bigmodel_jax.optim import gradients
from bigmodel_jax.parallel import sharding
from bigmodel_jax.run_directory import identity
from bigmodel_jax.runs import directory
from bigmodel_jax.storage import durable_files, integrity
from bigmodel_jax.train import initial_state, loop

TEXT = config.class_name(text.Text)


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    return quick_text.write(tmp_path_factory.mktemp('corpus'))


@pytest.fixture(scope='module')
def trained(corpus, tmp_path_factory):
    """A run that has stopped half-way."""
    path = tmp_path_factory.mktemp('run') / 'run'
    loop.train(quick_text.experiment(corpus), path, stop_after=2)
    return path


@pytest.fixture(scope='module')
def digest(corpus, trained, tmp_path_factory):
    path = tmp_path_factory.mktemp('whole') / 'run'
    shutil.copytree(trained, path)
    return loop.train(quick_text.experiment(corpus), path).digest


def as_of_an_older_version(path, change):
    """Rewrites a run as if a version had made it whose experiments looked otherwise."""
    stored = json.loads((path / durable_files.EXPERIMENT).read_text())
    change(stored)
    (path / durable_files.SUMS).unlink()
    (path / durable_files.EXPERIMENT).write_text(json.dumps(stored))
    for step in (path / durable_files.CHECKPOINTS).iterdir():
        for name in (
            durable_files.EXPERIMENT,
            durable_files.SESSION,
            *(f'tokenizer/{each.name}' for each in (step / 'tokenizer').iterdir()),
        ):
            (step / name).unlink()
        (step / 'tokenizer').rmdir()
        record = integrity.unseal((step / integrity.RECORD).read_bytes())
        record |= {'experiment': integrity.fingerprint(stored, differences.CIRCUMSTANCES)}
        kept = {name: each for name, each in record['files'].items() if name.split('/')[0] in record['arrays']}
        (step / integrity.RECORD).write_text(integrity.seal(record | {'files': kept}))


def without_defaults(stored):
    """Removes a field with a default: of the experiment, of a config in it, and of one in a list."""
    del (
        stored['initialization'],
        stored['optimizer']['clip_norm'],
        stored['data']['packing'],
        stored['evaluations'][0]['data']['packing'],
    )


def test_an_absent_field_is_its_default(corpus, trained, digest, tmp_path):
    path = tmp_path / 'run'
    shutil.copytree(trained, path)
    as_of_an_older_version(path, without_defaults)
    run = directory.open_run(path)
    assert config.difference(run.experiment, quick_text.experiment(corpus)) == []
    run.restore().evaluate()
    assert loop.train(quick_text.experiment(corpus), path).digest == digest
    # Both of its versions' checkpoints are its own.
    for step in run.checkpoints:
        directory.open_run(path).restore(step)


def test_a_field_that_is_added_by_hand_does_not_disown_the_checkpoints(corpus, trained, digest, tmp_path):
    path = tmp_path / 'run'
    shutil.copytree(trained, path)
    stored = json.loads((path / durable_files.EXPERIMENT).read_text())
    without_defaults(stored)
    (path / durable_files.SUMS).unlink()
    (path / durable_files.EXPERIMENT).write_text(json.dumps(stored))
    assert loop.train(quick_text.experiment(corpus), path).digest == digest


def test_renamed_classes_and_fields_are_found(corpus, trained, digest, tmp_path, monkeypatch):
    monkeypatch.setitem(migrations.CLASSES, 'bigmodel_jax.data.text.text:Prose', TEXT)
    monkeypatch.setitem(migrations.FIELDS, TEXT, {'tokens': 'length', 'shuffle': None})

    def rename(stored):
        for data in (stored['data'], stored['evaluations'][0]['data']):
            data |= {'class': 'bigmodel_jax.data.text.text:Prose', 'tokens': data.pop('length'), 'shuffle': True}

    path = tmp_path / 'run'
    shutil.copytree(trained, path)
    as_of_an_older_version(path, rename)
    assert directory.open_run(path).experiment == quick_text.experiment(corpus)
    assert loop.train(quick_text.experiment(corpus), path).digest == digest


@pytest.mark.parametrize(
    ('microbatches', 'fixed_order', 'expected'),
    [
        (1, None, gradients.WholeBatch()),
        (4, None, gradients.Microbatches(parts=4)),
        (2, 8, gradients.FixedOrder(parts=8, microbatches=2)),
    ],
)
def test_an_older_experiment_says_otherwise_how_its_gradient_is_made(microbatches, fixed_order, expected):
    stored = config.to_json(tiny.experiment())
    del stored['gradients']
    stored |= {'microbatches': microbatches}
    stored['mesh'] |= {'fixed_order': fixed_order}
    found = config.from_json(stored)
    assert found == config.vary(tiny.experiment(), {'gradients': expected})
    assert config.from_json(config.normalized(stored)) == found


@pytest.mark.parametrize('name', sorted(migrations.RESHAPED))
@pytest.mark.parametrize('value', [None, 3, 'text', [], {}, {'class': 'x'}, {'class': 3}, [[1]]])
def test_a_stored_config_of_no_version_is_left_to_its_reader(name, value):
    fields = ('table', 'labels', 'records', 'sentences', 'label', 'source', 'scaling', 'shape', 'mesh', 'field')
    assert migrations.migrate({'class': name})['class'].startswith(migrations.PACKAGE)
    for field in fields:
        stored = {'class': name} | {each: {'class': 'y'} for each in fields} | {field: value}
        assert migrations.migrate(stored)['class'].startswith(migrations.PACKAGE), stored


def test_an_older_experiment_calls_its_initialization_start():
    now = config.vary(tiny.experiment(), {'initialization': initial_state.FromRun(run='before', step=4)})
    stored = config.to_json(now)
    stored['start'] = stored.pop('initialization') | {'class': 'bigmodel_jax.train.starting:Checkpoint'}
    assert config.from_json(stored) == now


def test_blocks_policies_and_rule_tables_of_older_versions_are_read():
    gpt = decoder.gpt(vocab=31, width=16, layers=2, heads=2, length=8)
    model = config.vary(decoder.banded(gpt, window=4), {'stack.remat': ('query', 'post_mixer')})
    older = {'mixer': 'attention', 'interleaved': 'alternates', 'post_mixer': 'middle', 'residual_length': 'stream'}
    for value in (model, sharding.MeshShape()):
        stored = json.dumps(config.to_json(value))
        for name, before in older.items():
            stored = stored.replace(f'"{name}"', f'"{before}"')
        assert config.from_json(json.loads(stored)) == value


def test_a_field_that_is_unknown_is_told_with_the_version_that_wrote_it(trained, tmp_path):
    path = tmp_path / 'run'
    shutil.copytree(trained, path)
    as_of_an_older_version(path, lambda stored: stored['data'].update(shuffle=True))
    with pytest.raises(config.InputError, match=r"Text has no field 'shuffle'.*(\n.*)*written by bigmodel_jax 0\."):
        _ = directory.open_run(path).experiment


def test_data_that_an_older_version_recorded_under_other_names_is_the_same_data(tmp_path):
    part = config.to_json(splits.Train(held_out=0.1))
    template = config.to_json(chat_templates.Plain())
    now = {'data': {'sha256': 'a', 'template': template, 'part': part}}
    older = {'data': now['data'] | {'template': template | {'class': 'bigmodel_jax.data.chat_templates:Plain'}}}
    assert identity.changes(now, epath.Path(tmp_path), older) == []
    older['data']['part'] = part | {'held_out': 0.2}
    assert identity.changes(now, epath.Path(tmp_path), older) == ['  data.part.held_out: 0.2 -> 0.1']
