"""Models for which no program of every size can be made, and the state with which decoding begins."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel_jax import config
from bigmodel_jax.checkpoints import checkpoints
from bigmodel_jax.data import batches
from bigmodel_jax.export import dimensions, named_arrays, programs
from bigmodel_jax.models import model

FIELDS = {'inputs': batches.Field((8,), np.dtype(np.float32), ('length',))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class InChunks(model.Model):
    """Adds up chunks of four numbers, as a model that cuts rows into equal parts."""

    def build(self, name=None):
        return ChunksModule(name=name)


class ChunksModule(nn.Module):
    @nn.compact
    def __call__(self, batch):
        scale = self.param('scale', nn.initializers.ones, ())
        chunks = batch['inputs'].shape[1] // 4
        parts = [batch['inputs'][:, 4 * i : 4 * i + 4].sum(axis=1) for i in range(chunks)]
        return {'values': scale * jnp.stack(parts).sum(axis=0)}


def chunked(**fixed) -> programs.ModelToExport:
    return programs.ModelToExport(
        model=InChunks(),
        fields=FIELDS,
        weights={'scale': np.float32(2)},
        collections=(),
        fixed=dimensions.FixedSizes(**fixed),
        longest=None,
    )


def test_a_model_without_a_program_for_every_length_is_refused_with_the_way_out():
    with pytest.raises(config.InputError, match=r'InChunks has no program forward for every number of .*length.*--le'):
        programs.make(chunked(rows=2))


@pytest.mark.parametrize('fixed', [{'length': 8}, {'rows': 3, 'length': 8}])
def test_it_is_exported_for_one_length(fixed):
    (made,) = programs.make(chunked(**fixed)).values()
    x_BT = np.arange(24, dtype=np.float32).reshape(3, 8)
    found = jax.jit(made.exported.call)({'scale': np.float32(2)}, {'inputs': x_BT})['values']
    np.testing.assert_array_equal(found, 2 * x_BT.sum(axis=1))


def test_a_name_of_a_file_of_weights_does_not_lead_out_of_the_directory(tmp_path):
    flat = {'a.b': jnp.arange(6.0), 'c': jnp.ones(3, jnp.int32)}
    names = named_arrays.write(tmp_path, flat, 'bfloat16', shard_bytes=12)
    assert names == ['weights-00001-of-00002.safetensors', 'weights-00002-of-00002.safetensors']
    found = named_arrays.read(tmp_path, names)
    assert {name: each.tolist() for name, each in found.items()} == {'a.b': [0, 1, 2, 3, 4, 5], 'c': [1, 1, 1]}
    with pytest.raises(config.InputError, match='is not the name of a file'):
        named_arrays.read(tmp_path / 'inner', [f'../{names[0]}'])


def test_paths_lead_back_to_the_tree():
    tree = {'a': {'b': 1, 'c': {'d': 2}}, 'e': 3}
    flat = checkpoints.flatten(tree) | {'batch_stats.norm.mean': 4}
    assert named_arrays.split(flat, ('batch_stats',)) == (tree, {'batch_stats': {'norm': {'mean': 4}}})
