"""Continuing a run with another experiment: the past stays, the future is a segment of its own."""

import pathlib
import shutil

import numpy as np
import pytest
import quick_text
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.data import sources
from bigmodel_jax.optim import gradients, optimizers, schedules
from bigmodel_jax.reproduce import diff, verify
from bigmodel_jax.run_directory import identity, segments
from bigmodel_jax.runs import directory
from bigmodel_jax.storage import durable_files
from bigmodel_jax.train import loop

CONSTANT = {'optimizer.schedule': schedules.Constant(peak=1e-2), 'evaluations': (), 'checkpoints.keep_last': 9}


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    return quick_text.write(tmp_path_factory.mktemp('corpus'))


@pytest.fixture(scope='module')
def base(corpus):
    return config.vary(quick_text.experiment(corpus), CONSTANT)


@pytest.fixture(scope='module')
def stopped(base, tmp_path_factory):
    """A run that has come to step 2 of 4."""
    path = tmp_path_factory.mktemp('run') / 'run'
    loop.train(base, path, stop_after=2)
    return path


@pytest.fixture
def copy(stopped, tmp_path):
    return epath.Path(shutil.copytree(stopped, tmp_path / 'run'))


def text_of(path):
    files_in = [child for child in sorted(pathlib.Path(path).rglob('*')) if child.is_file()]
    return {child: child.read_bytes() for child in files_in}


def other_data(base, folder):
    """`base` on another text, whose tokenizer, were it trained, would be another."""
    (folder / 'new.txt').write_text('Quite other words, of which there was none before: zebra, quartz. ' * 60)
    new = sources.TextFile(path=str(folder / 'new.txt'))
    return config.vary(base, {'data.source': new, 'data.tokenizer.trained_on': new})


def test_what_changes_the_coming_steps_needs_consent(base, copy, tmp_path):
    before = text_of(copy)
    changes = {
        'optimizer.schedule.peak': 2e-2, 'optimizer': optimizers.Lion(schedule=schedules.Constant(peak=1e-3)),
        'gradients': gradients.Microbatches(parts=2), 'data.batch': 8,
    }  # fmt: skip
    for path, value in changes.items():
        with pytest.raises(config.InputError, match=rf'  {path}.* -> (.*\n)*.*after step 2, .*{identity.CONTINUE}'):
            loop.train(config.vary(base, {path: value}), copy)
    with pytest.raises(config.InputError, match=identity.CONTINUE):
        loop.train(other_data(base, tmp_path), copy)
    assert text_of(copy) == before


def test_what_the_past_depends_on_never_changes(base, copy):
    before = text_of(copy)
    for changes, words in [
        ({'seed': 1}, 'seed: 0 -> 1 .*random numbers'),
        ({'model.vocab': 312}, r'table: float32\[304, 16\] in the checkpoint'),
    ]:
        with pytest.raises(config.InputError, match=words):
            loop.train(config.vary(base, changes), copy, new_segment=True)
    assert text_of(copy) == before


def test_a_run_continues_on_other_data_with_its_own_tokenizer(base, copy, tmp_path):
    tokenizer = identity.recorded_tokenizer(copy)
    experiment = other_data(base, tmp_path)
    loop.train(experiment, copy, stop_after=3, new_segment=True)
    again = loop.train(experiment, copy)  # The new segment is the run's now.
    assert again.step == quick_text.STEPS
    assert identity.recorded_tokenizer(copy) == tokenizer
    first, second = segments.read(copy)
    assert (first.after, second.after) == (0, 2)
    assert any('data.source.path' in change for change in second.changes)
    assert any('data.source.sha256' in change for change in second.changes)
    assert first.experiment == config.to_json(base)
    assert second.experiment == config.to_json(experiment)
    # Each checkpoint holds the experiment that made it.
    stored = [
        durable_files.read_json(copy / durable_files.CHECKPOINTS / step / durable_files.EXPERIMENT)
        for step in ('2', '4')
    ]
    assert [each['data'] for each in stored] == [config.to_json(each.data) for each in (base, experiment)]
    with pytest.raises(config.InputError, match='There -> here'):
        loop.train(base, copy)


def test_changed_files_need_the_same_consent(base, corpus, copy):
    original = (corpus / 'train.txt').read_text()
    (corpus / 'train.txt').write_text(original + 'One line more. ' * 50)
    try:
        result = loop.train(base, copy, new_segment=True)
    finally:
        (corpus / 'train.txt').write_text(original)
    assert result.step == quick_text.STEPS
    assert any('data.source.sha256' in change for change in segments.read(copy)[1].changes)


def test_more_steps_need_no_consent_where_the_rates_stay(base, copy, stopped):
    longer = config.vary(base, {'steps': 6})
    assert loop.train(longer, copy).step == 6
    assert [each.after for each in segments.read(copy)] == [0, 2]
    straight = loop.train(longer, stopped.parent / 'straight')
    assert straight.digest == directory.open_run(copy).digest


def test_more_steps_need_consent_where_the_rates_follow_them(corpus, tmp_path):
    falling = config.vary(quick_text.experiment(corpus), {'evaluations': ()})
    loop.train(falling, tmp_path / 'run', stop_after=2)
    with pytest.raises(config.InputError, match=r'steps: 4 -> 6(.*\n)*.*schedule'):
        loop.train(config.vary(falling, {'steps': 6}), tmp_path / 'run')
    assert loop.train(config.vary(falling, {'steps': 6}), tmp_path / 'run', new_segment=True).step == 6


def test_the_state_of_the_optimizer_is_kept_where_it_fits(base, copy, capsys):
    # Clipping adds a level around the optimizer, which changes the paths of its state but not the state.
    loop.train(config.vary(base, {'optimizer.clip_norm': 1e9}), copy, new_segment=True)
    assert 'the state of the optimizer is kept' in capsys.readouterr().err
    straight = copy.parent / 'straight'
    loop.train(config.vary(base, {'steps': 4}), straight)
    pairs = zip(*(directory.open_run(path).params(4).values() for path in (copy, straight)))
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-5)  # A factor of 1 in float32 does not round the same.


def test_an_optimizer_that_begins_anew_is_told_and_goes_on_in_its_schedule(base, copy, capsys):
    slow = optimizers.Adafactor(schedule=schedules.Constant(peak=1e-3, warmup_steps=4))
    loop.train(config.vary(base, {'optimizer': slow, 'watch.log_every': 1}), copy, stop_after=3, new_segment=True)
    said = capsys.readouterr().err
    assert 'a new segment begins after step 2; the optimizer begins anew with' in said
    rates = directory.open_run(copy).metrics('learning_rate')
    assert rates[1][-1] == pytest.approx(1e-3 * 3 / 4)


def test_a_segment_is_repeated_with_its_own_experiment(base, copy):
    loop.train(config.vary(base, {'optimizer.schedule.peak': 2e-2}), copy, new_segment=True)
    found = verify.verify(directory.open_run(copy))
    assert found.identical, found.first
    assert 'continued after step 2 with another experiment or other data (optimizer.schedule.peak: 0.01 -> 0.02)' in (
        diff.about(directory.open_run(copy))
    )


def test_other_evaluations_of_a_finished_run_have_names_of_their_own(corpus, tmp_path):
    experiment = quick_text.experiment(corpus)
    loop.train(experiment, tmp_path / 'run', stop_after=2)
    run = directory.open_run(tmp_path / 'run')
    before = run.metrics('validation/loss')[1].tolist()
    elsewhere = {'evaluations.0.data.source.path': str(corpus / 'train.txt'), 'evaluations.0.name': 'on_train'}
    found = run.restore(experiment=config.vary(experiment, elsewhere)).evaluate()
    assert list(found) == ['on_train']
    after = directory.open_run(tmp_path / 'run')
    assert after.metrics('validation/loss')[1].tolist() == before
    assert after.metrics('on_train/loss')[1].tolist() == [pytest.approx(found['on_train'].values['loss'])]
    del elsewhere['evaluations.0.name']
    with pytest.raises(config.InputError, match=r'evaluation validation\.data\.source\.path'):
        run.restore(experiment=config.vary(experiment, elsewhere))
