"""Exported models in a process that can import jax, numpy and flatbuffers alone; every family, at several sizes."""

import json
import os
import pathlib
import re
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from interop import published, test_families

from bigmodel_jax import config, verbs
from bigmodel_jax.checkpoints import checkpoints
from bigmodel_jax.evaluate import loss
from bigmodel_jax.export import dimensions, exporting, loader
from bigmodel_jax.interop import conversion
from bigmodel_jax.objectives import objective
from bigmodel_jax.runs import directory

# What a fresh environment of `pip install jax numpy flatbuffers` has.
ALONE = ('jax', 'jaxlib', 'numpy', 'numpy.libs', 'flatbuffers', 'ml_dtypes', 'opt_einsum', 'scipy', 'scipy.libs')


def alone(path: pathlib.Path, program: str) -> str:
    """What a program prints that runs in an exported directory, where nothing is installed but ALONE."""
    installed, site = pathlib.Path(np.__file__).parents[1], path.parent / 'site'
    site.mkdir(exist_ok=True)
    for name in ALONE:
        if (installed / name).exists() and not (site / name).exists():
            (site / name).symlink_to(installed / name)
    command = [sys.executable, '-S', '-c', textwrap.dedent(program)]
    # With the flags of this process, which make the compiler optimise less and so round otherwise.
    environment = {'PYTHONPATH': str(site), 'PATH': os.environ['PATH'], 'XLA_FLAGS': os.environ.get('XLA_FLAGS', '')}
    done = subprocess.run(command, cwd=path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def snippet(path: pathlib.Path) -> str:
    """The Python of a model card."""
    return re.search(r'```python\n(.*?)```', (path / 'README.md').read_text(), re.DOTALL)[1]


def forward_alone(path: pathlib.Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    np.savez(path / 'inputs.npz', **inputs)
    alone(
        path,
        """
        import load, numpy as np
        model = load.load('.')
        found = model.programs['forward'](model.weights, dict(np.load('inputs.npz')))
        np.savez('outputs.npz', **found)
        """,
    )
    return dict(np.load(path / 'outputs.npz'))


def converted(case: str, folder: pathlib.Path, **options) -> tuple[directory.Run, pathlib.Path]:
    source = published.ORACLES / case
    if case in test_families.CASES:
        source = test_families.written(case, folder / 'hub')
    conversion.convert(source, folder / 'run')
    run = directory.open_run(folder / 'run')
    return run, exporting.export(run, folder / 'exported', exporting.ExportOptions(**options)).path


def random_inputs(path: pathlib.Path, *, rows: int, length: int) -> dict[str, np.ndarray]:
    """Inputs of the program forward, as its signature says."""
    rng, sizes = np.random.default_rng(rows + length), {'rows': rows}
    described = json.loads((path / 'signature.json').read_text())['programs']['forward']['inputs']
    found = {}
    for name, each in described.items():
        shape = [sizes.get(size, length) if isinstance(size, str) else size for size in each['shape']]
        integers = each['dtype'] == 'int32'
        found[name] = rng.integers(0, each.get('below', 2), shape) if integers else rng.normal(size=shape)
        found[name] = found[name].astype(each['dtype'])
    return found


def own_forward(run: directory.Run, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    trained = run.restore()
    module, weights = trained.experiment.model.build(), (trained.params, trained.model_state or {})
    return jax.jit(lambda weights, inputs: objective.Apply(module, *weights)(inputs)[0])(weights, inputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    'case',
    [
        *('gpt2', 'llama3_gqa_ropescale', 'mixtral', 'bert_pretraining', 't5_v1_1', 'marian_vaswani'),
        *('gemma2', 'gemma3', 'qwen2', 'qwen3', 'phi3', 'mistral_windowed'),
    ],
)
def test_every_size_gives_the_bits_of_the_run(case, tmp_path):
    run, path = converted(case, tmp_path)
    model = loader.load(path)
    most = model.signature['dimensions']['length']['at_most'] or 24
    for rows, length in ((1, 1), (3, 7), (8, 5), (1, most)):
        inputs = random_inputs(path, rows=rows, length=length)
        found, own = model.programs['forward'](model.weights, inputs), own_forward(run, inputs)
        for name in found:
            np.testing.assert_array_equal(found[name], own[name], err_msg=f'{name} at {rows} x {length}')


@pytest.mark.slow
def test_weights_in_several_files_are_those_of_one(tmp_path):
    run, path = converted('gpt2', tmp_path, shard_bytes=20_000)
    files = sorted(each.name for each in path.glob('weights-*.safetensors'))
    assert len(files) > 2
    assert json.loads((path / 'signature.json').read_text())['weights']['files'] == files
    index = json.loads((path / 'weights.safetensors.index.json').read_text())['weight_map']
    assert sorted(set(index.values())) == files
    found, own = loader.load(path).weights, checkpoints.flatten(run.restore().params)
    assert found.keys() == own.keys() == index.keys()
    for name, each in checkpoints.flatten(verbs.open_export(path).trained.params).items():
        np.testing.assert_array_equal(found[name], own[name])
        np.testing.assert_array_equal(each, own[name])


@pytest.mark.slow
@pytest.mark.parametrize('case', ['gpt2', 'bert_pretraining'])
def test_it_needs_jax_numpy_and_flatbuffers_alone(case, tmp_path):
    run, path = converted(case, tmp_path)
    inputs = random_inputs(path, rows=3, length=9)
    found, own = forward_alone(path, inputs), own_forward(run, inputs)
    assert found.keys() == {name for name, each in own.items()}
    for name in found:
        np.testing.assert_array_equal(found[name], own[name])
    assert alone(path, snippet(path))


@pytest.mark.slow
@pytest.mark.parametrize('study', ['digits', 'breast_cancer'])
def test_probabilities_are_those_of_the_predictor(study, tmp_path):
    """Images with batch statistics, and a table: the rows of the held-out part."""
    from bigmodel_jax import experiment_file

    experiment = experiment_file.load(f'experiments/{study}.py:smoke', ['mesh.data=1'], [])
    verbs.train(experiment, tmp_path / 'run')
    run = verbs.open_run(tmp_path / 'run')
    with pytest.raises(config.InputError, match='does not meet what its experiment requires'):
        exporting.export(run, tmp_path / 'exported')
    path = exporting.export(run, tmp_path / 'exported', exporting.ExportOptions(anyway=True)).path
    assert verbs.open_export(path).missed
    held_out = next(each for each in experiment.evaluations if isinstance(each, loss.Loss)).data.open(0)
    (name,) = (each for each in held_out.fields if each in ('image', 'features'))
    rows = held_out.eval_batch(0)[name][:8]
    records = [{name: row} for row in rows]
    probabilities = forward_alone(path, {name: rows})['probabilities']
    for table, found in zip(run.predictor()(records), probabilities):
        shown = dict(table.rows)
        assert [round(float(each), 6) for each in sorted(found, reverse=True)[: len(shown)]] == list(shown.values())
    own = own_forward(run, {name: rows})['logits']
    np.testing.assert_array_equal(forward_alone(path, {name: rows})['logits'], own)


@pytest.mark.slow
def test_sizes_can_be_fixed_and_weights_stored_in_bfloat16(tmp_path):
    fixed = dimensions.FixedSizes(rows=2, length=8)
    _, path = converted('gpt2', tmp_path, fixed=fixed, dtype='bfloat16')
    model = loader.load(path)
    assert model.signature['weights']['dtypes'] == ['bfloat16']
    inputs = random_inputs(path, rows=2, length=8)
    logits = model.programs['forward'](model.weights, inputs)['logits']
    rounded = jax.tree.map(lambda leaf: leaf.astype('bfloat16').astype('float32'), model.weights)
    whole = exporting.export(directory.open_run(tmp_path / 'run'), tmp_path / 'whole').path
    np.testing.assert_allclose(
        logits, loader.load(whole).programs['forward'](rounded, inputs)['logits'], atol=1e-5
    )  # The same numbers; a matrix product may be ordered otherwise when its weights are cast inside.
    with pytest.raises(ValueError, match='should be'):
        model.programs['forward'](model.weights, random_inputs(path, rows=1, length=8) | {})
