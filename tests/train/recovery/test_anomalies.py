"""Numbers that go wrong at a known step: each guard does what it says, and nothing bad is ever saved."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from bigmodel_jax import config
from bigmodel_jax.optim import anomaly_policy, optimizers, schedules
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.train import loop, metrics, preparation
from runs import quick

EPOCH = tiny.EXAMPLES // 8  # Whole batches of 8 before an example can come again.
BAD_STEP = 10  # After the checkpoint of step 8.
SPIKES = anomaly_policy.Spikes(loss=None, grad_norm=2.0, window=5)  # The norm is about 1, and 2.3 in the wild step.


def example_of(step: int, row: int = 3) -> int:
    """The example in a row of the batch of a step (from 1)."""
    return int(preparation.build(quick.experiment()).data.ids(step - 1)[row])


def experiment(guard: anomaly_policy.AnomalyPolicy, **data: object):
    changes = {f'data.{name}': value for name, value in data.items()}
    return config.vary(
        quick.experiment(),
        {'steps': EPOCH, 'watch.anomalies': guard, 'watch.log_every': 1, 'checkpoints.every_steps': 8, **changes},
    )


def events(directory, kind):
    return [each for each in event_log.read(directory / 'metrics.jsonl') if each['kind'] == kind]


def losses(directory) -> dict[int, float]:
    return {each['step']: each['metrics']['loss'] for each in events(directory, 'train')}


POISONS = pytest.mark.parametrize('poison', ['nan_example', pytest.param('wild_example', marks=pytest.mark.slow)])


def guarded(cls: type[anomaly_policy.AnomalyPolicy], poison: str, **more: int):
    spikes = SPIKES if poison == 'wild_example' else None
    return experiment(cls(spikes=spikes, **more), **{poison: example_of(BAD_STEP)})


@POISONS
def test_stop(tmp_path, poison):
    what = 'not finite' if poison == 'nan_example' else 'a spike'
    with pytest.raises(metrics.Anomalous, match=rf'step {BAD_STEP}: {what}: .* newest checkpoint is of step 8; '):
        loop.train(guarded(anomaly_policy.Stop, poison), tmp_path)
    assert [path.name for path in (tmp_path / 'checkpoints').iterdir() if path.name.isdigit()] == ['8']


@POISONS
def test_skip_leaves_parameters_as_they_were(tmp_path, poison):
    wrong = guarded(anomaly_policy.Skip, poison)
    before = loop.train(wrong, tmp_path / 'a', stop_after=BAD_STEP - 1)
    assert [each['step'] for each in events(before.workdir, 'skipped')] == []
    result = loop.train(wrong, tmp_path / 'a')
    assert [each['step'] for each in events(result.workdir, 'skipped')] == [BAD_STEP]
    assert sorted(losses(result.workdir)) == [step for step in range(1, EPOCH + 1) if step != BAD_STEP]
    prints = {each['step']: each for each in event_log.read(tmp_path / 'a' / 'trace.jsonl') if 'checksums' in each}
    assert prints[EPOCH]['optimizer'] != prints[BAD_STEP - 1]['optimizer']
    # The same run with a stop just after the bad step sees the parameters from before it.
    loop.train(wrong, tmp_path / 'b', stop_after=BAD_STEP)
    loop.train(wrong, tmp_path / 'b', stop_after=BAD_STEP + 1)
    others = {each['step']: each for each in event_log.read(tmp_path / 'b' / 'trace.jsonl') if 'checksums' in each}
    assert others[BAD_STEP]['checksums'] == prints[BAD_STEP - 1]['checksums']
    assert loop.train(wrong, tmp_path / 'b').digest == result.digest


def test_skip_stops_when_nothing_else_happens(tmp_path):
    poisoned = experiment(anomaly_policy.Skip(limit=3), poisoned=True)
    with pytest.raises(metrics.Anomalous, match=r'step 4: .* That is 4 steps in a row, over the limit'):
        loop.train(poisoned, tmp_path)


@POISONS
def test_roll_back_leaves_out_the_batches_since_the_checkpoint(tmp_path, poison):
    result = loop.train(guarded(anomaly_policy.RollBack, poison), tmp_path / 'a')
    back = events(tmp_path / 'a', 'rollback')
    assert [each['step'] for each in back] == [8]
    assert back[0]['text'].startswith(f'step {BAD_STEP}: ')
    assert back[0]['text'].endswith('Back to step 8, and on without batches 8 to 9.')
    assert sorted(losses(tmp_path / 'a')) == list(range(1, EPOCH + 1))
    # Batches 8 and 9, of steps 9 and 10, are left out.
    assert certificates(tmp_path / 'a') == of_batches([*range(8), *range(BAD_STEP, BAD_STEP + EPOCH - 8)])
    # Stopped on the way, before and after, it takes the same way.
    for stop in (9, 11):
        loop.train(guarded(anomaly_policy.RollBack, poison), tmp_path / 'b', stop_after=stop)
    assert loop.train(guarded(anomaly_policy.RollBack, poison), tmp_path / 'b').digest == result.digest


def test_a_roll_back_to_where_a_segment_began_takes_its_own_optimizer(tmp_path):
    """The checkpoint there was made with another one, whether or not the session has been interrupted since."""
    first = guarded(anomaly_policy.RollBack, 'nan_example')
    then = config.vary(first, {'optimizer': optimizers.Lion(schedule=schedules.Constant(peak=1e-3))})
    digests = []
    for stops in ((), (9,)):
        directory = tmp_path / str(len(digests))
        loop.train(first, directory, stop_after=8)
        for stop in (*stops, None):
            result = loop.train(then, directory, stop_after=stop, new_segment=True)
        assert [each['step'] for each in events(directory, 'rollback')] == [8]
        digests.append(result.digest)
    assert digests[0] == digests[1]


def certificates(directory) -> list[str]:
    found = [each for each in event_log.read(directory / 'trace.jsonl') if each['kind'] == 'certificates']
    return [one for each in found for one in each['ids']]


def of_batches(indices) -> list[str]:
    batches = preparation.build(quick.experiment()).data
    sums = [batches.row_hashes(batches.ids(index)).sum(axis=0, dtype=np.uint32) for index in indices]
    return [f'{int(a):08x}{int(b):08x}' for a, b in sums]


def test_roll_back_twice_to_one_checkpoint(tmp_path):
    poisons = {'nan_example': example_of(BAD_STEP), 'wild_example': example_of(BAD_STEP + 2)}
    loop.train(experiment(anomaly_policy.RollBack(spikes=SPIKES), **poisons), tmp_path)
    back = events(tmp_path, 'rollback')
    assert [each['text'].rpartition('without ')[2] for each in back] == ['batches 8 to 9.', 'batches 10 to 11.']
    assert certificates(tmp_path) == of_batches([*range(8), *range(12, 12 + EPOCH - 8)])


def test_roll_back_before_the_first_checkpoint_begins_anew(tmp_path):
    poisoned = experiment(anomaly_policy.RollBack(), nan_example=example_of(2))
    loop.train(poisoned, tmp_path)
    assert [each['step'] for each in events(tmp_path, 'rollback')] == [0]
    fingerprints = [each for each in event_log.read(tmp_path / 'trace.jsonl') if each['kind'] == 'fingerprint']
    assert (fingerprints[0]['step'], fingerprints[0]['norms']) == (0, None)
    assert sorted(losses(tmp_path)) == list(range(1, EPOCH + 1))


def test_roll_back_stops_at_its_limit(tmp_path):
    poisoned = experiment(anomaly_policy.RollBack(limit=2), poisoned=True)
    with pytest.raises(metrics.Anomalous, match='has gone back 2 times, the limit'):
        loop.train(poisoned, tmp_path)


def test_a_run_that_stopped_goes_on_with_another_guard(tmp_path):
    poison = {'nan_example': example_of(BAD_STEP)}
    with pytest.raises(metrics.Anomalous):
        loop.train(experiment(anomaly_policy.Stop(), **poison), tmp_path)
    result = loop.train(experiment(anomaly_policy.Skip(), **poison), tmp_path)
    assert result.step == EPOCH
    assert json.loads((tmp_path / 'experiment.json').read_text())['watch']['anomalies']['class'].endswith('Skip')


def test_levels_are_the_means_of_the_steps_that_were_fine():
    """Against NumPy in float64: the mean of all steps at first, exponential after `window` of them."""
    guard = anomaly_policy.Stop(spikes=anomaly_policy.Spikes(loss=2.0, grad_norm=None, window=4))
    values = [4.0, 3.0, 3.5, 2.5, 2.0, 9.0, 2.0, np.nan, 1.5]
    levels, mean, seen = anomaly_policy.RunningStats.initial(), 0.0, 0
    for value in values:
        wanted = anomaly_policy.OK
        if not np.isfinite(value):
            wanted = anomaly_policy.NOT_FINITE
        elif seen >= 4 and value > 2 * mean:
            wanted = anomaly_policy.SPIKE
        else:
            seen += 1
            mean += (value - mean) / min(seen, 4)
        verdict, levels = guard.judge(levels, jnp.float32(value), jnp.float32(1))
        assert int(verdict) == wanted
        # Rounding of float32.
        np.testing.assert_allclose(float(levels.loss), mean, rtol=1e-6)
    assert int(levels.seen) == seen


# ---- a roll-back never throws a run away ---------------------------------------------------------------------------

LONG, EVERY, BAD = 11, 4, 11  # Step 11 goes wrong; the last multiple of 4 before it is 8.


def rolling(**more: object):
    changes = {'checkpoints.every_steps': EVERY, 'checkpoints.keep_last': 2, **more}
    return config.vary(experiment(anomaly_policy.RollBack(), nan_example=example_of(BAD)), changes)


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp('undisturbed')
    return loop.train(rolling(), directory)


def rolled_back(directory) -> list[str]:
    return [each['text'].rpartition('. Back to ')[2] for each in events(directory, 'rollback')]


def assert_equal_runs(directory, undisturbed):
    assert losses(directory) == losses(undisturbed.workdir)
    assert certificates(directory) == certificates(undisturbed.workdir)


def test_a_stopped_run_rolls_back_as_an_undisturbed_one(tmp_path, undisturbed):
    """Two checkpoints of stops are newer than the one that the roll-back needs; keep_last=2 keeps it all the same."""
    for stop in (9, 10):
        loop.train(rolling(), tmp_path, stop_after=stop)
    assert checkpoints_of(tmp_path) == [4, 8, 9, 10]
    result = loop.train(rolling(), tmp_path)
    assert rolled_back(tmp_path) == ['step 8, and on without batches 8 to 10.']
    assert result.digest == undisturbed.digest
    assert_equal_runs(tmp_path, undisturbed)


def checkpoints_of(directory) -> list[int]:
    return sorted(int(path.name) for path in (directory / 'checkpoints').iterdir() if path.name.isdigit())


def test_checkpoints_of_time_do_not_drive_out_the_one_that_a_roll_back_needs(tmp_path, undisturbed):
    """A save after almost every step, as every_minutes makes when steps are slow."""
    result = loop.train(rolling(**{'checkpoints.every_minutes': 1e-9}), tmp_path)
    assert rolled_back(tmp_path) == ['step 8, and on without batches 8 to 10.']
    assert result.digest == undisturbed.digest


@pytest.mark.parametrize('spacing', [3, pytest.param(5, marks=pytest.mark.slow)])
def test_a_missing_regular_checkpoint_is_computed_again(tmp_path, undisturbed, spacing):
    """Saved at other steps until then, as by another every_steps, or when a save failed and was made up for later."""
    loop.train(rolling(**{'checkpoints.every_steps': spacing}), tmp_path, stop_after=10)
    result = loop.train(rolling(), tmp_path)
    start = 8 // spacing * spacing
    assert rolled_back(tmp_path) == [
        f'step 8, which is computed again from the checkpoint of step {start}, and on without batches 8 to 10.'
    ]
    assert result.digest == undisturbed.digest
    assert_equal_runs(tmp_path, undisturbed)


def test_a_run_without_a_checkpoint_to_go_back_to_stops_and_loses_nothing(tmp_path):
    """As when the guard is changed late: those that are left were all saved after step 8."""
    for stop in (9, 10):
        loop.train(config.vary(rolling(), {'watch.anomalies': anomaly_policy.Stop()}), tmp_path, stop_after=stop)
    with pytest.raises(metrics.Anomalous, match=r'goes back to step 8, but no checkpoint .* \(there are: 9, 10\)'):
        loop.train(rolling(), tmp_path)
    assert checkpoints_of(tmp_path) == [9, 10]


def test_roll_backs_to_step_0_are_said_or_refused_before_the_run(tmp_path):
    never = rolling(**{'checkpoints.every_steps': 100})
    with pytest.raises(config.InputError, match='every_steps=100 comes before the last step, 12, so that every'):
        loop.train(config.vary(never, {'checkpoints.every_minutes': 10.0}), tmp_path)
    assert not list(tmp_path.iterdir())
    loop.train(never, tmp_path, stop_after=1)
    assert [each['text'] for each in events(tmp_path, 'warning')] == [
        'warning: until step 100 (checkpoints.every_steps), a roll-back (watch.anomalies) begins again at step 0. Set '
        'checkpoints.every_steps to the number of steps that a roll-back may cost.'
    ]
