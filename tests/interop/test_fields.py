"""Every field of every configuration class of the reference is used, without effect, or refused by name."""

import importlib.util
import json

import pytest
from interop import published, reference_configs

from bigmodel_jax import config
from bigmodel_jax.interop import fields, huggingface
from bigmodel_jax.interop.files import folder

RECORDED = json.loads((published.ORACLES / 'reference_configs.json').read_text())
# Of transformers; torchvision and the released DiT have no files of configurations, and diffusers others.
FAMILIES = {
    family.model_types[0]: family
    for family in reversed(huggingface.FAMILIES)  # Of several the first.
    if not family.model_types[0].startswith(('torchvision', 'DiT')) and family.stem == folder.STEM
}
LLAMA3 = {
    'rope_type': 'llama3',
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 512,
}
YARN = {'rope_type': 'yarn', 'factor': 2.0, 'original_max_position_embeddings': 512}
LONGROPE = {'rope_type': 'longrope', 'short_factor': [1.0] * 48, 'long_factor': [2.0] * 48}
LLAMA3_SCALED = ('llama', 'mistral', 'mixtral', 'qwen2', 'qwen3', 'gemma', 'gemma2')
# A model of each family that is made from little, so that one change shows.
SMALL = {'llama': 'llama2_mha', 't5': 't5_v1_0', 'marian': 'marian_vaswani', 'bert': 'bert_pretraining'}


def describe(name, values):
    return FAMILIES[name].describe({'model_type': name, **values}, 'config.json')


def check_fields(reference):
    for name, recorded in reference['families'].items():
        family = FAMILIES[name]
        known = {*family.config_fields, *family.aliases}
        there = {*recorded['fields'], *recorded['complete'], *recorded['aliases'], *reference['generation']}
        assert there - known == set()
        assert dict(family.aliases) == recorded['aliases']
        defaults = recorded['complete'] | recorded['fields']
        for field, kind in family.config_fields.items():
            if field in defaults and not isinstance(kind, fields.Without):
                ours = kind.default if isinstance(kind, fields.Used) else kind.values[0]
                assert ours == defaults[field] or field in T5_SAYS, (name, field)


# What T5 of transformers 5 writes follows from fields that older files have: its default for each of them is no value.
T5_SAYS = ('dense_act_fn', 'is_gated_act', 'scale_decoder_outputs')


def test_the_tables_hold_every_field_of_the_reference_with_its_default():
    assert RECORDED['families'].keys() == FAMILIES.keys()
    check_fields(RECORDED)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec('transformers') is None, reason='transformers is not installed')
def test_the_tables_hold_every_field_of_the_reference_that_is_installed():
    check_fields(reference_configs.configurations())


@pytest.mark.parametrize('name', FAMILIES)
def test_what_a_file_does_not_say_is_the_default_of_the_reference(name):
    said, unsaid = (describe(name, values) for values in (RECORDED['families'][name]['complete'], {}))
    if name in ('clip', 'detr', 'resnet'):  # Whose heads are in two towers, or nowhere, or named by no width.
        assert said == unsaid
        return
    width = said.block.mixer.width_of_head(said.width)  # Which the reference writes and a model need not.
    assert config.difference(*(config.vary(each, {'block.mixer.head_width': width}) for each in (said, unsaid))) == []


@pytest.mark.parametrize('name', FAMILIES)
def test_every_field_that_is_used_is_read(name):
    family, seen = FAMILIES[name], set()
    rotary = [{'rope_parameters': LLAMA3}] if name in LLAMA3_SCALED else []
    rotary += [{'rope_parameters': LONGROPE}] if name == 'phi3' else []
    if name == 'gemma3_text':
        rotary = [{'rope_parameters': {'full_attention': LLAMA3}}]
    for values in ({}, *rotary):
        complete = {**RECORDED['families'][name]['complete'], **values}
        read = family.read(complete, 'config.json')
        family.model(read)
        seen |= read.seen
    used = {field for field, kind in family.config_fields.items() if isinstance(kind, fields.Used)}
    assert used - seen == set()


@pytest.mark.parametrize(
    ('name', 'changes', 'message'),
    [
        ('llama', {'is_causal': False}, 'is_causal=False changes the computation'),
        ('gpt2', {'is_causal': None}, 'is_causal=None changes the computation'),
        ('t5', {'is_causal': False}, 'is_causal=False changes the computation'),
        ('bert', {'is_causal': True}, 'is_causal=True changes the computation'),
        ('llama', {'sliding_window': 4}, 'sliding_window=4 changes the computation'),
        ('llama', {'per_layer_config': {'0': {'rms_norm_eps': 0.1}}}, 'per_layer_config'),
        ('llama', {'hidden_dim': 8}, 'hidden_dim=8 is not known here'),
        ('llama', {'dtype': 'float32', 'torch_dtype': 'float16'}, 'contradict each other'),
        ('llama', {'dtype': 'float8_e4m3fn'}, "dtype='float8_e4m3fn' is not supported"),
        ('llama', {'rope_theta': 5e5, 'rope_parameters': {'rope_theta': 1e4}}, 'contradict each other'),
        ('llama', {'rope_parameters': {'rope_type': 'default', 'type': 'llama3'}}, 'contradict each other'),
        ('llama', {'rope_theta': 0}, 'rope_theta=0 should be a number, above 0'),
        ('llama', {'head_dim': 7}, 'even width'),
        (
            'llama',
            {'architectures': ['LlamaModel']},
            r'LlamaModel \(architectures\) is not supported; there is LlamaFor',
        ),
        ('mistral', {'architectures': ['MistralForSequenceClassification']}, 'is not supported; there is Mistral'),
        ('gpt2', {'hidden_size': 48}, 'n_embd=32 and hidden_size=48 contradict each other'),
        ('marian', {'num_hidden_layers': 6}, 'contradict each other'),
        ('marian', {'max_position_embeddings': 32_000_000}, 'asks for a table'),
        ('t5', {'dense_act_fn': 'gelu'}, 'contradict each other'),
        ('t5', {'is_gated_act': True}, 'contradict each other'),
        ('t5', {'scale_decoder_outputs': None}, 'scale_decoder_outputs=None should be true or false'),
        ('t5', {'relative_attention_max_distance': 2}, 'more than half'),
        ('llama', {'num_hidden_layers': 2**63}, 'at most 2,147,483,647'),
    ],
)
def test_what_is_not_implemented_or_contradicts_itself_is_refused_by_name(name, changes, message):
    values = published.values(SMALL.get(name, name)) if name != 'mistral' else {}
    if name == 'llama':
        values.pop('rope_parameters', None)
    with pytest.raises(config.InputError, match=message):
        describe(name, values | changes)


@pytest.mark.parametrize(
    ('name', 'changes', 'message'),
    [
        ('qwen2', {'attention_bias': False}, 'attention_bias=False changes the computation'),
        ('qwen2', {'layer_types': ['sliding_attention'] * 2, 'num_hidden_layers': 2}, 'but there is no window'),
        ('qwen3', {'layer_types': ['full_attention']}, 'should be a list of 32 names'),
        ('qwen3', {'layer_types': ['chunked_attention'] * 32}, 'are implemented'),
        ('qwen2', {'max_window_layers': -1}, 'max_window_layers=-1 should be'),
        ('gemma', {'use_bidirectional_attention': True}, 'use_bidirectional_attention=True changes the computation'),
        ('gemma2', {'sliding_window': None}, 'sliding_window=None should be a positive integer'),
        ('gemma3_text', {'attn_logit_softcapping': 50.0}, 'attn_logit_softcapping=50.0 changes the computation'),
        ('gemma3_text', {'rope_parameters': {'rope_type': 'default'}}, 'rope_type=.* is not known here'),
        (
            'gemma3_text',
            {'rope_local_base_freq': 2e4, 'rope_parameters': {'sliding_attention': {'rope_theta': 1e4}}},
            'contradict each other',
        ),
        ('phi3', {'rope_parameters': {'rope_type': 'longrope', 'short_factor': ['1']}}, 'short_factor=.* a list of'),
        ('phi3', {'rope_parameters': LONGROPE | {'long_factor': [1.0]}}, 'scaling.long has 1 numbers'),
        ('phi3', {'rope_parameters': LONGROPE | {'original_max_position_embeddings': 8}}, 'contradict each other'),
        ('phi3', {'rope_parameters': YARN}, "rope_type='yarn' is not implemented"),
        ('qwen2', {'rope_parameters': YARN | {'beta_fast': 1}}, 'beta_fast=1 should be more than beta_slow=1'),
        ('qwen2', {'rope_parameters': YARN | {'beta_middle': 1}}, 'beta_middle=1 is not known'),
        ('gemma', {'rope_parameters': YARN}, "rope_type='yarn' is not implemented"),
        ('phi3', {'partial_rotary_factor': 0.01}, 'gives an even number'),
    ],
)
def test_what_the_younger_families_have_not_is_refused(name, changes, message):
    with pytest.raises(config.InputError, match=message):
        describe(name, changes)


def test_null_is_not_the_same_as_missing():
    windows = [describe('mistral', values).block.mixer.window for values in ({}, {'sliding_window': None})]
    assert windows == [4_096, None]


def test_another_name_of_a_field_is_that_field():
    assert describe('gpt2', {'hidden_size': 48, 'n_head': 4}).width == 48
    assert describe('llama', {'torch_dtype': 'float16'}) == describe('llama', {'dtype': 'float16'})
    old, new = {'rope_theta': 7e4, 'rope_scaling': LLAMA3}, {'rope_parameters': LLAMA3 | {'rope_theta': 7e4}}
    assert describe('llama', old) == describe('llama', new)
