"""The data and the tokenizer of a run: a run is read with its own, and anything else is told before it is used."""

import shutil

import pytest
import quick_text

from bigmodel_jax import config
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.evaluate import loss
from bigmodel_jax.run_directory import identity
from bigmodel_jax.runs import directory
from bigmodel_jax.storage import durable_files
from bigmodel_jax.train import initial_state, loop


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    return quick_text.write(tmp_path_factory.mktemp('corpus'))


@pytest.fixture(scope='module')
def trained(corpus, tmp_path_factory):
    """A run that has stopped half-way."""
    path = tmp_path_factory.mktemp('run') / 'run'
    loop.train(quick_text.experiment(corpus), path, stop_after=2)
    return path


@pytest.fixture
def changed(corpus, trained, tmp_path):
    """A copy of the run, and of its corpus, to which other words were added: a tokenizer trained on it is another."""
    words = tmp_path / 'corpus'
    shutil.copytree(corpus, words)
    (words / 'train.txt').write_text((words / 'train.txt').read_text() + 'zebra xylophone quartz ' * 400)
    shutil.copytree(trained, tmp_path / 'run')
    return words, tmp_path / 'run'


@pytest.fixture
def moved_back(corpus, changed):
    """changed(), in the place of the corpus of the run."""
    text, run = changed
    kept = corpus.parent / 'kept'
    corpus.rename(kept)
    text.rename(corpus)
    yield run
    shutil.rmtree(corpus)
    kept.rename(corpus)


def test_a_run_does_not_resume_on_other_data(corpus, moved_back):
    before = {path: path.read_bytes() for path in sorted(moved_back.rglob('*')) if path.is_file()}
    with pytest.raises(config.InputError, match=r'data\.source\.sha256: \w+\.\.\. -> .*(\n.*)*train\.txt') as error:
        loop.train(quick_text.experiment(corpus), moved_back)
    assert identity.CONTINUE in str(error.value)
    assert before == {path: path.read_bytes() for path in sorted(moved_back.rglob('*')) if path.is_file()}


def test_a_run_is_read_with_its_own_tokenizer(corpus, moved_back):
    run = directory.open_run(moved_back)
    trained = run.restore()
    assert trained.tokenizer.fingerprint == identity.recorded_tokenizer(run.path)
    again = trained.evaluate()['validation']
    assert again.values['loss'] == pytest.approx(run.metrics('validation/loss')[1][-1], rel=1e-6)  # Float32 sums.


def test_a_finished_run_is_evaluated_without_its_training_data(corpus, trained, tmp_path):
    shutil.copytree(trained, tmp_path / 'run')
    (corpus / 'train.txt').rename(corpus / 'away')
    run = directory.open_run(tmp_path / 'run')
    try:
        found = run.restore().evaluate()['validation']
        (corpus / 'held_out.txt').rename(corpus / 'away too')
        with pytest.raises(config.InputError, match=r'held_out\.txt'):
            run.restore().evaluate()
    finally:
        (corpus / 'away').rename(corpus / 'train.txt')
        (corpus / 'away too').rename(corpus / 'held_out.txt')
    assert found.values['loss'] == pytest.approx(run.metrics('validation/loss')[1][-1], rel=1e-6)


def test_other_evaluation_data_is_not_taken_for_that_of_the_run(corpus, trained, tmp_path):
    shutil.copytree(trained, tmp_path / 'run')
    original = (corpus / 'held_out.txt').read_text()
    (corpus / 'held_out.txt').write_text(original + 'one line more of what is held out\n' * 9)
    try:
        with pytest.raises(config.InputError, match=r'evaluation validation\.source\.sha256'):
            directory.open_run(tmp_path / 'run').restore().evaluate()
        with pytest.raises(config.InputError, match=r'evaluation validation\.source\.sha256'):
            loop.train(quick_text.experiment(corpus), tmp_path / 'run')
    finally:
        (corpus / 'held_out.txt').write_text(original)


def test_evaluation_data_has_the_tokenizer_of_the_training_data(corpus, tmp_path):
    one = quick_text.experiment(corpus)
    other = config.vary(one, {'evaluations.0.data.tokenizer.trained_on': one.evaluations[0].data.source})
    with pytest.raises(config.InputError, match=r"Evaluation 'validation': the tokenizer of its data"):
        loop.train(other, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_weights_of_token_ids_are_not_taken_for_another_tokenizer(changed, corpus, trained, tmp_path):
    text, _ = changed
    start = initial_state.FromRun(run=str(trained))
    same = config.vary(quick_text.experiment(corpus), {'initialization': start})
    other = config.vary(quick_text.experiment(text), {'initialization': start})
    loop.train(same, tmp_path / 'same', stop_after=1)
    with pytest.raises(config.InputError, match=r'initialization: table of .* another tokenizer') as error:
        loop.train(other, tmp_path / 'other')
    assert "initialization.without=('table',)" in str(error.value)
    assert not (tmp_path / 'other').exists()
    loop.train(config.vary(other, {'initialization.without': ('table',)}), tmp_path / 'anew', stop_after=1)
    loop.train(config.vary(other, {'initialization.other_tokenizer': True}), tmp_path / 'nevertheless', stop_after=1)


def test_another_tokenizer_in_the_directory_of_a_run_is_not_used(changed, trained):
    text, run = changed
    quick_text.experiment(text).data.tokenizer.build().save(run / 'tokenizer')
    (run / durable_files.SUMS).unlink()
    with pytest.raises(config.InputError, match='is not the tokenizer that this run was trained with'):
        _ = directory.open_run(run).restore().tokenizer


def test_that_the_text_changed_is_said_also_where_the_tokenizer_of_the_run_cannot_read_it(tmp_path):
    file, run = tmp_path / 'text.txt', tmp_path / 'run'
    file.write_text('a cat sat on a mat. ' * 40)
    source = sources.TextFile(path=str(file))
    data = text.Text(source=source, tokenizer=tokenizers.Characters(trained_on=source), batch=4, length=16)
    held_out = loss.Loss(data=data, every_steps=2, max_batches=2)
    experiment = config.vary(quick_text.experiment(tmp_path), {'data': data, 'evaluations': (held_out,)})
    loop.train(experiment, run, stop_after=2)
    file.write_text('zebra xylophone quartz ' * 40)
    for read in (lambda: loop.train(experiment, run), lambda: directory.open_run(run).restore().evaluate()):
        with pytest.raises(config.InputError, match=r'source\.sha256: \w+\.\.\. -> .*(\n.*)*text\.txt') as error:
            read()
        assert "The tokenizer of the run cannot read it: The character 'z'" in str(error.value)
