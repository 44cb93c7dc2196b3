"""Converting: Hugging Face to a run and back, byte for byte, a slice at a time, and never over anything."""

import json
import os
import pathlib
import subprocess
import sys
import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest
from etils import epath
from interop import published
from interop.test_tables import base_bert, experts_apart, tied_gpt2

import tiny
from bigmodel_jax import config, verbs
from bigmodel_jax.checkpoints import checkpoints
from bigmodel_jax.interop import conversion, huggingface
from bigmodel_jax.interop.files import folder
from bigmodel_jax.optim import ema
from bigmodel_jax.parallel import sharding
from bigmodel_jax.run_directory import workdir
from bigmodel_jax.train import state as state_lib


def there_and_back(directory, tmp_path, **how):
    into = conversion.convert(directory, tmp_path / 'run')
    back = conversion.convert(tmp_path / 'run', tmp_path / 'back', **how)
    return into, back


@pytest.mark.parametrize(
    ('case', 'changed'),
    [
        ('gpt2', tied_gpt2),
        ('mixtral', experts_apart),
        ('bert_pretraining', base_bert),
        ('marian_vaswani', dict),
        *(pytest.param(case, dict, marks=pytest.mark.slow) for case in published.CASES if case != 'marian_vaswani'),
    ],
)
def test_bytes_come_back(case, changed, tmp_path):
    tensors = changed(published.tensors(published.ORACLES / case))
    directory = published.write(tmp_path / 'hub', tensors, published.values(case))
    _, back = there_and_back(directory, tmp_path, shard_bytes=60_000)
    assert published.same(published.tensors(tmp_path / 'back'), tensors)
    assert folder.Folder(tmp_path / 'back').config == published.values(case)
    assert (tmp_path / 'back' / folder.INDEX).exists()
    assert len(list((tmp_path / 'back').glob('*.safetensors'))) > 1
    assert back.tensors == len(tensors)


@pytest.mark.slow
def test_a_run_in_bfloat16_is_the_model(tmp_path):
    """Dtypes are kept; Run.restore() converts on request, and checks the checksums either way."""
    case = published.ORACLES / 'llama2_mha'
    tensors = {key: tensor.astype(ml_dtypes.bfloat16) for key, tensor in published.tensors(case).items()}
    directory = published.write(tmp_path / 'hub', tensors, published.values('llama2_mha'))
    there_and_back(directory, tmp_path)
    assert published.same(published.tensors(tmp_path / 'back'), tensors)
    params = verbs.open_run(tmp_path / 'run').restore(cast=True).params
    wanted = huggingface.load_pretrained(directory).params
    jax.tree.map(np.testing.assert_array_equal, params, wanted)
    with pytest.raises(config.InputError, match='bfloat16'):
        verbs.open_run(tmp_path / 'run').restore()


@pytest.mark.parametrize('average', [None, ema.Ema()], ids=['trained', 'averaged'])
@pytest.mark.slow
def test_a_model_of_ours_goes_out(average, tmp_path):
    """One that has no Hugging Face in its past, as a run saves it; with the weights that its evaluations use."""
    experiment, path = config.vary(tiny.experiment(), {'ema': average}), epath.Path(tmp_path / 'run')
    workdir.create(path, experiment)
    place = experiment.mesh.build()
    with sharding.use(place), checkpoints.Checkpointer(path, experiment.checkpoints) as saver:
        state = state_lib.specify(experiment, place).init()
        state = state._replace(ema=jax.tree.map(lambda x: x + 1, state.ema))
        saver.save(state, {'step': 3}, {})
        assert saver.finish() is None
    conversion.convert(path, tmp_path / 'hub')
    found = huggingface.load_pretrained(tmp_path / 'hub')
    assert {each.path.rpartition('.')[2] for each in config.difference(found.model, experiment.model)} <= {
        'init', 'out_init', 'stddev', 'dropout', 'scan',
    }  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, found.params, state.averaged_params)


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'kept').write_text('mine')
    with pytest.raises(config.InputError, match='exists already'):
        conversion.convert(published.ORACLES / 'gpt2', tmp_path / 'run')
    assert (tmp_path / 'run' / 'kept').read_text() == 'mine'
    with pytest.raises(config.InputError, match='holds neither'):
        conversion.convert(tmp_path / 'run', tmp_path / 'new')


def test_what_fails_leaves_nothing(tmp_path):
    directory = published.copy('gpt2', tmp_path / 'hub', n_layer=3)
    with pytest.raises(config.InputError, match='has 3 layers, but the tensors in the files are those of 2'):
        conversion.convert(directory, tmp_path / 'run')
    assert [path.name for path in tmp_path.iterdir()] == ['hub']


def test_damage_is_found_on_the_way_out(tmp_path):
    conversion.convert(published.ORACLES / 'gpt2', tmp_path / 'run')
    files = (path for path in (tmp_path / 'run' / 'checkpoints' / '0').rglob('*') if path.parent.name == 'd')
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(config.InputError, match='damaged'):
        conversion.convert(tmp_path / 'run', tmp_path / 'back')


def test_converted_weights_have_no_data(tmp_path):
    conversion.convert(published.ORACLES / 'gpt2', tmp_path / 'run')
    experiment = verbs.open_run(tmp_path / 'run').experiment
    with pytest.raises(config.InputError, match='trained elsewhere'):
        verbs.train(experiment, tmp_path / 'run')


# ---- memory -------------------------------------------------------------------------------------------------------

LAYERS, WIDTH = 12, 256


def deep(directory):
    """A Llama of many layers, and the bytes of its largest tensor and of all; a layer is seven matrices."""
    values = published.values('llama2_mha') | {
        'hidden_size': WIDTH, 'intermediate_size': 3 * WIDTH, 'num_hidden_layers': LAYERS,
    }  # fmt: skip
    family = matching_family(values)
    model = family.describe(values, 'config.json')
    tensors = family.tables(model)[0].tensors(family.sizes(model))
    generator = np.random.default_rng(0)
    contents = {key: generator.random(each.layout.file, np.float32) for key, each in tensors.items()}
    published.write(directory, contents, values)
    return max(tensor.nbytes for tensor in contents.values()), sum(tensor.nbytes for tensor in contents.values())


def matching_family(values):
    return next(each for each in huggingface.FAMILIES if values['model_type'] in each.model_types)


def test_no_more_than_a_few_slices_are_held(tmp_path):
    largest, total = deep(tmp_path / 'hub')
    # Once before: what the libraries keep is no part of the bound.
    there_and_back(published.ORACLES / 'llama2_mha', tmp_path / 'first')
    tracemalloc.start()
    conversion.convert(tmp_path / 'hub', tmp_path / 'run')
    _, there = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    conversion.convert(tmp_path / 'run', tmp_path / 'back', shard_bytes=8 * largest)
    _, back = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # What NumPy and Python hold: a slice, one turned about, pieces of its checksum (1.3 MB), and what other threads of
    # this process make meanwhile (5 MB were seen).
    assert max(there, back) < 3 * largest + 7e6 < total / 4
    assert published.same(published.tensors(tmp_path / 'back'), published.tensors(tmp_path / 'hub'))


PROGRAM = """
import resource, sys
from bigmodel_jax.interop import conversion
conversion.convert(sys.argv[1], sys.argv[2])  # A small one first: what the libraries take is no part of the bound.
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
conversion.convert(sys.argv[3], sys.argv[4])
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


@pytest.mark.slow
def test_the_process_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], 'WIDTH', 1_024)
    largest, total = deep(tmp_path / 'hub')
    small = published.ORACLES / 'llama2_mha'
    for source, destination in (('hub', 'run'), ('run', 'back')):
        first = small if source == 'hub' else tmp_path / 'small-run'
        arguments = [first, tmp_path / f'small-{destination}', tmp_path / source, tmp_path / destination]
        done = subprocess.run(
            [sys.executable, '-c', PROGRAM, *map(str, arguments)],
            cwd=pathlib.Path(__file__).parents[2], env=os.environ | {'JAX_PLATFORMS': 'cpu'},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        grown = json.loads(done.stdout.splitlines()[-1])
        # TensorStore keeps up to 100 MB of OCDBT's nodes, and writes a chunk while the next is made.
        assert grown < 12 * largest + 100e6 < total
