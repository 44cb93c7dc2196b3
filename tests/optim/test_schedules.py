"""Schedules: PyTorch's and the paper's numbers, corner points, and what is refused."""

import pathlib

import jax
import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.optim import schedules

ORACLES = pathlib.Path(__file__).parents[1] / 'oracles' / 'operations.npz'


def rates(schedule, steps, at):
    """The rates of a run of `steps` updates at the steps `at`."""
    return np.array(jax.jit(jax.vmap(schedule.build(steps)))(np.asarray(at, np.int32)))


@pytest.mark.parametrize(
    ('schedule', 'name'),
    [
        (schedules.WarmupLinear(peak=1.0, warmup_steps=10), 'sched_linear'),
        (schedules.WarmupCosine(peak=1.0, warmup_steps=10), 'sched_cosine'),
        (schedules.Constant(peak=1.0, warmup_steps=10), 'sched_constant'),
    ],
)
def test_schedule_is_that_of_transformers(schedule, name):
    """But for the warm-up, which theirs begins with a rate of 0 and ours one update further on."""
    with np.load(ORACLES) as oracles:
        expected = oracles[name]
    found = rates(schedule, 100, range(101))
    np.testing.assert_allclose(found[10:], expected[10:], atol=2e-7)
    np.testing.assert_allclose(found[:10], expected[1:11], rtol=1e-6)


def test_inverse_sqrt_is_equation_3_of_the_transformer():
    with np.load(ORACLES) as oracles:
        numbers, expected = oracles['sched_noam_steps'], oracles['sched_noam_d512_w4000']
    schedule = schedules.InverseSqrt(peak=(512 * 4_000) ** -0.5, warmup_steps=4_000)
    np.testing.assert_allclose(rates(schedule, 100_000, numbers - 1), expected, rtol=1e-6)


def test_inverse_sqrt_is_that_of_transformers():
    """Theirs calls the first update 0, whose rate is 0, and the next one 1, as equation 3 does."""
    with np.load(ORACLES) as oracles:
        expected = oracles['sched_inv_sqrt']
    schedule = schedules.InverseSqrt(peak=1.0, warmup_steps=10)
    np.testing.assert_allclose(rates(schedule, 100, range(100)), expected[1:], rtol=1e-6)


@pytest.mark.parametrize(
    ('schedule', 'at', 'expected'),
    [
        (schedules.Constant(peak=2.0), [0, 50, 100], [2.0, 2.0, 2.0]),
        (schedules.Stepwise(peak=2.0, boundaries=(50, 60)), [0, 49, 50, 59, 60, 100], [2.0, 2.0, 0.2, 0.2, 0.02, 0.02]),
        (schedules.WarmupCosine(peak=2.0, final=0.2), [0, 50, 100, 150], [2.0, 1.1, 0.2, 0.2]),
        (schedules.WarmupCosine(peak=2.0, warmup_steps=4, final=0.2), [0, 3, 4, 52, 100], [0.5, 2.0, 2.0, 1.1, 0.2]),
        (schedules.WarmupLinear(peak=2.0, warmup_steps=20, final=1.0), [0, 19, 20, 60, 100], [0.1, 2.0, 2.0, 1.5, 1.0]),
        (
            schedules.WarmupStableDecay(peak=2.0, warmup_steps=10, decay_steps=20),
            [0, 9, 10, 80, 90, 100, 110],
            [0.2, 2.0, 2.0, 2.0, 1.0, 0.0, 0.0],
        ),
        (schedules.WarmupCosine(peak=2.0, warmup_steps=100), [0, 99], [0.02, 2.0]),
    ],
)
def test_corner_points(schedule, at, expected):
    np.testing.assert_allclose(rates(schedule, 100, at), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    'schedule',
    [
        schedules.Constant(peak=1.0, warmup_steps=101),
        schedules.WarmupCosine(peak=1.0, warmup_steps=101),
        schedules.WarmupLinear(peak=1.0, warmup_steps=101),
        schedules.WarmupStableDecay(peak=1.0, warmup_steps=50, decay_steps=51),
    ],
)
def test_a_warmup_longer_than_the_run_is_refused(schedule):
    with pytest.raises(config.InputError, match='101 steps, more than steps=100'):
        schedule.build(100)


@pytest.mark.parametrize(
    'schedule',
    [
        schedules.Constant(peak=1.0, warmup_steps=5),
        schedules.WarmupCosine(peak=1.0, warmup_steps=5, final=0.1),
        schedules.WarmupLinear(peak=1.0, warmup_steps=5),
        schedules.WarmupStableDecay(peak=1.0, warmup_steps=5, decay_steps=5, final=0.1),
        schedules.InverseSqrt(peak=1.0, warmup_steps=5),
        schedules.ConstantInverseSqrt(peak=1.0, constant_steps=5),
    ],
    ids=lambda each: type(each).__name__,
)
def test_until_is_the_schedule_and_then_the_rate_at_which_it_ends(schedule):
    alone = rates(schedule, 20, range(21))
    found = rates(schedules.Until(schedule=schedule, steps=20), 60, range(60))
    np.testing.assert_array_equal(found[:21], alone)
    np.testing.assert_array_equal(found[20:], np.full(40, alone[20]))


def test_boundaries_ascend():
    with pytest.raises(config.InputError, match='should ascend'):
        schedules.Stepwise(peak=1.0, boundaries=(60, 50)).build(100)
