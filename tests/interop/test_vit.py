"""A ViT of transformers 5.23.0 computes here what it computes there, under both names of its tensors."""

import json

import numpy as np
import pytest
from interop import published
from interop.test_oracles import BLIND, check_outputs

from bigmodel_jax import config, verbs
from bigmodel_jax.interop import certifying, huggingface
from bigmodel_jax.interop.families import vit
from bigmodel_jax.models import vit as models

# As it was made: 24 x 32 pixels in patches of 8.
VALUES = {
    'model_type': 'vit',
    'architectures': ['ViTForImageClassification'],
    'hidden_size': 32,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'intermediate_size': 56,
    'image_size': [24, 32],
    'patch_size': 8,
    'id2label': {str(i): f'LABEL_{i}' for i in range(7)},
}
with np.load(published.ORACLES / 'vit.npz') as arrays:
    ALL = dict(arrays)


def below(prefix):
    return {name.removeprefix(prefix): array for name, array in ALL.items() if name.startswith(prefix)}


def hub(name):
    """The name that files on the hub have for a tensor of the module."""
    if '.layers.' not in name:
        return name
    for ours, its in reversed(vit.SPELLINGS):
        name = name.replace(its, ours, 1)
    return name


RECORDED = {'in': below('in/'), 'out64': below('out64/'), 'tolerance': {'float64': 2.1e-9, 'float32': 4.2e-5}}


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    tensors = {hub(name): array.astype(np.float32) for name, array in below('weights/').items()}
    return published.write(tmp_path_factory.mktemp('vit'), tensors, VALUES)


def test_outputs_and_gradients_in_float64(directory):
    found, gradients = huggingface.load_pretrained(directory, dtype='float64').gradients(RECORDED['in'])
    check_outputs(found, RECORDED)
    wanted = {hub(name): array for name, array in below('gradients/').items()}
    assert gradients.keys() == wanted.keys()
    for key, gradient in wanted.items():
        error = np.abs(gradients[key] - gradient).max()
        blind = key.endswith((*BLIND, 'attention.key.bias'))
        assert error <= (1e-6 if blind else 3e-5 * np.abs(gradient).max()), key


@pytest.mark.slow
def test_the_certificate_agrees_and_names_the_first_output_of_another_model(directory, tmp_path):
    arrays = {f'{part}/{name}': array for part in ('in', 'out64') for name, array in RECORDED[part].items()}
    np.savez(tmp_path / 'io.npz', **arrays, **{'tolerance/float32': 4.2e-5})
    found = certifying.certify(directory, tmp_path / 'io.npz')
    assert found.first is None
    assert {row.name for row in found.rows} == RECORDED['out64'].keys()
    other = published.write(tmp_path / 'other', published.tensors(directory), VALUES | {'layer_norm_eps': 1e-5})
    assert certifying.certify(other, tmp_path / 'io.npz').first == 'hidden_states/1'


@pytest.mark.slow
def test_names_of_the_module_give_the_same_parameters_and_a_converted_run_gives_the_same_files(directory, tmp_path):
    tensors = {name: array.astype(np.float32) for name, array in below('weights/').items()}
    module = published.write(tmp_path / 'module', tensors, VALUES)
    left, right = (huggingface.load_pretrained(path).params for path in (directory, module))
    np.testing.assert_array_equal(left['blocks']['layers']['ffn']['up'], right['blocks']['layers']['ffn']['up'])
    verbs.convert(module, tmp_path / 'run')
    verbs.convert(tmp_path / 'run', tmp_path / 'again')
    assert published.same(published.tensors(tmp_path / 'again'), tensors)
    assert json.loads((tmp_path / 'again' / 'config.json').read_text()) == VALUES
    trained = verbs.open_run(tmp_path / 'run').restore()
    images = RECORDED['in']['pixel_values'].transpose(0, 2, 3, 1)
    logits = trained.experiment.model.build().apply({'params': trained.params}, {'image': images})['logits']
    np.testing.assert_allclose(logits, RECORDED['out64']['logits'], rtol=0, atol=4.2e-5)


def test_a_model_of_ours_has_a_config_and_one_of_another_kind_is_refused():
    family = vit.ViT()
    small = models.vit(
        patch=4, width=16, layers=1, heads=2, image=12, classes=5, **{'block.residual.norm.epsilon': 1e-5}
    )
    assert config.difference(family.describe(family.config_of(small), 'config.json'), small) == []
    with pytest.raises(config.InputError, match='is another model'):
        family.config_of(config.vary(small, {'positions.length': 12}))
    with pytest.raises(config.InputError, match='is another model'):
        family.config_of(config.vary(small, {'head': 8}))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'num_channels': 1}, 'num_channels=1 changes the computation'),
        ({'qkv_bias': False}, 'qkv_bias=False changes the computation'),
        ({'image_size': [8]}, r'image_size=\[8\] should be'),
        ({'image_size': 4}, 'smaller than patch_size'),
        ({'id2label': 3}, 'id2label=3'),
        ({'num_labels': 5}, 'contradict each other'),
        ({'window_size': 7}, 'window_size=7 is not known'),
        ({'architectures': ['ViTModel']}, 'ViTModel'),
    ],
)
def test_what_is_not_implemented_is_refused(changes, message):
    with pytest.raises(config.InputError, match=message):
        vit.ViT().describe(VALUES | changes, 'config.json')


@pytest.mark.parametrize(
    ('inputs', 'message'),
    [
        ({'pixel_values': np.zeros((1, 1, 24, 32), np.float32)}, r'floats \[images, 3, height'),
        ({'pixel_values': np.zeros((1, 3, 24, 24), np.float32)}, r'model\.positions\.length=13'),
        ({'input_ids': np.zeros((1, 3), np.int32)}, "no input 'input_ids'"),
        ({'pixel_values': np.zeros((1, 3, 24, 32), np.float32), 'labels': np.array([7])}, 'from 0 to 6'),
    ],
)
def test_inputs_that_do_not_fit_are_refused(directory, inputs, message):
    with pytest.raises(config.InputError, match=message):
        huggingface.load_pretrained(directory).apply(inputs)
