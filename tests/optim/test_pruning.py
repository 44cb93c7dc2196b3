"""Masks by magnitude against NumPy, their schedule, and zeros that stay zero in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.optim import optimizers, parameter_groups, pruning, schedules

AXES = {'layer': {'up': ('layers', 'embed', 'hidden'), 'bias': ('layers', 'hidden')}}


def params():
    up = jax.random.normal(jax.random.key(0), (2, 8, 6))
    return {'layer': {'up': up, 'bias': jnp.ones((2, 6))}}


@pytest.mark.parametrize('sparsity', [0.0, 0.25, 0.5, 0.9])
def test_the_smallest_of_each_layer_are_left_out(sparsity):
    mask = pruning.masks(params(), AXES, sparsity)['layer']['up']
    for layer, found in zip(np.asarray(params()['layer']['up']), np.asarray(mask)):
        order = np.sort(np.abs(layer).ravel())
        count = round(sparsity * layer.size)
        expected = np.abs(layer) > (order[count - 1] if count else -1)
        np.testing.assert_array_equal(found, expected)
        assert (~found).sum() == count


def test_two_of_four_neighbours_along_the_inputs_stay():
    mask = pruning.block_masks(params(), {'layer.up': (1,)}, kept=2, block=4)['layer']['up']
    blocks = np.asarray(mask).reshape(2, 2, 4, 6)
    np.testing.assert_array_equal(blocks.sum(axis=2), 2)
    size = np.abs(np.asarray(params()['layer']['up'])).reshape(2, 2, 4, 6)
    assert (np.where(blocks, size, np.inf).min(axis=2) >= np.where(blocks, -np.inf, size).max(axis=2)).all()


def test_the_schedule_is_the_cubic_one():
    gradual = pruning.Gradual(final=0.8, first_step=10, last_step=50, every_steps=10)
    for step in (0, 10, 17, 50, 60):
        share = min(max((step - 10) / 40, 0), 1)
        assert float(gradual.sparsity(step)) == pytest.approx(0.8 + (0 - 0.8) * (1 - share) ** 3, abs=1e-6)
    assert [step for step in range(60) if gradual.is_due(step)] == [10, 20, 30, 40, 50]
    with pytest.raises(config.InputError, match='last_step must be larger'):
        pruning.Gradual(final=0.5, first_step=5, last_step=5)


@pytest.mark.parametrize('gradual', [None, pruning.Gradual(final=0.75, last_step=6, every_steps=2)])
def test_zeros_stay_zero_and_grow_by_the_schedule(gradual):
    inner = optimizers.AdamW(schedule=schedules.Constant(peak=0.1), weight_decay=0.1)
    how = pruning.Pruned(optimizer=inner, gradual=gradual)
    rule = how.build(10, how.assign(AXES))
    now = pruning.masked(params(), pruning.masks(params(), AXES, 0.25))
    state, zeros = rule.init(now), np.asarray(now['layer']['up']) == 0
    update = jax.jit(rule.update)
    for _ in range(8):
        updates, state = update(jax.tree.map(jnp.cos, now), state, now)
        now = jax.tree.map(jnp.add, now, updates)
        up = np.asarray(now['layer']['up'])
        assert (up[zeros] == 0).all()
        zeros = up == 0
    assert (np.asarray(now['layer']['bias']) != 0).all()
    np.testing.assert_array_equal(zeros.sum(axis=(1, 2)), 12 if gradual is None else 36)


def test_a_matrix_initialized_to_zeros_learns():
    how = pruning.Pruned(optimizer=optimizers.Sgd(schedule=schedules.Constant(peak=0.1)))
    rule = how.build(10, parameter_groups.assign((), {'up': ('embed', 'hidden')}))
    zeros = {'up': jnp.zeros((2, 2))}
    updates, _ = rule.update({'up': jnp.ones((2, 2))}, rule.init(zeros), zeros)
    assert (updates['up'] != 0).all()
