"""Random numbers of a seed: another stream for every seed of 64 bits, and for small seeds that of JAX."""

import jax
import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import batches, counter_rng, mixture
from bigmodel_jax.data.text import packing

SEEDS = [0, 1, 7, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**33 + 7, 2**63, 2**63 + 1, 2**64 - 1]


def words(seed):
    return tuple(np.asarray(jax.random.key_data(counter_rng.key(seed))).tolist())


def test_every_seed_has_its_own_key_and_small_ones_that_of_jax():
    assert len({words(seed) for seed in SEEDS}) == len(SEEDS)
    for seed in (0, 1, 7, 2**31, 2**32 - 1):
        assert words(seed) == tuple(np.asarray(jax.random.key_data(jax.random.key(np.uint32(seed)))).tolist())


def order(seed):
    fields = {'inputs': batches.Field((), np.dtype(np.int32), ())}
    examples = batches.ArrayExamples({'inputs': np.zeros(1_000, np.int32)}, fields, fingerprint={})
    return tuple(batches.Batches(examples, rows=8, seed=seed).ids(0).tolist())


@pytest.mark.parametrize(
    'draw',
    [
        order,
        lambda seed: int(counter_rng.bits(seed, 3)),
        lambda seed: mixture.part_seed(seed, 0),
        lambda seed: packing.window_offset(seed=seed, epoch=1, length=10**9),
    ],
    ids=['order', 'bits', 'part of a mixture', 'packing'],
)
def test_every_seed_has_its_own_data(draw):
    assert len({draw(seed) for seed in SEEDS}) == len(SEEDS)


def test_the_bits_of_one_number_are_those_of_arrays():
    for keys in ((0,), (5, 3), (2**64 - 1, np.int64(-7), np.array(2**63, np.uint64)), (np.uint64(9), 2**32 + 1, 4)):
        arrays = [np.array([int(key) % 2**64], np.uint64) for key in keys]
        mixed = np.zeros(1, np.uint64)
        for each in arrays:
            mixed = batches.mix(mixed ^ each)
        assert counter_rng.bits(*keys) == counter_rng.bits(*arrays) == mixed
        np.testing.assert_array_equal(counter_rng.bits(*keys, np.arange(3))[2], counter_rng.bits(*keys, 2))


@pytest.mark.parametrize('seed', [-1, 2**64, 10**30])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(config.InputError, match='use a whole number from 0'):
        counter_rng.key(seed)
