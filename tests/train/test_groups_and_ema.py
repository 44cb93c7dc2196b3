"""Parameter groups and the moving average in training: what is frozen, what is averaged, what is restored."""

import jax
import numpy as np
import pytest

import tiny
from bigmodel_jax import config
from bigmodel_jax.optim import ema, parameter_groups
from bigmodel_jax.optim.parameter_groups import Group
from bigmodel_jax.parallel import sharding
from bigmodel_jax.runs import directory
from bigmodel_jax.train import loop, preparation, state

STEPS = 6
FROZEN = Group(match='embedding.*', frozen=True)


def short(**changes):
    base = {'steps': STEPS, 'checkpoints.every_steps': 3}
    base |= {} if 'evaluations' in changes else {'evaluations.0.every_steps': 3}
    return config.vary(tiny.without_dropout(), base | changes)


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='.'): np.asarray(leaf) for path, leaf in leaves}


@pytest.fixture(scope='module')
def averaged(tmp_path_factory):
    """A finished run with frozen embeddings and an average, which was interrupted; and its result."""
    experiment = short(**{'optimizer.groups': (FROZEN,), 'ema': ema.Ema(decay=0.9, warmup=False)})
    path = tmp_path_factory.mktemp('averaged')
    loop.train(experiment, path, stop_after=4)
    return experiment, path, loop.train(experiment, path)


def test_frozen_parameters_keep_their_bits_and_have_no_optimizer_state(averaged):
    experiment, path, _ = averaged
    run = preparation.build(experiment)
    with sharding.use(run.place):
        first = flat(run.spec.init().params)
    last = flat(directory.open_run(path).params())
    same = {name for name in first if np.array_equal(first[name], last[name])}
    assert same == {name for name in first if name.startswith('embedding.')}
    for tree in (run.spec.abstract.opt_state, run.spec.abstract.ema):
        names = {jax.tree_util.keystr(path, simple=True) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}
        assert names
        assert not any('embedding' in name for name in names)


def test_the_average_is_that_of_the_weights_after_each_step(tmp_path):
    experiment = short(
        **{'checkpoints.every_steps': 1, 'checkpoints.keep_every': 1, 'ema': ema.Ema(decay=0.9, warmup=False)},
        evaluations=(),
    )
    loop.train(experiment, tmp_path)
    run, prepared = directory.open_run(tmp_path), preparation.build(experiment)
    with sharding.use(prepared.place):
        average = flat(prepared.spec.init().params)
    for step in range(1, STEPS + 1):
        weights = flat(run.params(step))
        average = {name: 0.9 * np.float64(old) + 0.1 * np.float64(weights[name]) for name, old in average.items()}
    found = flat(run.restore(weights='ema').params)
    for name, expected in average.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-7)  # Six sums in float32.


@pytest.mark.slow
def test_evaluations_use_the_average_and_an_interruption_changes_nothing(averaged, tmp_path):
    experiment, path, result = averaged
    assert loop.train(experiment, tmp_path / 'whole').digest == result.digest
    run = directory.open_run(path)
    with_average = run.restore().evaluate()['validation'].values['loss']
    assert with_average == result.metrics['validation/loss']
    assert run.restore(weights='trained').evaluate()['validation_trained'].values['loss'] != with_average


@pytest.mark.slow
def test_the_average_changes_no_weight_and_its_absence_no_digest(tmp_path):
    plain = loop.train(short(evaluations=()), tmp_path / 'plain')
    beside = loop.train(short(ema=ema.Ema(), evaluations=()), tmp_path / 'beside')
    weights = [flat(directory.open_run(tmp_path / name).params()) for name in ('plain', 'beside')]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert plain.digest != beside.digest
    with pytest.raises(config.InputError, match=r'weights=.ema.: .* keeps no moving average'):
        directory.open_run(tmp_path / 'plain').restore(weights='ema')


def test_the_average_is_sharded_like_the_parameters():
    experiment = short(ema=ema.Ema(), mesh=sharding.MeshShape(data=2, fsdp=2))
    found = state.specify(experiment, experiment.mesh.build()).shardings
    assert found.ema == found.params
    assert not all(each.is_fully_replicated for each in jax.tree.leaves(found.ema))


def test_the_decay_warms_up():
    decays = [float(ema.Ema(decay=0.5).decay_after(step)) for step in range(20)]
    np.testing.assert_allclose(decays[:2], [2 / 11, 3 / 12], rtol=1e-6)
    assert max(decays) == decays[-1] == 0.5


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('groups', 'message'),
    [
        ((Group(match='embeding.*', frozen=True),), r"groups\.0\.match: no parameter .* 'embeding\.\*'\. Did you mean"),
        ((Group(without=('head.*',), frozen=True),), r"groups\.0\.without: no parameter .* 'head\.\*'"),
        ((Group(axes=('vocabulary',), decay=False),), r"groups\.0\.axes: .*'vocabulary'\. Did you mean 'vocab'"),
        ((Group(match='blocks.*', axes=('vocab',), decay=False),), 'no parameter has both'),
        ((Group(frozen=True),), 'all [0-9]+ parameters are frozen'),
        ((Group(axes=('layers',), learning_rate_multiple=(0.1, 0.2, 0.4)),), 'has 2 layers, but .* has 3 values'),
        ((Group(learning_rate_multiple=(0.1, 0.2)),), 'is not an array of stacked layers; select those with axes='),
        (
            (Group(decay=False), Group(match='blocks.*', decay=True)),
            r'is in groups 0 and 1, of which one says decay=False and the other decay=True',
        ),
    ],
)
def test_groups_that_do_not_fit_are_refused_before_a_compile(groups, message):
    with pytest.raises(config.InputError, match=message):
        preparation.build(short(**{'optimizer.groups': groups}))


def test_decay_without_a_weight_decay_is_refused():
    with pytest.raises(config.InputError, match=r'has no effect with optimizer\.weight_decay=0\.0'):
        preparation.build(short(**{'optimizer.groups': (Group(decay=True),), 'optimizer.weight_decay': 0.0}))


@pytest.mark.parametrize(
    'fields', [{}, {'frozen': True, 'decay': True}, {'frozen': True, 'learning_rate_multiple': 2.0}]
)
def test_a_group_says_one_thing_that_can_be(fields):
    with pytest.raises(config.InputError):
        parameter_groups.Group(**fields)
