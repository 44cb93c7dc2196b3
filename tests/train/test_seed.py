"""The seed is an argument of what a run compiles, so that the compile cache holds one program for every seed."""

import jax
import numpy as np
import pytest
from flax import linen as nn

import tiny
from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import state, step

SEEDS = (0, 7, 2**64 - 1)


def specified(seed):
    of = config.vary(tiny.experiment(), {'seed': seed})
    place = of.mesh.build()
    with sharding.use(place):
        return of, state.specify(of, place), place


def test_every_seed_has_the_same_programs():
    found = set()
    for seed in SEEDS:
        of, spec, place = specified(seed)
        fields = batches.batch_fields(of.data.fields)
        batch = {name: jax.ShapeDtypeStruct((8, *each.shape), each.dtype) for name, each in fields.items()}
        with sharding.use(place):
            update = step.compile_step(of, spec, place).lower(spec.abstract, batch).as_text()
            found.add((update, spec.init_from.lower(spec.key_data).as_text()))
    assert len(found) == 1


@pytest.mark.parametrize('seed', SEEDS)
def test_a_state_begins_with_the_weights_that_the_key_of_its_seed_gives(seed):
    of, spec, place = specified(seed)
    with sharding.use(place):
        params = spec.init().params
    example = {name: np.zeros((8, *each.shape), each.dtype) for name, each in of.data.fields.items()}
    high, low = divmod(seed, 2**32)
    key = jax.random.fold_in(jax.random.key(low), np.uint32(high)) if high else jax.random.key(low)
    drawn = jax.jit(lambda: nn.meta.unbox(of.model.build().init(key, example)['params']))()
    jax.tree.map(np.testing.assert_array_equal, params, drawn)
