"""A DETR of transformers computes here what it computes there: outputs, losses, matching and gradients.

Of the backbone, which transformers freezes, the gradients are those of the same model with requires_grad everywhere.
"""

import json
import re

import jax
import numpy as np
import pytest
from flax import linen as nn
from interop import published

from bigmodel_jax import config, initialization, verbs
from bigmodel_jax.interop import certifying, huggingface
from bigmodel_jax.interop.families import resnet as resnets
from bigmodel_jax.interop.families.detection import detr as family
from bigmodel_jax.layers import norms
from bigmodel_jax.models import resnet
from bigmodel_jax.models.detection import detr
from bigmodel_jax.objectives.detection import assignment

# As it was made: 56 x 72 pixels, the second image being 40 x 56.
VALUES = {
    'model_type': 'detr',
    'architectures': ['DetrForObjectDetection'],
    'backbone_config': {
        'model_type': 'resnet',
        'embedding_size': 8,
        'hidden_sizes': [16, 24],
        'depths': [1, 1],
        'layer_type': 'bottleneck',
        'hidden_act': 'relu',
        'downsample_in_bottleneck': False,
        'out_features': ['stage2'],
        'out_indices': [2],
    },
    'num_queries': 7,
    'd_model': 32,
    **{f'{side}_{name}': size for side in ('encoder', 'decoder') for name, size in (
        ('layers', 2), ('attention_heads', 4), ('ffn_dim', 40)
    )},
    'activation_function': 'relu',
    'id2label': {str(i): f'LABEL_{i}' for i in range(5)},
}  # fmt: skip
TOLERANCE = {'float64': 3e-9, 'float32': 6e-5}
OURS = {'encoder_last': 'encoder_last_hidden_state', 'decoder_last': 'last_hidden_state'}
with np.load(published.ORACLES / 'detr.npz') as arrays:
    ALL = dict(arrays)


def below(prefix):
    return {name.removeprefix(prefix): array for name, array in ALL.items() if name.startswith(prefix)}


def wanted():
    return {OURS.get(name, name): array for name, array in below('out64/').items()}


def hub(name):
    """The name that files on the hub have for a tensor of the module."""
    for ours, its in reversed(family.SPELLINGS):
        name = name.replace(its, ours, 1)
    return name


def timm(name):
    """The name that it has where the backbone is a ResNet of timm."""
    name = name.replace('embedder.embedder.convolution', 'conv1').replace('embedder.embedder.normalization', 'bn1')
    name = re.sub(r'encoder\.stages\.(\d)\.layers', lambda found: f'layer{int(found[1]) + 1}', name)
    name = re.sub(r'layer\.(\d)\.convolution', lambda found: f'conv{int(found[1]) + 1}', name)
    name = re.sub(r'layer\.(\d)\.normalization', lambda found: f'bn{int(found[1]) + 1}', name)
    return name.replace('shortcut.convolution', 'downsample.0').replace('shortcut.normalization', 'downsample.1')


def directory_of(path, rename=hub, **changes):
    return published.write(path, {rename(name): array for name, array in below('weights/').items()}, VALUES | changes)


@pytest.mark.slow
def test_outputs_losses_and_gradients_in_float64(tmp_path):
    pretrained = huggingface.load_pretrained(directory_of(tmp_path / 'detr'), dtype='float64')
    found, gradients = pretrained.gradients(below('in/'))
    for name, array in wanted().items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=TOLERANCE['float64'], err_msg=name)
    references = {hub(name): array for name, array in below('gradients/').items()}
    frozen = {key for key in gradients if 'normalization' in key}  # Which are buffers there.
    assert gradients.keys() - frozen == references.keys()
    assert not any(gradients[key].any() for key in frozen)
    assert sum('convolution' in key for key in references) == 9
    for key, gradient in references.items():
        # Those that softmax, or a first layer without content, do not see are rounding, here and there.
        scale = np.abs(gradient).max()
        assert np.abs(gradients[key] - gradient).max() <= max(3e-5 * scale, 1e-7), key


@pytest.mark.slow
def test_certificate_in_float32_and_names_of_the_module_and_of_timm(tmp_path):
    directory = directory_of(tmp_path / 'detr')
    arrays = {f'in/{name}': array for name, array in below('in/').items()}
    arrays |= {f'out64/{name}': array for name, array in wanted().items()}
    np.savez(tmp_path / 'io.npz', **arrays, **{'tolerance/float32': TOLERANCE['float32']})
    found = certifying.certify(directory, tmp_path / 'io.npz')
    assert found.first is None
    assert {row.name for row in found.rows} == wanted().keys()
    left = huggingface.load_pretrained(directory)
    for name, rename in (('module', str), ('timm', lambda key: timm(hub(key)))):
        right = huggingface.load_pretrained(directory_of(tmp_path / name, rename))
        jax.tree.map(np.testing.assert_array_equal, (left.params, left.state), (right.params, right.state))


def test_bytes_come_back(tmp_path):
    verbs.convert(directory_of(tmp_path / 'detr'), tmp_path / 'run')
    verbs.convert(tmp_path / 'run', tmp_path / 'back')
    tensors = {hub(name): array for name, array in below('weights/').items()}
    assert published.same(published.tensors(tmp_path / 'back'), tensors)
    assert json.loads((tmp_path / 'back' / 'config.json').read_text()) == VALUES


def test_the_released_models_are_ours_and_others_are_refused():
    of = family.DetrFamily()
    named = {'model_type': 'detr', 'use_timm_backbone': True, 'backbone': 'resnet101', 'num_labels': 91}
    assert config.difference(of.describe(named, 'config.json'), detr.DETR_R101) == []
    assert config.difference(of.describe({'model_type': 'detr', 'num_labels': 91}, 'it'), detr.DETR_R50) == []
    for model in (detr.DETR_R50, detr.DETR_R101):
        assert config.difference(of.describe(of.config_of(model), 'config.json'), model) == []
    for changes in ({'queries': detr.AnchorQueries(rows=3, columns=3)}, {'backbone.block.norm': norms.GroupNorm()}):
        with pytest.raises(config.InputError, match='is another model'):
            of.config_of(config.vary(detr.DETR_R50, changes))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'dilation': True}, 'dilation=True changes the computation'),
        ({'auxiliary_loss': True}, 'auxiliary_loss=True changes the computation'),
        ({'decoder_ffn_dim': 48}, 'contradict each other'),
        ({'backbone_config': None, 'backbone': 'resnet34'}, "backbone='resnet34' is not implemented"),
        ({'eos_coefficient': 0.2}, 'eos_coefficient=0.2 changes the computation'),
        ({'position_embedding_type': 'learned'}, 'position_embedding_type='),
        ({'num_queries': 8}, 'that config.json asks for'),
    ],
)
def test_what_does_not_fit_is_refused(changes, message, tmp_path):
    with pytest.raises(config.InputError, match=re.escape(message)):
        huggingface.load_pretrained(directory_of(tmp_path / 'detr', **changes))


def test_inputs_that_are_not_as_they_should_be_are_refused():
    of, model, inputs = family.DetrFamily(), config.vary(detr.DETR_R50, {'classes': 5}), below('in/')
    wrong = {
        'rectangle in the upper left': {'pixel_mask': inputs['pixel_mask'][:, ::-1]},
        'should be 0 to 4': {'labels/0/class_labels': np.array([1, 5, 2])},
        'lack labels/1/boxes': {'labels/1/boxes': None},
        'should be integers': {'labels/0/boxes': inputs['labels/0/boxes'][:2]},
    }
    for message, changes in wrong.items():
        given = {name: value for name, value in (inputs | changes).items() if value is not None}
        with pytest.raises(config.InputError, match=message):
            of.batch(given, model, VALUES)


def test_a_classifier_gives_a_detr_its_backbone():
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    shapes = jax.eval_shape(detr.DETR_R50.build().init, jax.eval_shape(lambda: jax.random.key(0)), {'image': image})
    wanted = {}
    for collection, tree in nn.meta.unbox(shapes).items():
        prefix = '' if collection == 'params' else f'{initialization.STATE}{collection}.'
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            wanted[prefix + jax.tree_util.keystr(path, simple=True, separator='.')] = leaf
    of = resnets.HuggingFaceResNet()
    there = of.tables(resnet.RESNET_50)[0].shapes(of.sizes(resnet.RESNET_50))
    found = initialization.match(wanted, there, without=('classes.*',), where='it')
    assert set(found) == {path for path in wanted if 'backbone.' in path}


@pytest.mark.slow
def test_the_matching_of_the_reference():
    cost_OQ = ALL['ops/hungarian/cost']  # Of 7 rows and 4 columns.
    found = np.asarray(assignment.assign(cost_OQ[None], np.ones((1, 7), bool)))[0]
    rows = np.flatnonzero(found != assignment.UNMATCHED)
    np.testing.assert_array_equal(rows, ALL['ops/hungarian/row'])
    np.testing.assert_array_equal(found[rows], ALL['ops/hungarian/col'])
