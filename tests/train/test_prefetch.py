"""The law of reading ahead: whatever the number of workers, each step gets the same batch, and errors arrive."""

import pathlib
import threading

import numpy as np
import pytest

import tiny
from bigmodel_jax import config, experiment_file
from bigmodel_jax.data import batches
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import prefetch
from bigmodel_jax.train.route import Route

WORKERS = (0, 1, 4)
AUGMENTED = str(pathlib.Path(__file__).parents[2] / 'experiments/augmented_images.py') + ':smoke'
BROKEN = 7  # The index of a batch that cannot be read.


@pytest.fixture(scope='module')
def place():
    return sharding.MeshShape(data=1).build()


def data(kind='counting'):
    """Numbers in memory; or images that are drawn, cropped and flipped when they are read."""
    if kind == 'counting':
        return tiny.Counting(batch=8).open(seed=3)
    return config.vary(experiment_file.load(AUGMENTED).data, {'batch': 8}).open(seed=3)


class Broken(batches.Batches):
    def read(self, step, ids, rows=None):
        if step == BROKEN:
            raise config.InputError('cats/07.png is not a whole image')
        return super().read(step, ids, rows)


def read(place, workers, count, *, start=0, route=None, source=None):
    with prefetch.Prefetcher(source or data(), place, start, route or Route(), workers=workers) as ahead:
        return [{name: np.asarray(array) for name, array in ahead.next().items()} for _ in range(count)]


def assert_same(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize('kind', ['counting', 'augmented images'])
def test_any_number_of_workers_reads_the_same_batches(place, kind):
    source = data(kind)
    expected = [prefetch.read(source, number, np.arange(8)) for number in range(30)]  # More than two epochs.
    for workers in WORKERS:
        assert_same(read(place, workers, 30, source=data(kind)), expected)
        assert_same(read(place, workers, 10, start=20, source=source), expected[20:])


@pytest.mark.parametrize('workers', WORKERS)
def test_a_route_is_followed_from_any_step(place, workers):
    route = Route([(4, 3)])  # After step 4, three batches are left out.
    expected = [prefetch.read(data(), number, np.arange(8)) for number in (2, 3, 7, 8)]
    assert_same(read(place, workers, 4, start=2, route=route), expected)
    with prefetch.Prefetcher(data(), place, 0, Route(), workers=workers) as ahead:
        for _ in range(3):
            ahead.next()
        ahead.seek(2, route)
        found = [{name: np.asarray(array) for name, array in ahead.next().items()} for _ in range(4)]
    assert_same(found, expected)


@pytest.mark.parametrize('workers', WORKERS)
def test_an_error_of_a_worker_arrives_at_its_step(place, workers):
    source = data()
    broken = Broken(source.examples, rows=source.rows, seed=source.seed)
    with prefetch.Prefetcher(broken, place, 0, Route(), workers=workers) as ahead:
        for _ in range(BROKEN):
            ahead.next()
        with pytest.raises(config.InputError, match='cats/07') as raised:
            ahead.next()
    assert str(raised.value) == 'cats/07.png is not a whole image'


def test_no_worker_stays(place):
    before = set(threading.enumerate())
    read(place, 4, 3)
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=60)
        assert not thread.is_alive(), thread.name
