"""The files of a run that are gone come back: from its checkpoints, or from the process that trains."""

import json
import shutil

import pytest
import quick_text

from bigmodel_jax import config
from bigmodel_jax.run_directory import identity
from bigmodel_jax.runs import directory
from bigmodel_jax.storage import durable_files
from bigmodel_jax.train import loop, metrics

PURGED = (durable_files.EXPERIMENT, durable_files.ENVIRONMENT, durable_files.SUMS, 'tokenizer')


@pytest.fixture(scope='module')
def experiment(tmp_path_factory):
    corpus = quick_text.write(tmp_path_factory.mktemp('corpus'))
    return config.vary(quick_text.experiment(corpus), {'watch.log_every': 1, 'evaluations.0.every_steps': 4})


@pytest.fixture(scope='module')
def trained(experiment, tmp_path_factory):
    path = tmp_path_factory.mktemp('run') / 'run'
    loop.train(experiment, path)
    return path


def purge(path):
    for name in PURGED:
        (shutil.rmtree if (path / name).is_dir() else lambda each: each.unlink())(path / name)


def test_a_run_is_used_from_its_checkpoints_alone(experiment, trained, tmp_path, capsys):
    path = tmp_path / 'run'
    shutil.copytree(trained, path)
    purge(path)
    shutil.copytree(path, tmp_path / 'second')
    run = directory.open_run(path)
    assert 'restored from the checkpoint of step 4' in capsys.readouterr().err
    assert run.experiment == experiment
    assert json.loads((path / durable_files.ENVIRONMENT).read_text())[0]['step'] == 0
    restored = run.restore()
    assert restored.tokenizer.fingerprint == identity.recorded_tokenizer(run.path)
    restored.evaluate()
    assert loop.train(experiment, tmp_path / 'second').digest == run.digest


def test_a_copy_of_a_checkpoint_is_a_branch(experiment, trained, tmp_path):
    """In a directory of its own it goes on to where the run went; with other settings, as a new segment."""
    steps = directory.open_run(trained).checkpoints
    first, branches = min(steps), [tmp_path / name for name in ('same', 'other')]
    for path in branches:
        shutil.copytree(trained / 'checkpoints' / str(first), path / 'checkpoints' / str(first))
    same, other = experiment, config.vary(experiment, {'optimizer.schedule.peak': 0.5})
    assert first < experiment.steps
    assert loop.train(same, branches[0]).digest == directory.open_run(trained).digest
    with pytest.raises(config.InputError, match='--new-segment'):
        loop.train(other, branches[1])
    assert loop.train(other, branches[1], new_segment=True).digest != directory.open_run(trained).digest


def test_files_that_vanish_while_a_run_trains_are_written_again(experiment, trained, tmp_path, monkeypatch, capsys):
    path, scalars = tmp_path / 'run', metrics.MetricsWriter.scalars

    def purging(self, kind, step, values, **how):
        if kind == 'train' and step == 2:
            purge(path)
        scalars(self, kind, step, values, **how)

    monkeypatch.setattr(metrics.MetricsWriter, 'scalars', purging)
    result = loop.train(experiment, path)
    assert 'experiment.json, tokenizer/tokenizer.json, tokenizer/vocabulary.json, environment.json had vanished' in (
        ' '.join(capsys.readouterr().err.split())
    )
    run = directory.open_run(path)
    assert run.digest == result.digest == directory.open_run(trained).digest
    assert run.experiment == experiment
    run.restore().evaluate()
