"""A CLIP of transformers 5.23.0 computes here what it computes there; only inputs and outputs are recorded."""

import json

import numpy as np
import pytest
from interop import published
from interop.test_oracles import BLIND, check_outputs

from bigmodel_jax import config, verbs
from bigmodel_jax.interop import certifying, huggingface
from bigmodel_jax.interop.families.multimodal import clip
from bigmodel_jax.models.multimodal import clip as models

# As it was made.
TEXT = {
    'vocab_size': 97,
    'hidden_size': 24,
    'intermediate_size': 40,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'max_position_embeddings': 12,
    'eos_token_id': 96,
}
VISION = {
    'hidden_size': 32,
    'intermediate_size': 56,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'image_size': 24,
    'patch_size': 8,
}
VALUES = {
    'model_type': 'clip',
    'architectures': ['CLIPModel'],
    'projection_dim': 16,
    'text_config': TEXT,
    'vision_config': VISION,
}
with np.load(published.ORACLES / 'clip.npz') as arrays:
    ALL = dict(arrays)


def below(prefix):
    return {name.removeprefix(prefix): array for name, array in ALL.items() if name.startswith(prefix)}


INPUTS, OUT64 = below('in/'), below('out64/')
# The loss is that of the first two captions and the two images.
PAIRS = {**{name: array[:2] for name, array in INPUTS.items()}, 'return_loss': np.array(True)}
# A wrong epsilon changes outputs by 1.4e-4.
TOLERANCE = {'float64': 1e-9, 'float32': 1e-5}


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    tensors = {name: array.astype(np.float32) for name, array in below('weights/').items()}
    return published.write(tmp_path_factory.mktemp('clip'), tensors, VALUES)


def test_outputs_and_gradients_in_float64(directory):
    found, gradients = huggingface.load_pretrained(directory, dtype='float64').gradients(PAIRS)
    # Rows do not see one another, so that what is recorded for a third caption tells nothing of the others.
    outputs = {name: value if name == 'loss' else value[:2] for name, value in OUT64.items()}
    check_outputs(found, {'in': PAIRS, 'out64': outputs, 'tolerance': TOLERANCE})
    wanted = below('gradients/')
    assert gradients.keys() == wanted.keys()
    for key, gradient in wanted.items():
        error = np.abs(gradients[key] - gradient).max()
        assert error <= (1e-6 if key.endswith(BLIND) else 3e-5 * np.abs(gradient).max()), key


@pytest.mark.slow
def test_the_certificate_in_float32_agrees_and_tells_another_activation(directory, tmp_path):
    arrays = {f'in/{name}': array for name, array in INPUTS.items()}
    arrays |= {f'out64/{name}': array for name, array in OUT64.items() if name != 'loss'}
    np.savez(tmp_path / 'io.npz', **arrays, **{'tolerance/float32': TOLERANCE['float32']})
    assert certifying.certify(directory, tmp_path / 'io.npz').first is None
    other = {**VALUES, 'vision_config': VISION | {'hidden_act': 'gelu'}}
    wrong = published.write(tmp_path / 'other', published.tensors(directory), other)
    assert certifying.certify(wrong, tmp_path / 'io.npz').first is not None


@pytest.mark.slow
def test_a_converted_run_gives_the_same_files(directory, tmp_path):
    verbs.convert(directory, tmp_path / 'run')
    verbs.convert(tmp_path / 'run', tmp_path / 'back')
    before, after = (published.tensors(path) for path in (directory, tmp_path / 'back'))
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        np.testing.assert_array_equal(tensor, after[key])
    written = json.loads((tmp_path / 'back' / 'config.json').read_text())
    assert TEXT.items() <= written['text_config'].items()
    assert VISION.items() <= written['vision_config'].items()


@pytest.mark.parametrize('model', [models.CLIP_B32, models.CLIP_L14_336], ids=['B32', 'L14-336'])
def test_a_published_size_is_what_its_config_says(model):
    known = clip.ClipFamily()
    assert known.describe(known.config_of(model), 'config.json') == config.vary(
        model, {'vision.positions.init': known.describe(known.config_of(model), '').vision.positions.init}
    )


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'text_config': TEXT | {'eos_token_id': 5}}, 'eos_token_id=5 is not the last of the 97 tokens'),
        ({'text_config': TEXT | {'hidden_act': 'tanh'}}, "hidden_act='tanh' is not implemented"),
        ({'text_config_dict': {'hidden_size': 25}}, 'contradict each other'),
        ({'vision_config': VISION | {'num_channels': 1}}, 'num_channels=1 changes the computation'),
        ({'vision_config': VISION | {'window': 3}}, 'window=3'),
        ({'architectures': ['CLIPTextModel']}, 'CLIPTextModel'),
    ],
)
def test_what_is_not_implemented_is_refused(changes, said):
    with pytest.raises(config.InputError, match=said):
        clip.ClipFamily().describe(VALUES | changes, 'config.json')


def test_captions_that_are_not_as_many_as_the_images_have_no_loss(directory):
    with pytest.raises(config.InputError, match='as many captions as images'):
        huggingface.load_pretrained(directory).apply(INPUTS | {'return_loss': np.array(True)})
