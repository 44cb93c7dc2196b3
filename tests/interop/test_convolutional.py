"""AlexNet and ResNet compute here what they compute in torchvision and transformers; statistics go in and out."""

import re

import jax
import numpy as np
import pytest
from interop import published

from bigmodel_jax import config, verbs
from bigmodel_jax.interop import certifying, converted, finetuning, huggingface
from bigmodel_jax.interop.families import alexnet, resnet
from bigmodel_jax.layers import norms
from bigmodel_jax.models import alexnet as alexnets
from bigmodel_jax.models import resnet as resnets
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import initial_state, state

# As the cases of tests/oracles were made.
VALUES = {
    'alexnet': {
        'model_type': 'torchvision_alexnet',
        'channels': [8, 24, 48, 32, 32],
        'pooled': [2, 3],
        'hidden': [64, 64],
        'num_classes': 7,
    },
    **{
        f'resnet_{kind}': {
            'model_type': 'resnet',
            'architectures': ['ResNetForImageClassification'],
            'layer_type': kind,
            'depths': depths,
            'hidden_sizes': channels,
            'embedding_size': 8,
            'id2label': {str(i): f'LABEL_{i}' for i in range(7)},
        }
        for kind, depths, channels in (('basic', [2, 1], [12, 16]), ('bottleneck', [2, 2], [16, 24]))
    },
}
CASES = tuple(VALUES)
TOLERANCE = {'float64': 4e-9, 'float32': 1e-4}  # As in tests/models/test_classics.py.
TORCHVISION = {
    'model_type': 'torchvision_resnet',
    'block': 'bottleneck',
    'layers': [2, 2],
    'channels': [16, 24],
    'stem_channels': 8,
    'num_classes': 7,
}


def below(case, prefix):
    with np.load(published.ORACLES / f'{case}.npz') as arrays:
        return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def weights(case):
    """The tensors of a case in float32, with the counts of batches that PyTorch keeps beside running statistics."""
    found = {name: array.astype(np.float32) for name, array in below(case, 'weights/').items()}
    means = [name for name in found if name.endswith('.running_mean')]
    return found | {name.replace('running_mean', 'num_batches_tracked'): np.array(7) for name in means}


def without_counts(tensors):
    return {name: array for name, array in tensors.items() if not name.endswith('num_batches_tracked')}


def as_torchvision(name):
    """What torchvision calls a tensor of a ResNet of transformers."""
    name = name.removeprefix('resnet.').replace('embedder.embedder.convolution', 'conv1')
    name = name.replace('embedder.embedder.normalization', 'bn1').replace('classifier.1', 'fc')
    name = re.sub(r'encoder\.stages\.(\d)\.layers', lambda found: f'layer{int(found[1]) + 1}', name)
    name = re.sub(r'layer\.(\d)\.convolution', lambda found: f'conv{int(found[1]) + 1}', name)
    name = re.sub(r'layer\.(\d)\.normalization', lambda found: f'bn{int(found[1]) + 1}', name)
    return name.replace('shortcut.convolution', 'downsample.0').replace('shortcut.normalization', 'downsample.1')


def directory_of(case, path):
    return published.write(path, weights(case), VALUES[case])


@pytest.mark.parametrize(
    'case', [pytest.param(case, marks=[] if case == 'alexnet' else pytest.mark.slow) for case in CASES]
)
def test_outputs_and_gradients_in_float64(case, tmp_path):
    pretrained = huggingface.load_pretrained(directory_of(case, tmp_path / case), dtype='float64')
    found, gradients = pretrained.gradients(below(case, 'in/'))
    for name, wanted in below(case, 'out64/').items():
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=TOLERANCE['float64'], err_msg=name)
    wanted = below(case, 'gradients/')
    assert gradients.keys() == wanted.keys()
    for key, gradient in wanted.items():  # The reference's are of float32.
        assert np.abs(gradients[key] - gradient).max() <= 3e-5 * np.abs(gradient).max(), key


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES)
def test_certificate_in_float32(case, tmp_path):
    arrays = {f'in/{name}': array for name, array in below(case, 'in/').items()}
    arrays |= {f'out64/{name}': array for name, array in below(case, 'out64/').items()}
    np.savez(tmp_path / 'io.npz', **arrays, **{'tolerance/float32': TOLERANCE['float32']})
    found = certifying.certify(directory_of(case, tmp_path / case), tmp_path / 'io.npz')
    assert found.first is None
    assert {row.name for row in found.rows} == below(case, 'out64/').keys()


@pytest.mark.parametrize('case', CASES)
def test_bytes_come_back(case, tmp_path):
    into = verbs.convert(directory_of(case, tmp_path / case), tmp_path / 'run')
    verbs.convert(tmp_path / 'run', tmp_path / 'back')
    assert published.same(published.tensors(tmp_path / 'back'), without_counts(weights(case)))
    assert any('num_batches_tracked' in note for note in into.notes) == (case != 'alexnet')


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES)
def test_a_converted_run_has_the_statistics(case, tmp_path):
    directory = directory_of(case, tmp_path / case)
    verbs.convert(directory, tmp_path / 'run')
    run = verbs.open_run(tmp_path / 'run').restore()
    wanted = huggingface.load_pretrained(directory)
    jax.tree.map(np.testing.assert_array_equal, dict(run.model_state), wanted.state)
    image = below(case, 'in/')[next(name for name in below(case, 'in/') if name != 'labels')].transpose(0, 2, 3, 1)
    found = run.experiment.model.build().apply({'params': run.params, **run.model_state}, {'image': image})['logits']
    np.testing.assert_allclose(found, below(case, 'out64/')['logits'], rtol=0, atol=TOLERANCE['float32'])


def test_names_of_torchvision_are_the_same_model(tmp_path):
    tensors = {as_torchvision(name): array for name, array in weights('resnet_bottleneck').items()}
    there = published.write(tmp_path / 'torchvision', tensors, TORCHVISION)
    left = huggingface.load_pretrained(directory_of('resnet_bottleneck', tmp_path / 'huggingface'))
    right = huggingface.load_pretrained(there)
    assert left.model == right.model
    jax.tree.map(np.testing.assert_array_equal, (left.params, left.state), (right.params, right.state))


@pytest.mark.slow
def test_a_run_that_begins_with_them_has_their_statistics(tmp_path):
    directory = directory_of('resnet_basic', tmp_path / 'basic')
    pretrained = huggingface.load_pretrained(directory)
    experiment = converted.experiment('basic', pretrained.model)
    place = experiment.mesh.build()
    with sharding.use(place):
        begun, record = initial_state.begin(finetuning.Weights(path=str(directory)), state.specify(experiment, place))
    assert record['by_chance'] == []
    jax.tree.map(np.testing.assert_array_equal, begun.params, pretrained.params)
    jax.tree.map(np.testing.assert_array_equal, dict(begun.model_state), pretrained.state)


def test_models_of_ours_have_a_config_and_others_are_refused():
    def again(family, model):
        return config.difference(family.describe(family.config_of(model), 'config.json'), model)

    assert again(alexnet.TorchvisionAlexNet(), alexnets.ALEXNET_ONE_TOWER) == []
    for model in (resnets.RESNET_18, resnets.RESNET_152):
        assert again(resnet.HuggingFaceResNet(), model) == again(resnet.TorchvisionResNet(), model) == []
    paper = config.vary(resnets.RESNET_50, {'block.stride_first': True})
    assert again(resnet.HuggingFaceResNet(), paper) == []
    for family, model in (
        (resnet.TorchvisionResNet(), paper),
        (resnet.HuggingFaceResNet(), resnets.RESNET_20),
        (resnet.HuggingFaceResNet(), config.vary(resnets.RESNET_18, {'block.norm': norms.GroupNorm()})),
    ):
        with pytest.raises(config.InputError, match='is another model'):
            family.config_of(model)
    with pytest.raises(config.InputError, match='five convolutions'):
        alexnet.TorchvisionAlexNet().config_of(alexnets.one_tower())
    with pytest.raises(config.InputError, match='is another model'):
        alexnet.TorchvisionAlexNet().config_of(config.vary(alexnets.ALEXNET_2012, {'pooled': (6, 6)}))


@pytest.mark.parametrize(
    ('case', 'changes', 'message'),
    [
        ('resnet_basic', {'downsample_in_first_stage': True}, 'downsample_in_first_stage=True changes the computation'),
        ('resnet_basic', {'depths': [2]}, 'depths has 1 stages and hidden_sizes 2'),
        ('resnet_basic', {'depths': [2, 0]}, 'list of some positive integers'),
        ('resnet_basic', {'layer_type': 'wide'}, "layer_type='wide' is not implemented"),
        ('resnet_basic', {'depths': [3, 1]}, 'has 2 stage1 layers'),
        ('resnet_basic', {'hidden_sizes': [12, 20]}, 'that config.json asks for'),
        ('alexnet', {'pooled': [6]}, 'list of 2 positive integers'),
        ('alexnet', {'pooled': [6, 6]}, 'that config.json asks for'),
    ],
)
def test_what_does_not_fit_is_refused(case, changes, message, tmp_path):
    with pytest.raises(config.InputError, match=re.escape(message)):
        huggingface.load_pretrained(published.write(tmp_path / case, weights(case), VALUES[case] | changes))
