"""Published models compute here what they compute in transformers: outputs, every layer, gradients, generation."""

import jax
import numpy as np
import pytest
from interop import published

from bigmodel_jax import verbs
from bigmodel_jax.evaluate.text import decoding
from bigmodel_jax.interop import certifying, huggingface

# Gradients that are zero but for rounding: softmax does not see what is added to all keys alike.
BLIND = ('k_proj.bias', 'self.key.bias')


def some(cases, always):
    """The cases, of which only those of `always` are run by default."""
    return [pytest.param(case, marks=[] if case in always else [pytest.mark.slow]) for case in cases]


def check_outputs(found, recorded):
    mask_BT = recorded['in'].get('attention_mask')
    for name, wanted in recorded['out64'].items():
        difference = np.abs(np.asarray(found[name]) - wanted)
        if mask_BT is not None and difference.shape[:2] == mask_BT.shape:
            difference = difference[mask_BT > 0]  # What stands at padding means nothing.
        assert difference.max() <= recorded['tolerance']['float64'], name


# By default one of a kind; the gradients of gpt2, below, come with its outputs.
ONE_OF_A_KIND = ('llama3_gqa_ropescale', 'mixtral', 't5_v1_0', 'marian_vaswani', 'bert_pretraining')


@pytest.mark.parametrize('case', some(published.CASES, always=ONE_OF_A_KIND))
def test_outputs_in_float64(case):
    recorded = published.recorded(case)
    check_outputs(
        huggingface.load_pretrained(published.ORACLES / case, dtype='float64').apply(recorded['in']), recorded
    )


@pytest.mark.parametrize('case', some(published.CASES, always=['gpt2']))
def test_gradients_in_float64(case):
    recorded = published.recorded(case)
    pretrained = huggingface.load_pretrained(published.ORACLES / case, dtype='float64')
    found, gradients = pretrained.gradients(recorded['in'])
    check_outputs(found, recorded)
    with np.load(published.ORACLES / case / 'gradients.npz') as arrays:
        wanted = dict(arrays)
    assert gradients.keys() - {'final_logits_bias'} == wanted.keys()  # Marian's bias is not trained there.
    for key, gradient in wanted.items():
        if key == 'model.shared.weight':  # Torch keeps the gradient of a lookup from the row of padding.
            gradient, gradients[key] = gradient[1:], gradients[key][1:]
        # The reference's are of float32, and so off by 1e-5 of the largest in the deepest layers.
        error = np.abs(gradients[key] - gradient).max()
        assert error <= (1e-6 if key.endswith(BLIND) else 3e-5 * np.abs(gradient).max()), key


@pytest.mark.parametrize('case', some(published.CASES, always=['gpt2']))
def test_certificate_in_float32(case):
    found = certifying.certify(published.ORACLES / case, published.ORACLES / case / 'io.npz')
    assert found.first is None
    assert {row.name for row in found.rows} == published.recorded(case)['out64'].keys()
    assert found.tolerance == published.recorded(case)['tolerance']['float32']


@pytest.mark.parametrize('case', some(published.DECODERS, always=[]))
def test_a_converted_run_writes_what_the_reference_writes(case, tmp_path):
    verbs.convert(published.ORACLES / case, tmp_path / 'run')
    trained = verbs.open_run(tmp_path / 'run').restore()
    prompts_BT = published.recorded(case)['in']['input_ids']
    wanted = published.recorded(case)['generated']['']
    texts = decoding.decode(
        trained.experiment.model,
        trained.params,
        list(prompts_BT),
        tokens=8,
        decoding=decoding.Greedy(),
        end=0,  # None of the tokens that it chooses.
    )
    written_BT = np.array([[*prompt, *text[0].tokens] for prompt, text in zip(prompts_BT, texts)])
    np.testing.assert_array_equal(written_BT, wanted)


def test_what_stands_at_padding_changes_nothing():
    pretrained = huggingface.load_pretrained(published.ORACLES / 'gpt2')
    ids_BT = published.recorded('gpt2')['in']['input_ids']
    mask_BT = np.ones_like(ids_BT)
    mask_BT[:, 6:] = 0
    one, other = (
        pretrained.apply({'input_ids': np.where(mask_BT, ids_BT, padding), 'attention_mask': mask_BT})['logits']
        for padding in (0, 5)
    )
    np.testing.assert_array_equal(one[:, :6], other[:, :6])
    assert np.abs(one[:, 6:] - other[:, 6:]).max() > 1e-3


def test_float64_stays_where_it_was_asked_for():
    huggingface.load_pretrained(published.ORACLES / 'gpt2', dtype='float64')
    assert not jax.config.jax_enable_x64
    assert jax.numpy.ones(2).dtype == np.float32
