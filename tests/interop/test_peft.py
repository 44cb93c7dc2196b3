"""Adapters of PEFT compute here what they compute there, go in and out byte for byte, and not to another base."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interop import published

from bigmodel_jax import config, verbs
from bigmodel_jax.adapters import lora
from bigmodel_jax.checkpoints import checkpoints
from bigmodel_jax.interop import converted, huggingface, matching
from bigmodel_jax.interop.files import folder
from bigmodel_jax.interop.peft import adapter_files, adapter_tensors, exporting, importing, merging
from bigmodel_jax.train.weights import weight_storage

# GPT-2 with an adapter of c_attn and both c_proj, of rank 4 and alpha 12, as PEFT 0.21 computes and stores it.
BASE = published.ORACLES / 'lora_gpt2_peft'
ADAPTER = BASE / 'adapter'


def modules_of(directory):
    """The linear modules of the model in a directory, and the experiment and the storage of its weights."""
    _, found = published.matched(directory)
    experiment = converted.experiment('base', found.model)
    inputs = weight_storage.of_experiment(experiment).inputs
    return adapter_tensors.modules(found.table, found.sizes, inputs), experiment


def bytes_of(directory):
    return (directory / adapter_files.TENSORS).read_bytes()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The adapter of the oracle with its base, as a run."""
    path = tmp_path_factory.mktemp('peft') / 'run'
    verbs.convert(ADAPTER, path, base=BASE)
    return path


def test_outputs_gradients_and_merged_outputs_in_float64():
    modules, experiment = modules_of(BASE)
    brought = importing.imported(adapter_files.read(ADAPTER), modules)
    recorded = dict(np.load(BASE / 'io.npz'))
    batch = {name: recorded[f'in/{name}'] for name in ('input_ids', 'labels')}
    pretrained = huggingface.load_pretrained(BASE, dtype='float64')
    with huggingface.precision(pretrained.model):
        added = matching.nested({path: jnp.asarray(array, jnp.float64) for path, array in brought.arrays.items()})
        nodes = {f'{path}_lora': matching.at(added, f'{path}_lora') for path in brought.config.targets}
        pretrained.params = lora.attached(pretrained.params, nodes)
        (_, found), tree = pretrained._backward(pretrained.params, {}, pretrained._batch(batch))
    # The tolerance of the oracle, of 1e-9 times the largest logit.
    assert np.abs(np.asarray(found['logits']) - recorded['out64/logits']).max() < 1e-12
    assert abs(float(found['loss']) - recorded['out64/loss']) < 1e-12
    gradients, wanted = jax.device_get(tree), np.load(BASE / 'gradients.npz')
    checked = 0
    for name, module in modules.items():
        if f'base_model.model.{name}.lora_A.weight' not in wanted:
            continue
        nodes = [matching.at(gradients, f'{slot.path}_lora') for slot in module.slots]
        factors = [
            adapter_tensors.AdapterFactors(node['a'][slot.at], node['b'][slot.at])
            for node, slot in zip(nodes, module.slots)
        ]
        # One A serves query, key and value there, whose gradient is the sum of those here.
        total = sum(each.a for each in factors)
        for kind, tensor in zip('AB', module.write([each._replace(a=total) for each in factors], shared=True)):
            there = wanted[f'base_model.model.{name}.lora_{kind}.weight']  # In float32.
            assert np.abs(tensor - there).max() < 2e-5 * np.abs(there).max(), name
            checked += 1
    assert checked == len(wanted.files) == 12
    adapters = weight_storage.of_experiment(config.vary(experiment, {'adapter': brought.config})).adapters
    with huggingface.precision(pretrained.model):
        pretrained.params = lora.merged(pretrained.params, adapters.factorizations)
        logits = np.asarray(pretrained.apply({'input_ids': batch['input_ids']})['logits'])
    assert np.abs(logits - recorded['extra64/merged_logits']).max() < 1e-12


def test_bytes_come_back(run, tmp_path):
    done = verbs.convert(run, tmp_path / 'back')
    assert bytes_of(tmp_path / 'back') == bytes_of(ADAPTER)
    assert done.tensors == 12
    before, after = (json.loads((each / adapter_files.CONFIG).read_text()) for each in (ADAPTER, tmp_path / 'back'))
    assert {name for name in after if after[name] != before[name]} == {'target_modules'}  # Said more exactly.
    verbs.convert(tmp_path / 'back', tmp_path / 'again', base=BASE)  # And it says of which base it is.
    other = published.copy('gpt2', tmp_path / 'gpt2')
    with pytest.raises(config.InputError, match='was trained on other weights'):
        verbs.convert(tmp_path / 'back', tmp_path / 'wrong', base=other)
    assert not (tmp_path / 'wrong').exists()


def test_a_converted_adapter_is_merged_with_a_certificate(run, tmp_path):
    done = verbs.convert(run, tmp_path / 'merged', merge=True)
    assert 'merged = unmerged within float32' in done.notes[-1]
    certificate = json.loads((tmp_path / 'merged' / merging.FILE).read_text())
    assert certificate['holds']
    assert certificate['exact']['logits'] < 1e-12
    recorded = dict(np.load(BASE / 'io.npz'))
    logits = huggingface.load_pretrained(tmp_path / 'merged').apply({'input_ids': recorded['in/input_ids']})['logits']
    assert np.abs(np.asarray(logits) - recorded['extra64/merged_logits']).max() < 2.5e-5  # tolerance of the oracle
    verbs.convert(BASE, tmp_path / 'plain')
    with pytest.raises(config.InputError, match='has no adapter to merge'):
        verbs.convert(tmp_path / 'plain', tmp_path / 'other', merge=True)


def test_a_wrong_merge_has_no_certificate(run):
    opened = verbs.open_run(run)
    params, adapters = opened.restore().params, weight_storage.of_experiment(opened.experiment).adapters
    doubled = {path: {**node, 'scale': 2 * node['scale']} for path, node in lora.nodes(params)}
    wrong = lora.attached(params, {f'{path}_lora': node for path, node in doubled.items()})
    found = merging.certify(
        opened.experiment, params, merging.merged_parameters(wrong, adapters), adapters=adapters, model_state={}
    )
    assert not found.holds
    assert 'DIFFERS' in found.sentence


@pytest.mark.parametrize('case', ['gpt2', 'llama3_gqa_ropescale', 'bert_pretraining'])
@pytest.mark.parametrize('targets', [('*.attention.query', '*.attention.value'), ('*.attention.*', '*.ffn.*')])
def test_adapters_of_ours_come_back_from_the_form_of_peft(case, targets, tmp_path):
    """GPT-2 has one module for query, key and value: it gets one adapter of as many times the rank."""
    modules, experiment = modules_of(published.ORACLES / case)
    how = lora.Lora(rank=2, alpha=3, targets=targets, rank_stabilized=case != 'gpt2')
    adapters = weight_storage.of_experiment(config.vary(experiment, {'adapter': how})).adapters
    arrays = {path: np.array(each) for path, each in checkpoints.flatten(adapters.initial(jax.random.key(0))).items()}
    random = np.random.default_rng(0)
    for path in arrays:
        if path.endswith('.b'):
            arrays[path] = random.standard_normal(arrays[path].shape).astype(np.float32)
    exporting.export(
        tmp_path / 'out', how, modules,
        targets=adapters.factorizations, read=arrays.__getitem__, said={}, digest='0',
    )  # fmt: skip
    back = importing.imported(adapter_files.read(tmp_path / 'out'), modules)
    assert back.config == config.vary(how, {'targets': tuple(sorted(adapters.factorizations))})
    assert published.same(back.arrays, arrays)
    values = json.loads((tmp_path / 'out' / adapter_files.CONFIG).read_text())
    assert bool(values['rank_pattern']) == (case == 'gpt2')


def changed(directory, tmp_path, **values):
    """A copy of an adapter with other fields of adapter_config.json."""
    shutil.copytree(directory, tmp_path / 'adapter')
    path = tmp_path / 'adapter' / adapter_files.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return tmp_path / 'adapter'


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ({'peft_type': 'IA3'}, 'IA3'),
        ({'use_dora': True}, 'use_dora=True is not supported'),
        ({'modules_to_save': ['lm_head']}, 'modules_to_save'),
        ({'init_lora_weights': 'pissa'}, 'changes the weights of the base'),
        ({'r': 8}, 'several ranks'),
        ({'r': 0}, 'above 0'),
        ({'lora_alpha': 'x'}, 'lora_alpha'),
        ({'lora_dropout': 1.0}, 'lora_dropout'),
        ({'alpha_pattern': {'mlp.c_proj': 1}}, 'several ranks or scales'),
        ({'rank_pattern': 3}, 'rank_pattern'),
    ],
)
def test_an_adapter_of_another_form_is_refused(values, message, tmp_path):
    modules, _ = modules_of(BASE)
    with pytest.raises(config.InputError, match=message):
        importing.imported(adapter_files.read(changed(ADAPTER, tmp_path, **values)), modules)


def test_an_adapter_of_another_model_is_refused(tmp_path):
    with pytest.raises(config.InputError, match='belongs to no linear layer of the base model'):
        verbs.convert(ADAPTER, tmp_path / 'run', base=published.ORACLES / 'llama2_mha')
    with pytest.raises(config.InputError, match='--base'):
        verbs.convert(ADAPTER, tmp_path / 'run')
    with pytest.raises(config.InputError, match=r'holds no adapter_config\.json'):
        verbs.convert(BASE, tmp_path / 'run', base=BASE)
    (tmp_path / 'empty').mkdir()
    shutil.copy(ADAPTER / adapter_files.CONFIG, tmp_path / 'empty')
    with pytest.raises(config.InputError, match='is missing'):
        verbs.convert(tmp_path / 'empty', tmp_path / 'run', base=BASE)
    assert sorted(path.name for path in pathlib.Path(tmp_path).iterdir()) == ['empty']
    assert folder.CONFIG not in {path.name for path in ADAPTER.iterdir()}
