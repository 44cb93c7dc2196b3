"""`replay` runs a step again bit for bit, and names the examples in its batch, the worst first."""

import io
import math

import numpy as np
import pytest

import tiny
from bigmodel_jax import __main__, config
from bigmodel_jax.console import terminal
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.objectives.objective import Apply
from bigmodel_jax.objectives.rngs import Rngs
from bigmodel_jax.optim import gradients
from bigmodel_jax.reproduce import repeat, replay, verify_view
from bigmodel_jax.runs import directory
from bigmodel_jax.train import loop, prefetch, preparation, step
from runs import quick

NAN = 3  # The example that is nan.


@pytest.fixture(scope='module', autouse=True)
def no_repository(tmp_path_factory):
    """Runs record the repository around the working directory; here there is none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp('elsewhere'))
        yield


@pytest.fixture(scope='module')
def rolled(tmp_path_factory):
    """A run that rolled back."""
    path = tmp_path_factory.mktemp('rolled')
    loop.train(quick.rolling_back(), path)
    return directory.open_run(path)


def bad_step():
    """The step whose batch has the example, and the regular checkpoint before it."""
    data = tiny.Counting(batch=8, nan_example=NAN).build(0)
    index = next(k for k in range(10) if NAN in data.ids(k))
    return index + 1, index // 4 * 4


def test_a_step_is_run_again_bit_for_bit(rolled):
    step_number = 2
    found = replay.replay(rolled, step_number)
    assert found.identical is True
    assert {section.title for section in found.sections if section.compared} == {'data', 'keys', 'metrics', 'layers'}
    steps, losses = rolled.metrics('loss')
    assert found.metrics['loss'] == losses[steps.tolist().index(step_number)]
    np.testing.assert_array_equal(found.ids, tiny.Counting(batch=8).build(0).ids(1))


def test_the_losses_of_the_examples_make_up_the_loss_of_the_batch(rolled):
    """Weighted with the tokens of each row; equal but for rounding, as the dropout is that of the real step."""
    found = replay.replay(rolled, 3)
    data = tiny.Counting(batch=8).build(0)
    tokens = data.training(2)['loss_weights'].sum(axis=1)
    assert found.losses @ tokens / tokens.sum() == pytest.approx(found.metrics['loss'], rel=1e-6)


@pytest.mark.parametrize('method', [gradients.Microbatches(parts=2), gradients.FixedOrder(parts=2, microbatches=2)])
def test_in_parts_too(tmp_path, method):
    loop.train(config.vary(quick.experiment(), {'gradients': method}), tmp_path, stop_after=2)
    found = replay.replay(directory.open_run(tmp_path), 2)
    tokens = tiny.Counting(batch=8).build(0).training(1)['loss_weights'].sum(axis=1)
    assert found.losses @ tokens / tokens.sum() == pytest.approx(found.metrics['loss'], rel=1e-6)


@pytest.mark.slow
def test_on_eight_devices(tmp_path):
    loop.train(config.vary(quick.experiment(), {'mesh.data': 8}), tmp_path, stop_after=4)
    assert replay.replay(directory.open_run(tmp_path), 4).identical is True


def test_the_poisoned_example_is_named_as_it_was_before_the_run_rolled_back(rolled):
    bad, saved = bad_step()
    found = replay.replay(rolled, bad, skipped=0)
    assert (found.restored, found.ids[found.worst[0]]) == (saved, NAN)
    assert math.isnan(found.losses[found.worst[0]])
    assert np.isfinite(found.losses[found.worst[1:]]).all()  # Nothing of it reached the other rows.
    assert math.isnan(found.metrics['loss'])
    assert found.identical is None  # What holds of this step is of another batch.


def test_a_step_after_a_roll_back_is_run_again_bit_for_bit(rolled):
    bad, saved = bad_step()
    for number in (bad, 10):
        found = replay.replay(rolled, number)
        assert (found.identical, found.skipped) == (True, bad - saved), [each.findings for each in found.sections]
        assert NAN not in found.ids


def test_the_step_at_which_a_run_stopped(tmp_path):
    stopping = config.vary(quick.experiment(), {'data.nan_example': NAN, 'steps': 20})
    bad, _ = bad_step()
    with pytest.raises(ArithmeticError):
        loop.train(stopping, tmp_path)
    found = replay.replay(directory.open_run(tmp_path), bad)
    assert (found.identical, found.ids[found.worst[0]]) == (None, NAN)


def test_of_text_the_examples_are_read(tmp_path):
    words = tmp_path / 'words.txt'
    words.write_text(' '.join(f'number {i} of many;' for i in range(400)))
    data = text.Text(source=sources.TextFile(path=str(words)), tokenizer=tokenizers.Bytes(), batch=8, length=16)
    changes = {'data': data, 'model.vocab': 320}
    loop.train(config.vary(quick.experiment(), changes), tmp_path / 'run', stop_after=2)
    found = replay.replay(directory.open_run(tmp_path / 'run'), 1)
    rows = data.build(0).training(0)
    whole = words.read_text()
    assert [len(each) for each in found.texts] == [16] * 8
    assert all(each in whole for each in found.texts)
    assert found.texts[0] == bytes(rows['targets'][0].tolist()).decode()
    # On a narrow terminal the text alone is cut, to one line for each example.
    console = terminal.Console(width=60, file=io.StringIO())
    console.print(verify_view._examples(found, 3))
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 1 + min(3, len(found.ids))
    assert all(str(found.ids[row]) in line for row, line in zip(found.worst, lines[1:]))


def test_a_row_alone_has_the_loss_that_it_has_in_the_batch(rolled):
    """Against an oracle: the other rows left in place, with weight 0."""
    found = replay.replay(rolled, 1)
    built = preparation.prepare(repeat.on_mesh(rolled.experiment, rolled.environment[0]))
    batch = prefetch.read(built.data, 0, np.arange(8))
    state = built.spec.init()
    for row in (0, 5):
        alone = batch | {'example_weights': np.float32(np.arange(8) == row)}
        apply = Apply(built.spec.module, state.params, state.model_state)
        outcome = built.experiment.objective(apply, alone, train=True, rngs=Rngs(step.key(0, 0)))
        assert found.losses[row] == pytest.approx(float(outcome.loss.total / outcome.loss.count), rel=1e-6)


@pytest.mark.parametrize('number', [0, 11])
def test_there_is_no_such_step(rolled, number):
    with pytest.raises(config.InputError, match='has steps 1 to 10'):
        replay.replay(rolled, number)


def test_the_command(rolled, capfd):
    bad, _ = bad_step()
    words = ['replay', str(rolled.path), '--examples', '3']
    assert __main__.main(argv=[*words, '--step', '2']) == 0
    assert 'as recorded, bit for bit' in ' '.join(capfd.readouterr().out.split())
    assert __main__.main(argv=[*words, '--step', str(bad), '--skipped', '0']) == 0
    lines = capfd.readouterr().out.splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.split() == ['loss', 'example', 'row']) + 1 :]
    assert table[0].split()[:2] == ['nan', str(NAN)]
    assert len(table) == 3 + 1
