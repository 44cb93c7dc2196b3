"""The mean of checkpoints: against NumPy, on a mesh, from the command line; and what has none is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from bigmodel_jax import __main__, config
from bigmodel_jax.parallel import sharding
from bigmodel_jax.runs import averaging, directory
from bigmodel_jax.train import loop

MESH = sharding.MeshShape(data=2, fsdp=2)


def experiment():
    return config.vary(tiny.experiment(), {'checkpoints.every_steps': 2, 'checkpoints.keep_last': 4, 'steps': 8})


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run of 8 steps with checkpoints of steps 2, 4, 6 and 8."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp('elsewhere'))  # Runs record the repository around them.
        path = tmp_path_factory.mktemp('run')
        loop.train(experiment(), path)
        yield directory.open_run(path)


def expected(run, steps):
    trees = [jax.tree.map(lambda x: np.array(x, np.float64), run.params(step)) for step in steps]
    return jax.tree.map(lambda *arrays: np.mean(arrays, axis=0), *trees)


def assert_mean(params, wanted):
    # Sums of float32 in one order; the spread of the checkpoints is a thousand times as large.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7), params, wanted)


def test_it_is_the_mean_of_the_last_checkpoints(run):
    found = run.average(3)
    assert (found.step, found.averaged) == (8, (4, 6, 8))
    assert_mean(found.params, expected(run, (4, 6, 8)))
    assert_mean(run.average(2, step=6).params, expected(run, (4, 6)))
    jax.tree.map(np.testing.assert_array_equal, run.average(1).params, run.params())


def test_what_is_sharded_stays_sharded(run):
    spread = config.vary(experiment(), {'mesh': MESH})
    found, one = run.average(3, experiment=spread), run.restore(experiment=spread)
    pairs = zip(jax.tree.leaves(found.params), jax.tree.leaves(one.params), strict=True)
    assert all(x.sharding.is_equivalent_to(y.sharding, y.ndim) for x, y in pairs)
    assert any(not x.sharding.is_fully_replicated for x in jax.tree.leaves(found.params))
    assert_mean(found.params, expected(run, (4, 6, 8)))


def test_sums_are_of_float32():
    """In bfloat16 256 + 1 is 256."""
    trees = [{'x': jnp.array([value], jnp.bfloat16)} for value in (256.0, 1.0, 1.0)]
    found = averaging.mean(iter(trees))['x']
    assert (found.dtype, found.item()) == (jnp.bfloat16, 86.0)


@pytest.mark.parametrize(
    ('trees', 'message'),
    [
        ([{'a': {'ids': np.arange(3, dtype=np.int32)}}], 'a.ids is int32, whose mean is not int32'),
        ([], 'no checkpoint to take'),
    ],
)
def test_what_has_no_mean_is_refused(trees, message):
    with pytest.raises(config.InputError, match=message):
        averaging.mean(trees)


@pytest.mark.parametrize(
    ('last', 'step', 'message'),
    [
        (5, None, r'holds 4 checkpoints \(2, 4, 6, 8\), too few for the mean of 5.*checkpoints.keep_last=5'),
        (3, 4, r'holds 2 checkpoints up to step 4.*too few for the mean of 3'),
        (2, 5, 'holds no checkpoint of step 5; there are 2, 4, 6, 8'),
        (0, None, 'The mean of 0 checkpoints'),
    ],
)
def test_checkpoints_that_are_not_there(run, last, step, message):
    with pytest.raises(config.InputError, match=message):
        run.average(last, step)


@pytest.mark.slow
def test_evaluate_says_what_it_averaged_and_keeps_it_apart(run, capsys):
    """The loss printed is that of the mean, which no single checkpoint has."""
    before = run.metrics('validation/loss')
    assert __main__.main(argv=['evaluate', str(run.path), '--average', '4']) == 0
    out = capsys.readouterr().out
    assert 'the mean of the checkpoints of steps 2, 4, 6, 8' in out
    again = directory.open_run(run.path)
    steps, losses = again.metrics('validation_average4/loss')
    assert steps.tolist() == [8]
    assert losses[0] == run.average(4).evaluate()['validation_average4'].values['loss']
    assert losses[0] not in before[1]
    np.testing.assert_array_equal(again.metrics('validation/loss'), before)
