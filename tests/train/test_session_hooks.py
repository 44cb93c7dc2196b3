"""What watches a session: a callback, the profiler and histograms; none changes what is trained."""

import numpy as np
import pytest

import tiny
from bigmodel_jax import config
from bigmodel_jax.hosts import preemption
from bigmodel_jax.train import loop
from bigmodel_jax.train.monitoring import callbacks, histograms, profiling


@pytest.fixture(scope='module')
def experiment():
    changes = {'evaluations.0.every_steps': 4, 'watch.log_every': 3, 'steps': 6, 'model.layers': 1}
    return config.vary(tiny.experiment(), changes)


@pytest.mark.slow
def test_a_callback_sees_each_metric_and_stops_the_run_and_no_watching_changes_the_result(experiment, tmp_path):
    seen, workdir = [], tmp_path / 'run'

    def callback(step, metrics):
        seen.append((step, {name.partition('/')[0] for name in metrics}))
        return step == 3

    watched = config.vary(experiment, {'watch.histograms_every': 2})
    stopped = loop.train(watched, workdir, callback=callback)
    assert seen == [(3, {'train'}), (4, {'validation'})]
    assert (stopped.step, stopped.stopped_by) == (4, 'callback')  # After the step that follows.
    (events,) = (workdir / 'tensorboard').iterdir()
    assert b'gradients/embedding.table' in events.read_bytes()
    plain = loop.train(config.vary(experiment, {'evaluations': ()}), tmp_path / 'plain', stop_after=4)
    assert stopped.digest == plain.digest


@pytest.mark.slow
def test_a_profile_is_written_and_changes_nothing(experiment, tmp_path):
    short = config.vary(experiment, {'evaluations': (), 'steps': 4})
    profiled = loop.train(short, tmp_path / 'run', profile=(2, 3))
    assert list((tmp_path / 'run' / profiling.FOLDER).rglob('*.xplane.pb'))
    assert list((tmp_path / 'run' / profiling.FOLDER).rglob('perfetto_trace.json.gz'))
    assert profiled.digest == loop.train(short, tmp_path / 'plain').digest


@pytest.mark.parametrize(
    'values',
    [
        np.random.default_rng(0).normal(size=(7, 11)).astype(np.float32),
        np.arange(-32, 33, dtype=np.float32),  # On the edges.
        np.float32([np.nan, 1.0, -np.inf, 2.0]),
    ],
)
def test_a_histogram_is_that_of_numpy(values):
    found = histograms.histogram(values)
    finite = values[np.isfinite(values)].astype(np.float64)
    counts, edges = np.histogram(finite, bins=histograms.BINS)
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_allclose(found.edges, edges, atol=1e-6)  # Float32, of order 1 to 32.
    np.testing.assert_allclose([found.total, found.squares], [finite.sum(), (finite**2).sum()], rtol=1e-5, atol=1e-5)


def test_a_histogram_of_equal_or_no_values_has_them_all():
    assert histograms.histogram(np.full(5, 2.0, np.float32)).counts.sum() == 5
    assert histograms.histogram(np.full(5, np.nan, np.float32)).counts.sum() == 0


def test_an_error_of_a_callback_names_it():
    def failing(step, metrics):
        raise ZeroDivisionError(step)

    hook = callbacks.Caller(failing, lambda: None)
    with pytest.raises(ZeroDivisionError) as error:
        hook.after_metrics(7, {'train/loss': 1.0})
    assert 'failing after step 7' in error.value.__notes__[0]
    with pytest.raises(config.InputError, match='returned 3 after step 7'):
        callbacks.Caller(lambda step, metrics: 3, lambda: None).after_metrics(7, {'train/loss': 1.0})


@pytest.mark.parametrize('callback', [5, lambda step: None, lambda step, metrics, more: None])
def test_a_callback_that_cannot_be_called_is_refused_before_the_start(callback, tmp_path):
    with pytest.raises(config.InputError, match='callback'):
        loop.train(tiny.experiment(), tmp_path / 'run', callback=callback)
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('steps', [(3, 2), (0, 2), (19, 21), (7, 9)])
def test_steps_that_are_not_trained_cannot_be_profiled(steps, tmp_path):
    with pytest.raises(config.InputError, match=f'--profile {steps[0]}:{steps[1]}'):
        loop.train(tiny.experiment(), tmp_path / 'run', profile=steps, stop_after=8 if steps == (7, 9) else None)
    assert not (tmp_path / 'run').exists()


def test_a_signal_counts_for_more_than_a_callback():
    asked = preemption.Interrupt()
    asked.request_stop()
    assert asked.agree(1, save=False).stop == preemption.CALLBACK
    asked.on_signal(preemption.signal.SIGTERM)
    asked.request_stop()
    assert asked.agree(2, save=False).stop == 'SIGTERM'
    assert preemption.CODES[preemption.CALLBACK] < min(preemption.CODES[each.name] for each in preemption.SIGNALS)
    assert preemption.status(preemption.CALLBACK) == 0
