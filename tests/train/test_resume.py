"""A run that was stopped and started again is the run that was not: bit for bit, in state and in metrics."""

import pytest

import tiny
from bigmodel_jax import config
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.train import loop


def shown(directory):
    """What a run's log says, without the clock and the sessions."""
    kept = [each for each in event_log.read(directory / 'metrics.jsonl') if each['kind'] in ('train', 'evaluation')]
    return [{key: value for key, value in each.items() if key not in ('time', 'seconds')} for each in kept]


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp('undisturbed')
    return loop.train(tiny.experiment(), directory)


# Before the first report, at a report, between reports, at a checkpoint, at an evaluation, and just before the end.
@pytest.mark.parametrize(
    'stops',
    [(7, 13), *[pytest.param(stops, marks=pytest.mark.slow) for stops in [(1, 2, 3), (1,), (3,), (8,), (10,), (19,)]]],
    ids=str,
)
def test_stopped_anywhere_and_started_again_it_is_the_same_run(undisturbed, stops, tmp_path):
    experiment = tiny.experiment()
    for stop in stops:
        stopped = loop.train(experiment, tmp_path, stop_after=stop)
        assert (stopped.step, stopped.stopped_by) == (stop, 'stop_after')
    result = loop.train(experiment, tmp_path)
    assert result.digest == undisturbed.digest  # Parameters, optimizer state and step.
    assert result.metrics == undisturbed.metrics
    assert shown(tmp_path) == shown(undisturbed.workdir)


def test_stopping_where_it_stopped_does_nothing(tmp_path):
    first = loop.train(tiny.experiment(), tmp_path, stop_after=3)
    again = loop.train(tiny.experiment(), tmp_path, stop_after=2)
    assert (again.step, again.digest, again.stopped_by) == (3, first.digest, 'stop_after')


def test_a_finished_run_is_left_as_it_is(undisturbed):
    again = loop.train(tiny.experiment(), undisturbed.workdir)
    assert (again.step, again.digest) == (undisturbed.step, undisturbed.digest)


@pytest.mark.slow
def test_another_seed_is_another_run(undisturbed, tmp_path):
    result = loop.train(config.vary(tiny.experiment(), {'seed': 1}), tmp_path)
    assert result.digest != undisturbed.digest


@pytest.mark.slow
def test_a_run_goes_on_on_another_mesh(undisturbed, tmp_path):
    """The sums of other devices are added in another order, so that floats differ in their last bits."""
    loop.train(tiny.experiment(), tmp_path, stop_after=10)
    moved = config.vary(tiny.experiment(), {'mesh.fsdp': 2, 'mesh.tensor': 2})
    result = loop.train(moved, tmp_path)
    assert result.metrics == pytest.approx(undisturbed.metrics, rel=1e-5)


def test_keep_policies(tmp_path):
    changes = {'checkpoints.every_steps': 2, 'checkpoints.keep_every': 8, 'evaluations.0.every_steps': 2}
    changes |= {'checkpoints.keep_last': 2, 'checkpoints.keep_best': 'validation/loss', 'optimizer.schedule.peak': 0.5}
    loop.train(config.vary(tiny.experiment(), changes), tmp_path)
    kept = sorted(int(path.name) for path in (tmp_path / 'checkpoints').iterdir() if path.name.isdigit())
    losses = {each['step']: each['metrics']['loss'] for each in shown(tmp_path) if each['kind'] == 'evaluation'}
    assert kept == sorted({18, 20, 8, 16, min(losses, key=losses.get)})
