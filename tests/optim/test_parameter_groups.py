"""Parameter groups: a multiple scales the whole update, decay follows the groups, the default is the optimizer's."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bigmodel_jax import config
from bigmodel_jax.optim import optimizers, parameter_groups, schedules
from bigmodel_jax.optim.parameter_groups import Group

RATE = schedules.Constant(peak=0.1)
AXES = {'body': {'up': ('embed', 'hidden'), 'bias': ('hidden',)}, 'head': ('embed', 'vocab')}
SHAPES = {'body': {'up': (4, 6), 'bias': (6,)}, 'head': (4, 5)}
KINDS = [
    optimizers.AdamW(schedule=RATE, weight_decay=0.1),
    optimizers.Adafactor(schedule=RATE, weight_decay=0.1),
    optimizers.Lion(schedule=RATE, weight_decay=0.1),
    optimizers.Sgd(schedule=RATE, weight_decay=0.1),
    optimizers.Muon(schedule=RATE, weight_decay=0.1),
]


def drawn(seed):
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(random.normal(size=shape), jnp.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def updates(optimizer, axes=AXES):
    """The updates of the trained parameters in a first step."""
    params, rule = drawn(0), optimizer.build(10, optimizer.assign(axes))
    grads = optimizer.assign(axes).trained(drawn(1))
    return jax.jit(lambda grads, params: rule.update(grads, rule.init(params), params)[0])(grads, params)


@pytest.mark.parametrize('optimizer', KINDS, ids=lambda each: type(each).__name__)
def test_a_multiple_of_the_learning_rate_scales_the_update_of_its_group_alone(optimizer):
    plain = updates(optimizer)
    grouped = updates(dataclasses.replace(optimizer, groups=(Group(match='body.*', learning_rate_multiple=0.5),)))
    np.testing.assert_array_equal(plain['head'], grouped['head'])
    # Half of a float is exact.
    jax.tree.map(lambda one, other: np.testing.assert_array_equal(0.5 * one, other), plain['body'], grouped['body'])


@pytest.mark.parametrize('optimizer', KINDS, ids=lambda each: type(each).__name__)
def test_without_the_frozen_ones_the_others_are_updated_the_same(optimizer):
    plain = updates(optimizer)
    grouped = updates(dataclasses.replace(optimizer, groups=(Group(match='head', frozen=True),)))
    assert grouped.keys() == {'body'}
    # The last bit may differ, as a program for other arrays is fused otherwise.
    same = functools.partial(np.testing.assert_allclose, rtol=3e-7)
    jax.tree.map(same, plain['body'], grouped['body'])


def test_decay_follows_the_groups_and_the_default_spares_vectors():
    assert parameter_groups.assign((), AXES).decayed == {'body': {'up': True, 'bias': False}, 'head': True}
    groups = (Group(axes=('vocab',), decay=False), Group(match='*.bias', decay=True))
    assert parameter_groups.assign(groups, AXES).decayed == {'body': {'up': True, 'bias': True}, 'head': False}


def test_each_layer_has_its_own_multiple():
    axes, shape = {'up': ('layers', 'embed', 'hidden')}, (3, 4, 6)
    params, grads = ({'up': jnp.full(shape, value)} for value in (0.5, 2.0))
    plain = optimizers.Lion(schedule=RATE, weight_decay=0.1)
    grouped = dataclasses.replace(plain, groups=(Group(axes=('layers',), learning_rate_multiple=(0.25, 0.5, 1.0)),))
    one, other = (
        rule.update(grads, rule.init(params), params)[0]['up']
        for rule in (each.build(10, each.assign(axes)) for each in (plain, grouped))
    )
    np.testing.assert_array_equal(other, one * np.array([0.25, 0.5, 1.0])[:, None, None])


def test_merging_gives_back_what_was_left_out():
    params = drawn(0)
    assigned = parameter_groups.assign((Group(match='body.up', frozen=True),), AXES)
    trained = assigned.trained(params)
    assert jax.tree.structure(trained) == jax.tree.structure({'body': {'bias': 0}, 'head': 0})
    jax.tree.map(np.testing.assert_array_equal, parameter_groups.merged(params, trained), params)
    moved = parameter_groups.merged(params, optax.tree.scale(2.0, trained))
    np.testing.assert_array_equal(moved['body']['up'], params['body']['up'])
    np.testing.assert_array_equal(moved['head'], 2 * params['head'])


def test_each_parameter_is_described():
    groups = (Group(match='head', frozen=True), Group(axes=('hidden',), learning_rate_multiple=0.1))
    assert parameter_groups.assign(groups, AXES).described() == {
        'body.up': 'decay, rate x 0.1', 'body.bias': 'no decay, rate x 0.1', 'head': 'frozen',
    }  # fmt: skip


@pytest.mark.parametrize('optimizer', KINDS, ids=lambda each: type(each).__name__)
def test_weight_decay_multiple_scales_the_decay_alone(optimizer):
    if not optimizer.decoupled:
        with pytest.raises(config.InputError, match='part of the gradient'):
            updates(dataclasses.replace(optimizer, groups=(Group(axes=('hidden',), weight_decay_multiple=3.0),)))
        return
    plain, none = updates(optimizer), updates(dataclasses.replace(optimizer, weight_decay=0.0))
    scaled = updates(dataclasses.replace(optimizer, groups=(Group(match='*up', weight_decay_multiple=3.0),)))
    decay = jax.tree.map(jnp.subtract, plain, none)
    # Float32: differences of updates of order 0.1.
    np.testing.assert_allclose(scaled['body']['up'], none['body']['up'] + 3 * decay['body']['up'], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scaled['head'], plain['head'], rtol=1e-6)
    np.testing.assert_allclose(scaled['body']['bias'], plain['body']['bias'], rtol=1e-6)


def test_weight_decay_multiple_needs_a_weight_decay():
    optimizer = optimizers.AdamW(schedule=RATE, groups=(Group(weight_decay_multiple=2.0),))
    with pytest.raises(config.InputError, match='set a weight decay'):
        updates(optimizer)
