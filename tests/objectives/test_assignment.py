"""Objects get the queries that scipy.optimize.linear_sum_assignment gives them, ties included."""

import jax
import numpy as np
import pytest
from scipy import optimize

from bigmodel_jax.objectives.detection import assignment
from bigmodel_jax.parallel import sharding

# Objects, queries, and how many of each kind of costs are drawn: 10,000 in all.
SHAPES = ((4, 6, 750), (8, 8, 750), (9, 6, 750), (6, 10, 750), (12, 7, 750), (1, 1, 500), (4, 3, 750))


def drawn(objects, queries, count, *, seed=0):
    """Costs whose sums float32 holds exactly, so that equal ones are equal: few whole numbers, then fractions.

    Masks leave out all objects of some images, none of others.
    """
    random = np.random.default_rng(seed)
    ties = random.integers(0, 4, (count, objects, queries))
    fine = random.integers(-4096, 4096, (count, objects, queries)) / 512
    cost = np.concatenate([ties, fine]).astype(np.float32)
    mask = random.random((2 * count, objects)) < random.random((2 * count, 1))
    mask[::9], mask[1::9] = False, True
    return cost, mask


def by_scipy(cost, mask):
    found = np.full(mask.shape, assignment.UNMATCHED)
    for image in range(len(cost)):
        there = np.flatnonzero(mask[image])
        rows, columns = optimize.linear_sum_assignment(cost[image, there])
        found[image, there[rows]] = columns
    return found


@pytest.mark.parametrize('shape', [pytest.param(each, marks=pytest.mark.slow) for each in SHAPES])
def test_ten_thousand_cases_are_those_of_scipy(shape):
    cost, mask = drawn(*shape)
    np.testing.assert_array_equal(jax.jit(assignment.assign)(cost, mask), by_scipy(cost, mask))


def test_cases_are_those_of_scipy_on_one_device_and_on_four():
    cost, mask = drawn(6, 5, 60, seed=1)  # More objects than queries in some.
    wanted = by_scipy(cost, mask)
    assert (mask.sum(axis=1) > 5).any()
    assert (~mask.any(axis=1)).any()
    with sharding.use(sharding.MeshShape(data=4).build(jax.devices()[:4])):
        np.testing.assert_array_equal(jax.jit(assignment.assign)(cost, mask), wanted)


def test_costs_that_are_no_numbers_end_the_search_too():
    cost, mask = drawn(6, 5, 60, seed=1)
    cost[0] = np.nan
    cost[1, 0] = np.inf
    with sharding.use(sharding.MeshShape(data=4).build(jax.devices()[:4])):
        found = np.asarray(jax.jit(assignment.assign)(cost, np.ones_like(mask)))
    assert (np.sort(found[:2], axis=1) == [assignment.UNMATCHED, 0, 1, 2, 3, 4]).all()


def test_without_objects_or_queries_there_is_nothing_to_match():
    assert assignment.assign(np.zeros((2, 0, 3)), np.zeros((2, 0), bool)).shape == (2, 0)
    assert (np.asarray(assignment.assign(np.zeros((2, 3, 0)), np.ones((2, 3), bool))) == assignment.UNMATCHED).all()
