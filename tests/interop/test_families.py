"""Every family of decoders computes here what it computes in transformers 5.24.0, in both directions; see
reference_models.py."""

import functools
import json

import numpy as np
import pytest
from interop import hashed, published

from bigmodel_jax import config, verbs
from bigmodel_jax.evaluate.text import decoding
from bigmodel_jax.interop import huggingface, matching

CASES = (
    'llama_biased_linear', 'llama_tied_llama3', 'mistral_windowed', 'mistral_whole', 'qwen2', 'qwen2_windowed',
    'qwen3', 'qwen3_biased', 'gemma', 'gemma2', 'gemma3', 'phi3', 'llama_yarn', 'qwen2_yarn', 'phi3_longrope',
)  # fmt: skip
PAIRED = ('marian_unequal',)
LONG = ('phi3_longrope_beyond',)  # Which no cache holds.
HEADS = (
    'bert_sequence', 'bert_several', 'bert_regression', 'bert_tokens', 'bert_answers', 'llama_sequence', 'gpt2_number',
    'gemma3_several',
)  # fmt: skip
# By default the one that has the most of what is new; the others are slow only because each is compiled.
ALWAYS = ('gemma3',)


def some(cases, always=ALWAYS):
    return [pytest.param(case, marks=[] if case in always else [pytest.mark.slow]) for case in cases]


@functools.cache
def recorded(case):
    """The arrays of a case by their prefix, as published.recorded() has them, and its config and shapes."""
    found = {'in': {}, 'out64': {}, 'tolerance': {}}
    with np.load(published.ORACLES / 'families.npz') as arrays:
        of_case = {name.removeprefix(f'{case}/'): arrays[name] for name in arrays if name.startswith(f'{case}/')}
    for name, array in of_case.items():
        kind, _, inner = name.partition('/')
        found |= {kind: found[kind] | {inner: array} if inner else array}
    return found | json.loads(found['meta'].tobytes())


@pytest.fixture
def directory(case, tmp_path):
    """A directory of the case, as transformers would write it."""
    return written(case, tmp_path / 'hub')


def written(case, path):
    known = recorded(case)
    return published.write(path, hashed.weights(known['shapes']), known['config'])


def check_logits(found, known, dtype):
    mask_BT = known['in'].get('attention_mask')
    for name, wanted in known['out64'].items():
        difference = np.abs(np.asarray(found[name], np.float64) - wanted)
        if mask_BT is not None and difference.shape[:2] == mask_BT.shape:
            difference = difference[mask_BT > 0]
        assert difference.max() <= known['tolerance'][dtype], name


@pytest.mark.parametrize('case', some((*CASES, *LONG, *PAIRED, *HEADS)))
def test_outputs_and_gradients_in_float64(case, directory):
    known = recorded(case)
    found, gradients = huggingface.load_pretrained(directory, dtype='float64').gradients(known['in'])
    check_logits(found, known, 'float64')
    assert gradients.keys() == known['shapes'].keys()
    for key, wanted in zip(known['shapes'], known['gradients']):
        if np.isnan(wanted).all():  # It is not trained there.
            continue
        # Both sums are of numbers of either sign: off by rounding of the sum of their sizes.
        np.testing.assert_allclose(
            hashed.probe(key, gradients[key]), wanted, rtol=1e-9, atol=1e-9 * max(wanted[1], 1e-3), err_msg=key
        )


@pytest.mark.slow
@pytest.mark.parametrize('case', [*CASES, *LONG, *PAIRED, *HEADS])
def test_outputs_in_float32(case, directory):
    known = recorded(case)
    check_logits(huggingface.load_pretrained(directory).apply(known['in']), known, 'float32')


@pytest.mark.parametrize('case', [*CASES, *LONG, *PAIRED, *HEADS])
def test_every_tensor_and_the_config_come_back(case, directory):
    opened, found = published.matched(directory)
    tree = matching.nested(matching.parameters(found, opened))
    assert published.same(dict(matching.file_tensors(tree, found.tensors)), published.tensors(directory))
    values = found.family.config_of(found.model)
    assert config.difference(found.family.describe(values, 'config.json'), found.model) == []


@pytest.mark.parametrize('case', some(HEADS, always=('bert_tokens',)))
def test_a_head_goes_through_a_run(case, directory, tmp_path):
    """Converted there and back it is byte for byte the same, and the run computes what the reference does."""
    verbs.convert(directory, tmp_path / 'run')
    verbs.convert(tmp_path / 'run', tmp_path / 'back')
    assert published.same(published.tensors(tmp_path / 'back'), published.tensors(directory))
    known, trained = recorded(case), verbs.open_run(tmp_path / 'run').restore()
    batch = {'inputs': known['in']['input_ids'], 'segments': known['in']['attention_mask']}
    found = trained.experiment.model.build().apply({'params': trained.params}, batch)
    names = {'values': 'logits'}
    for name, array in found.items():
        wanted = known['out64'][names.get(name, name)]
        difference = np.abs(np.asarray(array).reshape(wanted.shape) - wanted)
        difference = (
            difference[batch['segments'] > 0] if difference.shape[:2] == batch['segments'].shape else difference
        )
        assert difference.max() <= known['tolerance']['float32'], name


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES)
def test_a_converted_run_writes_what_the_reference_writes(case, directory, tmp_path):
    verbs.convert(directory, tmp_path / 'run')
    verbs.convert(tmp_path / 'run', tmp_path / 'back')
    assert published.same(published.tensors(tmp_path / 'back'), published.tensors(directory))
    trained = verbs.open_run(tmp_path / 'run').restore()
    prompts_BT, wanted = recorded(case)['in']['input_ids'], recorded(case)['generated']
    new = wanted.shape[1] - prompts_BT.shape[1]
    texts = decoding.decode(
        trained.experiment.model, trained.params, list(prompts_BT), tokens=new, decoding=decoding.Greedy(), end=0
    )
    for row, (prompt, text) in enumerate(zip(prompts_BT, texts)):
        np.testing.assert_array_equal([*prompt, *text[0].tokens], wanted[row][: len(prompt) + len(text[0].tokens)])
