"""A UNet of diffusers 0.42.1 computes here what it computes there, in both directions; see reference_diffusers.py."""

import json

import numpy as np
import pytest
from interop import hashed, published

from bigmodel_jax import config, verbs
from bigmodel_jax.interop import certifying, huggingface
from bigmodel_jax.interop.families.diffusion import unet
from bigmodel_jax.interop.files import folder, shards
from bigmodel_jax.models.diffusion import unet as models

with np.load(published.ORACLES / 'unet.npz') as arrays:
    RECORDED = dict(arrays)
META = json.loads(RECORDED['meta'].tobytes())
VALUES, SHAPES = META['config'], META['shapes']


def below(prefix):
    return {name.removeprefix(prefix): array for name, array in RECORDED.items() if name.startswith(prefix)}


def written(path, **changes):
    """A directory as diffusers writes it."""
    path.mkdir()
    (path / folder.CONFIG).write_text(json.dumps(VALUES | changes))
    tensors = hashed.weights(SHAPES)
    forms = {key: (tensor.shape, tensor.dtype) for key, tensor in tensors.items()}
    with shards.Shards(path, forms, 10**9, folder.DIFFUSERS) as files:
        for key, tensor in tensors.items():
            files.write(key, tensor)
    return path


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    return written(tmp_path_factory.mktemp('unet') / 'hub')


def check_outputs(found):
    for name, wanted in below('out64/').items():
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=RECORDED['tolerance/float64'], err_msg=name)


def test_outputs_in_float64(directory):
    check_outputs(huggingface.load_pretrained(directory, dtype='float64').apply(below('in/')))


@pytest.mark.slow
def test_gradients_in_float64(directory):
    pretrained = huggingface.load_pretrained(directory, dtype='float64')
    found, gradients = pretrained.gradients(below('in/'))
    check_outputs(found)
    assert gradients.keys() == SHAPES.keys()
    for key, wanted in zip(SHAPES, RECORDED['gradients']):
        # Both sums are of numbers of either sign: off by rounding of the sum of their sizes.
        np.testing.assert_allclose(
            hashed.probe(key, gradients[key]), wanted, rtol=1e-9, atol=1e-9 * max(wanted[1], 1e-3), err_msg=key
        )


@pytest.mark.slow
def test_certificate_in_float32(directory, tmp_path):
    np.savez(tmp_path / 'io.npz', **{name: RECORDED[name] for name in RECORDED if name not in ('meta', 'gradients')})
    found = certifying.certify(directory, tmp_path / 'io.npz')
    assert found.first is None
    assert {row.name for row in found.rows} == {'sample', 'loss'}
    other = certifying.certify(written(tmp_path / 'other', norm_eps=1e-2), tmp_path / 'io.npz')
    assert other.first == 'sample'


@pytest.mark.slow
def test_bytes_come_back_from_a_run(directory, tmp_path):
    verbs.convert(directory, tmp_path / 'run')
    verbs.convert(tmp_path / 'run', tmp_path / 'back')
    assert published.same(published.tensors(tmp_path / 'back'), hashed.weights(SHAPES))
    assert json.loads((tmp_path / 'back' / folder.CONFIG).read_text()) == VALUES
    assert (tmp_path / 'back' / f'{folder.DIFFUSERS}.safetensors').is_file()


def test_every_parameter_of_the_published_sizes_has_a_tensor_and_a_config():
    family = unet.UNet2D()
    for model, count in ((models.UNET_CIFAR10, 35_746_307), (models.UNET_256, 113_673_219)):
        assert sum(int(np.prod(shape)) for shape in huggingface.whole(model, family).values()) == count
        assert config.difference(family.describe(family.config_of(model), 'config.json'), model) == [
            *config.difference(config.vary(model, {'dropout': 0.1}), model)
        ]
    with pytest.raises(config.InputError, match='is another model'):
        family.config_of(config.vary(models.UNET_CIFAR10, {'attention.scores.scale': 1.0}))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'freq_shift': 0}, 'freq_shift=0 changes the computation'),
        ({'flip_sin_to_cos': True}, 'flip_sin_to_cos=True changes the computation'),
        ({'num_class_embeds': 10}, 'num_class_embeds=10 changes the computation'),
        ({'time_cond_proj': 1}, 'time_cond_proj=1 is not known here'),
        ({'out_channels': 3}, 'out_channels=3 is neither in_channels=1 nor'),
        ({'attention_head_dim': 5}, r'attention_head_dim=5 gives .* \[12\]'),
        ({'up_block_types': ['UpBlock2D', 'AttnUpBlock2D']}, 'at other levels'),
        ({'down_block_types': ['DownBlock2D']}, 'should be a list of 2'),
        ({'layers_per_block': 2**30}, 'but the files hold'),
        ({'layers_per_block': 2}, 'missing'),
        ({'norm_num_groups': 8}, 'does not divide the 12 channels'),
    ],
)
def test_what_is_not_implemented_or_contradicts_the_files_is_refused(changes, message, tmp_path):
    with pytest.raises(config.InputError, match=message):
        huggingface.load_pretrained(written(tmp_path / 'hub', **changes))


@pytest.mark.parametrize(
    ('inputs', 'message'),
    [
        ({'sample': np.zeros((1, 3, 8, 8), np.float32)}, r'floats \[images, 1, height'),
        ({'sample': np.zeros((1, 1, 8, 9), np.float32)}, 'multiples of 2; they are 8 and 9'),
        ({'sample': np.zeros((2, 1, 8, 8), np.float32), 'timestep': np.zeros(3)}, 'one for each of the 2'),
        ({'hidden': np.zeros(3)}, "no input 'hidden'"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs, message, directory):
    with pytest.raises(config.InputError, match=message):
        huggingface.load_pretrained(directory).apply({'timestep': np.array(3), **inputs})
