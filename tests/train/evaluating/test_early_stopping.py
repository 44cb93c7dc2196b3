"""Early stopping: at which evaluation a run ends, that an interrupted run ends there too, and that it is then over."""

import json
import math
import shutil

import pytest

import tiny
from bigmodel_jax import config
from bigmodel_jax.experiment import EarlyStopping
from bigmodel_jax.reproduce import verify
from bigmodel_jax.runs import directory
from bigmodel_jax.train import loop
from bigmodel_jax.train.evaluating import early_stopping


def ends_at(values, direction, **asked):
    """The index of the value at which a run ends, where the state goes through JSON between all evaluations."""
    changes = {'watch.early_stopping': EarlyStopping(metric='validation/x', **asked)}
    experiment, position = config.vary(tiny.experiment(), changes), {}
    for index, value in enumerate(values):
        monitor = early_stopping.Monitor(experiment, direction, json.loads(json.dumps(position)))
        monitor.see(index, {'validation/x': value, 'validation/other': 0.0})
        if monitor.reason is not None:
            return index
        position = monitor.position
    return None


@pytest.mark.parametrize(
    ('values', 'asked', 'index'),
    [
        ([3.0, 2.0, 2.5, 1.0, 1.0, 1.5], {'patience': 2}, 5),
        ([3.0, 2.0, 2.5, 1.0, 0.9, 0.8], {'patience': 2}, None),
        ([3.0, 2.0, 2.5], {'patience': 1}, 2),
        ([3.0, 2.75, 2.5, 2.25], {'patience': 2, 'min_delta': 0.5}, 2),  # Each by 0.25: not more than 0.5 ...
        ([3.0, 2.75, 2.25, 2.0], {'patience': 2, 'min_delta': 0.5}, None),  # ... but 2.25 is.
        ([math.nan, 3.0, math.inf, math.nan], {'patience': 2}, 3),
        ([math.nan, math.nan], {'patience': 2}, 1),
    ],
)
def test_it_ends_when_the_metric_did_not_improve_often_enough_in_a_row(values, asked, index):
    assert ends_at(values, 'lower', **asked) == index
    assert ends_at([-value for value in values], 'higher', **asked) == index


@pytest.fixture(scope='module')
def experiment():
    never = EarlyStopping(metric='validation/loss', patience=2, min_delta=100.0)
    changes = {'evaluations.0.every_steps': 1, 'watch.early_stopping': never, 'model.layers': 1}
    return config.vary(tiny.experiment(), changes)


@pytest.fixture(scope='module')
def finished(experiment, tmp_path_factory):
    """A run that was interrupted between the evaluations that count."""
    workdir = tmp_path_factory.mktemp('early') / 'run'
    stopped = loop.train(experiment, workdir, stop_after=2)
    assert (stopped.stopped_by, directory.open_run(workdir).finished) == ('stop_after', False)
    return loop.train(experiment, workdir)


@pytest.mark.slow
def test_an_interrupted_run_stops_early_at_the_same_step_and_is_then_finished(experiment, finished):
    assert (finished.step, finished.stopped_by) == (3, 'early_stopping')
    run = directory.open_run(finished.workdir)
    assert (run.finished, run.checkpoints[-1], run.digest) == (True, 3, finished.digest)
    assert run.state.startswith('finished early at step 3: validation/loss did not improve in the last 2 evaluations')
    assert loop.train(experiment, finished.workdir) == finished  # Trains nothing.


@pytest.mark.slow
def test_a_run_that_stopped_early_is_repeated_bit_for_bit(finished):
    found = verify.verify(directory.open_run(finished.workdir))  # Without an interruption.
    assert (found.identical, found.until) == (True, 3)


@pytest.mark.slow
def test_a_run_that_stopped_early_goes_on_with_more_patience(experiment, finished, tmp_path):
    shutil.copytree(finished.workdir, tmp_path / 'run')
    longer = config.vary(experiment, {'watch.early_stopping.patience': 3})
    assert loop.train(longer, tmp_path / 'run').step == 4
