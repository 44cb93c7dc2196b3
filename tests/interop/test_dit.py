"""DiT in the layouts of its released code and of diffusers 0.42.1 computes here what it computes there."""

import json

import numpy as np
import pytest
from interop import hashed, published

from bigmodel_jax import config, verbs
from bigmodel_jax.interop import certifying, huggingface
from bigmodel_jax.interop.families.diffusion import dit
from bigmodel_jax.interop.files import folder, shards
from bigmodel_jax.models.diffusion import dit as models


class Recording:
    """What was recorded of one layout."""

    def __init__(self, name):
        with np.load(published.ORACLES / f'{name}.npz') as arrays:
            self.all = dict(arrays)
        self.values = json.loads(self.all['meta'].tobytes())['config']
        self.tolerance = self.all['tolerance/float64']

    def below(self, prefix):
        return {name.removeprefix(prefix): array for name, array in self.all.items() if name.startswith(prefix)}

    def inputs(self):
        """Those of the outputs, and a target for which the gradient is that of mean(sample x projection)."""
        found = self.below('in/')
        projection = found.pop('grad_projection')
        return found | {'noise': self.all['out64/sample'] - projection.astype(np.float64) / 2}

    def written(self, path, *, without=(), **changes):
        """A directory of its files."""
        path.mkdir()
        (path / folder.CONFIG).write_text(json.dumps(self.values | changes))
        tensors = {key: array for key, array in self.below('weights/').items() if key not in without}
        forms = {key: (tensor.shape, tensor.dtype) for key, tensor in tensors.items()}
        stem = folder.DIFFUSERS if 'sample_size' in self.values else folder.STEM
        with shards.Shards(path, forms, 10**9, stem) as files:
            for key, tensor in tensors.items():
                files.write(key, tensor)
        return path


CASES = {name: Recording(name) for name in ('dit_official', 'dit_diffusers')}


@pytest.mark.parametrize('name', CASES)
def test_outputs_and_gradients_in_float64(name, tmp_path):
    case = CASES[name]
    pretrained = huggingface.load_pretrained(case.written(tmp_path / 'hub'), dtype='float64')
    found, gradients = pretrained.gradients(case.inputs())
    # Diffusers' table of positions is of float64 there, and ours of float32, as in the released code.
    atol = 1e-7 if name == 'dit_diffusers' else case.tolerance
    np.testing.assert_allclose(found['sample'], case.all['out64/sample'], rtol=0, atol=atol)
    wanted = case.below('gradients/')
    assert gradients.keys() == wanted.keys()
    for key, (of_probe, total, _) in wanted.items():
        # The reference's are of float32: off by 3e-5 of their size, or, of the biases of keys, zero but for rounding.
        near = hashed.probe(key, gradients[key])
        np.testing.assert_allclose(near, [of_probe, total], rtol=0, atol=max(3e-5 * total, 1e-8), err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_certificate_in_float32(name, tmp_path):
    case = CASES[name]
    recorded = {key: value for key, value in case.all.items() if key.startswith(('in/', 'out64/', 'tolerance/'))}
    del recorded['in/grad_projection']
    np.savez(tmp_path / 'io.npz', **recorded)
    found = certifying.certify(case.written(tmp_path / 'hub'), tmp_path / 'io.npz')
    assert found.first is None
    assert {row.name for row in found.rows} == {'sample'}


@pytest.mark.parametrize('name', CASES)
def test_models_and_configurations_follow_from_one_another(name):
    case = CASES[name]
    family = {'dit_official': dit.ReleasedDit(), 'dit_diffusers': dit.DiffusersDit()}[name]
    model = family.describe(case.values, 'config.json')
    again = family.describe(family.config_of(model), 'config.json')
    assert config.difference(model, again) == []
    weights = {key: array for key, array in case.below('weights/').items() if key != dit.POSITIONS}
    assert {key: tensor.layout.file for key, tensor in family.written(model).tensors(family.sizes(model)).items()} == {
        key: array.shape for key, array in weights.items()
    }


def test_every_published_size_has_a_tensor_for_each_parameter():
    counts = {models.DIT_S2: 32_865_056, models.DIT_B4: 130_426_496, models.DIT_XL2: 674_834_720}
    for model, count in counts.items():
        assert sum(int(np.prod(shape)) for shape in huggingface.whole(model, dit.ReleasedDit()).values()) == count
    # The layout of diffusers repeats the embeddings in every block.
    changes = {'condition.of_each_block': True, 'condition.inclusive': True}
    shapes = huggingface.whole(config.vary(models.DIT_S2, changes), dit.DiffusersDit())
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 39_805_088


@pytest.mark.parametrize(
    ('name', 'changes', 'said'),
    [
        ('dit_official', {'input_size': 16}, 'is not the table of sines and cosines of 8 x 8 patches'),
        ('dit_official', {'num_classes': 12}, 'y_embedder.embedding_table.weight'),
        ('dit_diffusers', {'norm_type': 'ada_norm'}, "norm_type='ada_norm' changes the computation"),
        ('dit_diffusers', {'out_channels': 6}, 'out_channels=6 is neither'),
    ],
)
def test_what_does_not_fit_is_refused(name, changes, said, tmp_path):
    with pytest.raises(config.InputError, match=said):
        huggingface.load_pretrained(CASES[name].written(tmp_path / 'hub', **changes))


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'x': np.zeros((2, 3, 8, 8), np.float32)}, r'it should be floats \[images, 4, 8, 8\]'),
        ({'t': np.zeros(3, int)}, 'a number for each of 2 images'),
        ({'y': np.array([0, 11])}, 'the last of which is no class; not 0 to 11'),
        ({'z': np.zeros(2)}, "no input 'z'"),
        ({'y': None}, 'lack y'),
    ],
)
def test_inputs_that_do_not_fit_are_refused(changes, said):
    family, case = dit.ReleasedDit(), CASES['dit_official']
    model = family.describe(case.values, 'config.json')
    given = {name: value for name, value in (case.inputs() | changes).items() if value is not None}
    with pytest.raises(config.InputError, match=said):
        family.batch(given, model, case.values)


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_a_converted_run_gives_the_same_files(name, tmp_path):
    case = CASES[name]
    verbs.convert(case.written(tmp_path / 'hub'), tmp_path / 'run')
    verbs.convert(tmp_path / 'run', tmp_path / 'again')
    weights = {key: array for key, array in case.below('weights/').items() if key != dit.POSITIONS}
    found = folder.Folder(tmp_path / 'again')
    assert found.entries.keys() == weights.keys()
    for key, array in weights.items():
        np.testing.assert_array_equal(found.read(key), array)
