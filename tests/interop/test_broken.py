"""Broken weights, and configs that ask for what is not implemented: each one clear InputError, never a wrong model."""

import json
import struct

import numpy as np
import pytest
from interop import published

from bigmodel_jax import __main__, config
from bigmodel_jax.interop import certifying, huggingface
from bigmodel_jax.interop.files import folder, tensor_file


def load(directory):
    return huggingface.load_pretrained(directory)


def changed(case, directory, change):
    tensors = published.tensors(published.ORACLES / case)
    change(tensors)
    return published.write(directory, tensors, published.values(case))


# ---- tensors ------------------------------------------------------------------------------------------------------


def lose(tensors):
    del tensors['transformer.h.1.ln_2.bias']


def add(tensors):
    tensors['transformer.h.1.attn.rotary.weight'] = np.zeros(3, np.float32)


def reshape(tensors):
    tensors['transformer.wpe.weight'] = tensors['transformer.wpe.weight'][:20]


def untie(tensors):
    tensors['lm_head.weight'] = tensors['transformer.wte.weight'] + 1


def mix(tensors):
    tensors['transformer.h.1.ln_2.bias'] = tensors['transformer.h.1.ln_2.bias'].astype(np.float16)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lose, r'transformer\.h\.1\.ln_2\.bias: missing'),
        (add, r'transformer\.h\.1\.attn\.rotary\.weight: nothing of the model'),
        (reshape, r'transformer\.wpe\.weight: \[20, 32\] instead of the \[24, 32\]'),
        (untie, r'lm_head\.weight is not transformer\.wte\.weight, to which it is tied'),
        (mix, r'ln_2\.bias .* are of float16, float32'),
    ],
)
def test_tensors(change, message, tmp_path):
    with pytest.raises(config.InputError, match=message):
        load(changed('gpt2', tmp_path / 'hub', change))


def test_a_table_that_is_not_the_formula(tmp_path):
    def shift(tensors):
        tensors['model.encoder.embed_positions.weight'] = tensors['model.encoder.embed_positions.weight'] + 1e-4

    with pytest.raises(config.InputError, match='is not the fixed table'):
        load(changed('marian_vaswani', tmp_path / 'hub', shift))


# ---- files --------------------------------------------------------------------------------------------------------


def file_of(header, data=b''):
    text = json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + data


def entry(dtype='F32', shape=(2,), offsets=(0, 8)):
    return {'dtype': dtype, 'shape': list(shape), 'data_offsets': list(offsets)}


GOOD = file_of({'a': entry()}, b'\0' * 8)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'not a whole safetensors file'),
        (GOOD[:30], 'not a whole safetensors file'),
        (GOOD[:-1], 'truncated: .* bytes instead of'),
        (GOOD + b'0', 'longer than its header says'),
        # A header that claims to be larger than any memory is not read.
        (struct.pack('<Q', 2**63) + b'{}', 'its header has 9,223,372,036,854,775,808'),
        (struct.pack('<Q', 2) + b'{[', 'its header is damaged'),
        (struct.pack('<Q', 2) + b'[]', 'its header is damaged'),
        (struct.pack('<Q', 20_000) + b'[' * 20_000, 'its header is damaged'),
        (file_of({'a': {'dtype': 'F32'}}), 'its header is damaged'),
        (file_of({'a': entry(dtype='F8_E4M3')}, b'\0' * 8), 'F8_E4M3, which is not supported; .* not damaged'),
        (file_of({'a': entry(shape=(2**40, 2**40))}, b'\0' * 8), 'its header is damaged'),
        (file_of({'a': entry(shape=(-2,))}, b'\0' * 8), 'its header is damaged'),
        (file_of({'a': entry(offsets=(8, 16))}, b'\0' * 8), 'a begins at byte'),
        (file_of({'a': entry(), 'b': entry()}, b'\0' * 8), 'b begins at byte'),
    ],
)
def test_a_damaged_file(content, message, tmp_path):
    path = tmp_path / 'model.safetensors'
    path.write_bytes(content)
    with pytest.raises(config.InputError, match=message):
        tensor_file.TensorFile(path)


def test_empty_tensors_are_tensors(tmp_path):
    path = tmp_path / 'model.safetensors'
    path.write_bytes(file_of({'a': entry(shape=(0, 3), offsets=(0, 0)), 'b': entry()}, b'\0' * 8))
    opened = tensor_file.TensorFile(path)
    assert [opened.read(name).shape for name in 'ab'] == [(0, 3), (2,)]


@pytest.mark.parametrize('name', ['../secret.safetensors', '/etc/x.safetensors', 'a/b.safetensors', 'model.bin', '..'])
def test_the_index_points_beside_itself(name, tmp_path):
    (tmp_path / 'secret.safetensors').write_bytes(GOOD)
    directory = tmp_path / 'hub'
    directory.mkdir()
    (directory / folder.CONFIG).write_text(json.dumps(published.values('gpt2')))
    (directory / folder.INDEX).write_text(json.dumps({'weight_map': {'a': name}}))
    with pytest.raises(config.InputError, match='is not the name of a safetensors file beside it'):
        folder.Folder(directory)


@pytest.mark.parametrize(
    ('weights', 'message'),
    [
        ({'a': 'one.safetensors'}, 'b is not said to be in one'),
        ({'a': 'one.safetensors', 'b': 'one.safetensors', 'c': 'one.safetensors'}, 'c is not in one'),
        ({'a': 'one.safetensors', 'b': 'two.safetensors'}, r'two\.safetensors is missing'),
        (None, 'has no weight_map'),
        ({'a': 3}, 'has no weight_map'),
    ],
)
def test_an_index_that_does_not_fit(weights, message, tmp_path):
    (tmp_path / folder.CONFIG).write_text(json.dumps(published.values('gpt2')))
    (tmp_path / 'one.safetensors').write_bytes(file_of({'a': entry(), 'b': entry(offsets=(8, 16))}, b'\0' * 16))
    (tmp_path / folder.INDEX).write_text(json.dumps({'weight_map': weights}))
    with pytest.raises(config.InputError, match=message):
        folder.Folder(tmp_path)


def test_directories_that_hold_something_else(tmp_path):
    with pytest.raises(config.InputError, match='no such directory'):
        load(tmp_path / 'nowhere')
    with pytest.raises(config.InputError, match=r'config\.json is missing'):
        load(tmp_path)
    (tmp_path / folder.CONFIG).write_text(json.dumps(published.values('gpt2')))
    (tmp_path / 'pytorch_model.bin').write_bytes(b'')
    with pytest.raises(config.InputError, match=r'pytorch_model\.bin is another format'):
        load(tmp_path)
    (tmp_path / folder.CONFIG).write_text('{')
    with pytest.raises(config.InputError, match='is damaged'):
        load(tmp_path)


# ---- config.json --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('case', 'changes', 'message'),
    [
        ('gpt2', {'model_type': 'gptj'}, "model_type='gptj' is not supported; there is bert, clip, detr,"),
        ('gpt2', {'model_type': ['gpt2']}, 'is not supported'),
        ('gpt2', {'scale_attn_by_inverse_layer_idx': True}, 'scale_attn_by_inverse_layer_idx=True changes the computa'),
        ('gpt2', {'activation_function': 'laplace'}, "activation_function='laplace' is not implemented"),
        ('gpt2', {'n_embd': '32'}, "n_embd='32' should be a positive integer"),
        ('gpt2', {'n_layer': None}, 'n_layer=None should be a positive integer'),
        ('gpt2', {'new_trick': 3}, 'new_trick=3 is not known here and may change what the model computes'),
        ('gpt2', {'layer_norm_epsilon': -1}, 'should be a number'),
        ('gpt2', {'n_head': 5}, 'does not divide'),
        ('gpt2', {'quantization_config': {'bits': 4}}, 'quantization_config'),
        ('llama2_mha', {'attention_bias': True}, 'q_proj.bias: missing'),
        ('llama2_mha', {'rope_parameters': {'rope_type': 'dynamic', 'factor': 2.0}}, "rope_type='dynamic' is not impl"),
        (
            'llama2_mha',
            {'rope_parameters': {'rope_type': 'yarn', 'rope_theta': 1e4}},
            "rope_type='yarn' needs a factor",
        ),
        ('llama2_mha', {'rope_parameters': {'rope_type': 'default', 'factor': 2.0}}, r'factor=2\.0 is not known here'),
        ('llama2_mha', {'rope_scaling': {'type': 'llama3'}}, 'contradict each other'),
        ('llama2_mha', {'hidden_size': True}, 'should be a positive integer'),
        ('mixtral', {'num_experts_per_tok': 5}, 'more than'),
        ('t5_v1_1', {'feed_forward_proj': 'gated-tanh'}, "feed_forward_proj='gated-tanh' is not implemented"),
        ('marian_vaswani', {'normalize_before': True}, 'normalize_before=True changes the computation'),
        ('bert_pretraining', {'position_embedding_type': 'relative_key'}, 'position_embedding_type'),
        ('bert_pretraining', {'is_decoder': True}, 'is_decoder=True changes the computation'),
    ],
)
def test_configs(case, changes, message, tmp_path):
    with pytest.raises(config.InputError, match=message):
        load(published.copy(case, tmp_path / 'hub', **changes))


def test_a_field_without_effect_is_taken_in_silence(tmp_path):
    assert load(published.copy('gpt2', tmp_path / 'hub', resid_pdrop=0.3)).notes == []


# ---- inputs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('inputs', 'message'),
    [
        ({}, 'lack input_ids'),
        ({'input_ids': [[1, 97]]}, 'holds 1 to 97; it should be 0 to 96'),
        ({'input_ids': [[1, 2]], 'labels': [[-100, -1]]}, 'labels holds -1 to -1'),
        ({'input_ids': [[1, 2]], 'attention_mask': [[1, 2]]}, 'attention_mask holds 1 to 2; it should be 0 to 1'),
        ({'input_ids': [[1, 2]], 'position_ids': [[0, 24]]}, 'shorter than'),
        ({'input_ids': [[1.5]]}, 'should be of integers'),
        ({'input_ids': np.zeros((1, 25), np.int32)}, 'shorter than'),
        ({'input_ids': [[1]], 'token_type_ids': [[1]]}, "no input 'token_type_ids'"),
    ],
)
def test_inputs(inputs, message):
    with pytest.raises(config.InputError, match=message):
        load(published.ORACLES / 'gpt2').apply(inputs)


def test_a_gradient_needs_labels():
    with pytest.raises(config.InputError, match='pass labels'):
        load(published.ORACLES / 'gpt2').gradients({'input_ids': [[1]]})


# ---- certificates -------------------------------------------------------------------------------------------------


def test_a_wrong_epsilon_shows_and_where(tmp_path):
    directory = published.copy('gpt2', tmp_path / 'hub', layer_norm_epsilon=1e-6)
    found = certifying.certify(directory, published.ORACLES / 'gpt2' / 'io.npz')
    assert found.first == 'hidden_states/1'  # The embedding has no norm.
    assert {row.name for row in found.rows if found.holds(row)} == {'hidden_states/0'}


def run(*arguments):
    return __main__.main(argv=[str(each) for each in arguments])


def test_exit_status_and_missing_outputs(tmp_path, capsys):
    recorded = dict(np.load(published.ORACLES / 'gpt2' / 'io.npz'))
    np.savez(tmp_path / 'good.npz', **{name: value for name, value in recorded.items() if 'hidden' not in name})
    np.savez(tmp_path / 'more.npz', **recorded, **{'out64/attentions/0': np.zeros(3)})
    directory = published.ORACLES / 'gpt2'
    assert run('certify', directory, '--against', tmp_path / 'good.npz') == 0
    assert (
        'not compared: hidden_states/0, hidden_states/1, hidden_states/2, last_hidden_state.' in capsys.readouterr().out
    )
    assert run('certify', directory, '--against', tmp_path / 'more.npz') == 1
    assert 'the model has no such output' in capsys.readouterr().out
    assert run('certify', directory, '--against', directory / folder.CONFIG) == 2
    assert 'cannot be read as an .npz' in capsys.readouterr().err
