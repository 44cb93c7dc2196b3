"""A run that begins with a Hugging Face directory: its weights, its tokenizer, and the way back."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data import pretrained
from interop import published

from bigmodel_jax import config, experiment_file, verbs
from bigmodel_jax.checkpoints import checkpoints
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.data.text.pretrained import pretrained_tokenizer
from bigmodel_jax.evaluate.text import decoding
from bigmodel_jax.interop import converted, finetuning, huggingface
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import state

FILE = pathlib.Path(__file__).parents[2] / 'experiments' / 'first_week' / 'finetune_huggingface.py'
VOCAB = 300
SMALL = {
    'steps': 4,
    'optimizer.schedule.warmup_steps': 2,
    'evaluations.0.every_steps': 4,
    **{
        f'{part}.{name}': size
        for part in ('data', 'evaluations.0.data')
        for name, size in (('batch', 2), ('length', 16))
    },
}


def directory_of(path, case='gpt2', table='transformer.wte.weight', bos=None, **changes):
    """A small model with a tokenizer of its own: of byte-level BPE, with 291 tokens."""
    tensors = published.tensors(published.ORACLES / case)
    rows = np.random.default_rng(0).normal(size=(VOCAB, tensors[table].shape[1])).astype(np.float32)
    for key in {table, 'lm_head.weight'} & tensors.keys():
        tensors[key] = rows
    published.write(path, tensors, published.values(case) | {'vocab_size': VOCAB} | changes)
    pretrained.gpt2(path)
    return path


@pytest.fixture(scope='module')
def hub(tmp_path_factory):
    return directory_of(tmp_path_factory.mktemp('hub') / 'model', bos_token_id=290, eos_token_id=290)


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp('page') / 'my.txt'
    path.write_text('\n'.join(pretrained.PAGE))
    return path


def experiment(hub, page, **changes):
    loaded = experiment_file.load(f'{FILE}', arguments=[f'directory={hub}', f'path={page}'])
    return config.vary(loaded, {**SMALL, 'mesh': sharding.MeshShape(data=1), **changes})


@pytest.fixture(scope='module')
def tuned(hub, page, tmp_path_factory):
    """A run whose Hugging Face directory is gone."""
    workdir, gone = tmp_path_factory.mktemp('tuned'), hub.parent / 'gone'
    shutil.copytree(hub, gone)
    verbs.train(experiment(gone, page), workdir)
    shutil.rmtree(gone)
    return workdir


def wanted_of(model, mesh):
    run = experiment_like(model, mesh)
    place = run.mesh.build()
    with sharding.use(place):
        spec = state.specify(run, place)
    places = checkpoints.flatten(spec.shardings.params)
    return {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=places[name])
        for name, leaf in checkpoints.flatten(spec.abstract.params).items()
    }


def experiment_like(model, mesh):
    return config.vary(converted.experiment('model', model), {'mesh': mesh, 'data.batch': 2})


SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in ('gpt2', 'bert_pretraining', 't5_v1_0')]


@pytest.mark.parametrize('case', ['mixtral', *SLOW])
def test_a_start_reads_the_weights_that_the_files_hold_on_any_mesh(case):
    path = str(published.ORACLES / case)
    expected = checkpoints.flatten(huggingface.load_pretrained(path).params)
    for mesh in (sharding.MeshShape(data=1), sharding.MeshShape(data=1, fsdp=2)):
        found = finetuning.Weights(path=path).read(wanted_of(finetuning.model(path), mesh))
        assert found.arrays.keys() == expected.keys()
        for name, array in found.arrays.items():
            np.testing.assert_array_equal(array, expected[name])


def test_a_run_records_that_it_began_with_them(tuned):
    start = verbs.open_run(tuned).environment[0]['start']
    assert (start['by_chance'], start['config']['n_embd']) == ([], 32)


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit(tuned, hub, page, tmp_path):
    verbs.train(experiment(hub, page), tmp_path, stop_after=2)
    verbs.train(experiment(hub, page), tmp_path)
    assert verbs.open_run(tmp_path).digest == verbs.open_run(tuned).digest


def test_a_run_is_sampled_and_evaluated_without_the_directory(tuned):
    trained = verbs.open_run(tuned).restore()
    (written,) = trained.sample(['The quick'], tokens=4, how=decoding.Greedy(), seed=0)
    assert isinstance(written.text, str)
    assert trained.tokenizer.decode(trained.tokenizer.encode('Größe')) == 'Größe'


def test_a_run_goes_back_with_its_tokenizer_and_its_special_tokens(tuned, tmp_path):
    verbs.convert(tuned, tmp_path / 'back')
    again = huggingface.load_pretrained(tmp_path / 'back')
    expected = checkpoints.flatten(verbs.open_run(tuned).restore().params)
    for name, array in checkpoints.flatten(again.params).items():
        np.testing.assert_array_equal(array, expected[name])
    tokenizer = pretrained_tokenizer.Pretrained(path=str(tmp_path / 'back')).build()
    assert tokenizer.fingerprint == tokenizers.load(tuned / tokenizers.FOLDER).fingerprint
    values = json.loads((tmp_path / 'back' / 'config.json').read_text())
    assert (values['bos_token_id'], values['eos_token_id'], values['dtype']) == (290, 290, 'float32')


def test_another_tokenizer_than_that_of_the_weights_is_refused(hub, page, tmp_path):
    other = experiment(hub, page, **{'data.tokenizer': tokenizers.Bytes(), 'evaluations': ()})
    with pytest.raises(config.InputError, match=r'belong to the token ids of its own tokenizer, tokenizer\.json'):
        verbs.train(other, tmp_path)


def test_a_model_of_other_sizes_is_refused(hub, page, tmp_path):
    with pytest.raises(config.InputError, match='has parameters of other shapes'):
        verbs.train(experiment(hub, page, **{'model.block.ffn.hidden': 64}), tmp_path)


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(config.InputError, match='no such directory'):
        finetuning.model(tmp_path / 'nowhere')


def test_a_converted_directory_is_sampled_with_its_tokenizer(hub, tmp_path):
    verbs.convert(hub, tmp_path / 'run')
    trained = verbs.open_run(tmp_path / 'run').restore()
    (written,) = trained.sample(['The quick'], tokens=4, how=decoding.Greedy(), seed=0)
    prompt = trained.tokenizer.encode_prompt('The quick')
    logits = huggingface.load_pretrained(hub).apply({'input_ids': prompt[None]})['logits'][0, -1]
    assert written.text.startswith(trained.tokenizer.decode([int(jnp.argmax(logits))]))
